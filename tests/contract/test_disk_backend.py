"""The contract of a server's disks, for each backend: looked at with other eyes than those that made them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec
import pytest
from msgspec import structs
from tests.ceph import USER, Ceph
from tests.running import until

from kilonova.cancel import Cancel
from kilonova.config import Config, Libvirt
from kilonova.disk_image import qemu_img
from kilonova.domain.errors import BuildAborted, BuildFailed, StaleEpoch, Unavailable
from kilonova.domain.servers import BuildSpec, Flavor, ImageRef
from kilonova.image.rbd import RbdStore
from kilonova.rbd import Cluster
from kilonova.virt.libvirt import cached, disk
from kilonova.virt.libvirt.disk import rbd
from kilonova.virt.libvirt.disk.base import Backend, FileSource, Name, Source
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.images import ImageCache

GO_ON = Cancel()
MIB, GIB = 1 << 20, 1 << 30
LETTERS = b"\x5a" * 4096
DATA = bytes(MIB) + LETTERS + bytes(2 * MIB - 4096)
"""Of an image: 3 MiB as the guest sees it."""


class Place:
    """A host's disks, and images for them."""

    kind: str
    made_of_image: str

    def __init__(self, kind: str, folder: Path, options: dict[str, str]) -> None:
        self.kind = kind
        self.made_of_image = {"qcow2": "overlay", "raw": "copy", "rbd": "clone"}[kind]
        self.folder = Folder(folder)
        self.folder.make()
        self.cache = ImageCache(self.folder, None)  # type: ignore[arg-type]  # nothing is fetched here
        self.options = {"images_type": kind, **options}
        self.config = Config(libvirt=Libvirt(**self.options))  # type: ignore[arg-type]
        self.backend = self.of_host("h1")

    def of_host(self, name: str) -> Backend:
        return disk.backend(self.config, self.folder, self.cache, name)

    def image(self, disk_format: str = "raw", data: bytes = DATA) -> ImageRef:
        """In the host's cache."""
        image = ImageRef(
            id=str(uuid.uuid4()),
            disk_format=disk_format,
            size=len(data),
            os_hash_value=hashlib.sha512(uuid.uuid4().bytes).hexdigest(),
        )
        path = self.cache.path(image)
        path.write_bytes(data)
        if disk_format == "qcow2":
            raw = path.rename(path.with_suffix(".raw"))
            qemu_img.create_empty(path, size=len(data))
            qemu("convert", "-n", "-f", "raw", "-O", "qcow2", str(raw), str(path))
            raw.unlink()
        return image

    def spec(self, image: ImageRef | None, **flavor: int) -> BuildSpec:
        spec = BuildSpec(
            server_id=str(uuid.uuid4()),
            name="n",
            hostname="n",
            project_id="p",
            user_id="u",
            flavor=Flavor(**{"id": "1", "name": "f", "vcpus": 1, "memory_mb": 64, "root_gb": 1} | flavor),  # type: ignore[arg-type]
            image=image,
        )
        self.folder.instance(spec.server_id).make()
        return spec

    def of(self, spec: BuildSpec, name: Name = Name.SYSTEM) -> Source:
        found = self.backend.find(spec.server_id, name)
        assert found is not None
        return found

    def address(self, source: Source) -> str:
        assert isinstance(source, FileSource)
        return str(source.path)

    def write(self, source: Source, at: int, data: bytes = LETTERS) -> None:
        """As a guest would."""
        self.io(source, f"write -q -P {data[0]} {at} {len(data)}")

    def holds(self, source: Source, at: int, letter: int, length: int = 4096) -> bool:
        return "failed" not in self.io(source, f"read -P {letter} {at} {length}")

    def io(self, source: Source, command: str) -> str:
        read_only = ["-r"] if command.startswith("read") else []
        address = self.address(source)
        return subprocess.check_output(
            ["qemu-io", *read_only, "-f", source.format, "-c", command, address], text=True, timeout=60
        )

    def size(self, source: Source) -> int:
        return int(qemu("info", "-f", source.format, self.address(source)).partition("(")[2].split()[0])


class InCeph(Place):
    """Its images are in the same cluster."""

    def __init__(self, folder: Path, ceph: Ceph) -> None:
        self.ceph = ceph
        self.cluster = Cluster(ceph.conf, USER)
        self.images, self.vms = self.cluster.pool("images"), self.cluster.pool("vms")
        super().__init__("rbd", folder, {"images_rbd_ceph_conf": str(ceph.conf), "rbd_user": USER})

    def image(self, disk_format: str = "raw", data: bytes = DATA) -> ImageRef:
        if disk_format != "raw":
            return super().image(disk_format, data)
        image = ImageRef(id=str(uuid.uuid4()), disk_format="raw", size=len(data))
        store = RbdStore(self.images)
        store.put(image.id, [data], GIB)
        return structs.replace(image, location=store.location(image.id))

    def address(self, source: Source) -> str:
        if isinstance(source, FileSource):
            return super().address(source)
        name, _, snapshot = source.image.partition("@")
        return self.vms.qemu_name(name, snapshot or None)

    def close(self) -> None:
        self.backend.close()
        for pool in (self.vms, self.images):
            for name in pool.names():
                pool.remove(name)
        assert (self.vms.names(), self.vms.trashed(), self.images.trashed()) == (set(), set(), set())
        self.cluster.close()


def qemu(*arguments: str) -> str:
    return subprocess.check_output(["qemu-img", *arguments], text=True, timeout=60)


@pytest.fixture(params=["qcow2", "raw", "rbd"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param != "rbd":
        yield Place(request.param, tmp_path, {})
        return
    made = InCeph(tmp_path, request.getfixturevalue("ceph"))
    yield made
    made.close()


@pytest.fixture
def in_ceph(tmp_path: Path, ceph: Ceph) -> Iterator[InCeph]:
    made = InCeph(tmp_path, ceph)
    yield made
    made.close()


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_the_system_disk_is_of_the_image_and_as_large_as_the_flavor(place: Place, disk_format: str) -> None:
    spec = place.spec(place.image(disk_format), root_gb=2)
    how = place.backend.ensure_system(spec, GO_ON)
    copied = place.kind == "rbd" and disk_format == "qcow2"
    assert how.partition(":")[0] == ("copy" if copied else place.made_of_image)
    source = place.of(spec)
    assert place.size(source) == 2 * GIB
    assert place.holds(source, MIB, 0x5A)
    for at in (0, 2 * MIB, len(DATA), 2 * GIB - MIB):
        assert place.holds(source, at, 0, MIB)


def test_a_disk_that_is_there_is_left_alone(place: Place) -> None:
    spec = place.spec(place.image())
    place.backend.ensure_system(spec, GO_ON)
    place.write(place.of(spec), 0, b"a" * 512)
    assert place.backend.ensure_system(spec, GO_ON) == ""
    assert place.holds(place.of(spec), 0, ord("a"), 512)


def test_two_disks_of_an_image_are_two(place: Place) -> None:
    image = place.image()
    first, second = place.spec(image), place.spec(image)
    for spec in (first, second):
        place.backend.ensure_system(spec, GO_ON)
    place.write(place.of(first), MIB, b"a" * 4096)
    assert place.holds(place.of(second), MIB, 0x5A)


def test_a_flavor_without_disk_takes_the_images_size(place: Place) -> None:
    spec = place.spec(place.image(), root_gb=0)
    place.backend.ensure_system(spec, GO_ON)
    assert place.size(place.of(spec)) == len(DATA)


def test_an_image_larger_than_the_flavor_is_refused_everywhere(place: Place) -> None:
    image = place.image("qcow2")
    path = place.cache.path(image)
    path.unlink()
    qemu_img.create_empty(path, size=GIB + 512)
    spec = place.spec(image)
    with pytest.raises(BuildAborted, match="1 GiB"):
        place.backend.ensure_system(spec, GO_ON)
    assert place.backend.find(spec.server_id, Name.SYSTEM) is None


def test_a_server_without_image_gets_an_empty_disk(place: Place) -> None:
    spec = place.spec(None)
    assert place.backend.ensure_system(spec, GO_ON) == "blank"
    assert place.size(place.of(spec)) == GIB
    assert place.holds(place.of(spec), GIB - MIB, 0, MIB)


def test_an_iso_is_a_cd_of_the_cached_file(place: Place) -> None:
    image = structs.replace(Place.image(place), disk_format="iso")
    spec = place.spec(image)
    assert place.backend.needs_file(image)
    assert place.backend.ensure_system(spec, GO_ON) == ""
    assert place.backend.find(spec.server_id, Name.SYSTEM) is None


def test_a_copy_that_nobody_wants_any_more_ends(place: Place) -> None:
    if place.kind == "qcow2":
        return  # nothing is copied
    spec, cancel = place.spec(place.image("qcow2")), Cancel()
    cancel.set()
    with pytest.raises(StaleEpoch):
        place.backend.ensure_system(spec, cancel)
    assert place.backend.find(spec.server_id, Name.SYSTEM) is None
    place.backend.ensure_system(spec, GO_ON)
    assert place.holds(place.of(spec), MIB, 0x5A)


def test_ephemeral_and_swap_are_formatted(place: Place) -> None:
    spec = place.spec(place.image(), ephemeral_gb=1, swap_mb=64)
    for _ in range(2):
        place.backend.ensure_ephemeral(spec)
        place.backend.ensure_swap(spec)
    ephemeral, swap = place.of(spec, Name.EPHEMERAL), place.of(spec, Name.SWAP)
    assert (place.size(ephemeral), place.size(swap)) == (GIB, 64 * MIB)
    assert "53 ef" in place.io(ephemeral, "read -v 1080 2")  # ext's magic number
    assert "ephemeral0" in place.io(ephemeral, "read -v 1144 10")
    assert "SWAPSPACE2" in place.io(swap, "read -v 4086 10")


def test_none_asked_none_made(place: Place) -> None:
    spec = place.spec(place.image())
    place.backend.ensure_ephemeral(spec)
    place.backend.ensure_swap(spec)
    assert [name for name in Name if place.backend.find(spec.server_id, name)] == []


def test_a_disk_to_rescue_from_is_as_large_as_its_image(place: Place) -> None:
    spec = place.spec(place.image())
    place.backend.ensure_rescue(spec, place.image(), GO_ON)
    source = place.of(spec, Name.RESCUE)
    assert place.size(source) == len(DATA)
    assert place.holds(source, MIB, 0x5A)
    for _ in range(2):
        place.backend.remove(spec.server_id, Name.RESCUE)
    assert place.backend.find(spec.server_id, Name.RESCUE) is None


def test_a_disk_to_rescue_from_is_not_larger_than_is_meant_for_it(place: Place) -> None:
    """However small the file is: a guest may write to all of it."""
    spec, bomb = place.spec(place.image()), place.image("qcow2")
    qemu("resize", "-q", "-f", "qcow2", str(place.cache.path(bomb)), "33G")
    with pytest.raises(BuildAborted, match="32 GiB"):
        place.backend.ensure_rescue(spec, bomb, GO_ON)
    assert place.backend.find(spec.server_id, Name.RESCUE) is None
    larger = place.spec(place.image(), root_gb=33)
    place.backend.ensure_rescue(larger, bomb, GO_ON)
    assert place.size(place.of(larger, Name.RESCUE)) == 33 * GIB


def test_nothing_is_left_of_a_server(place: Place) -> None:
    spec = place.spec(place.image(), ephemeral_gb=1, swap_mb=64)
    place.backend.ensure_system(spec, GO_ON)
    place.backend.ensure_ephemeral(spec)
    place.backend.ensure_swap(spec)
    assert place.backend.server_ids() == {spec.server_id}
    for _ in range(2):
        place.backend.remove_all(spec.server_id)
    assert [name for name in Name if place.backend.find(spec.server_id, name)] == []
    assert place.backend.server_ids() == set()


def test_what_is_killed_between_two_steps_is_made_or_removed_by_the_next(place: Place) -> None:
    """Before each of them once."""
    spec = place.spec(place.image(), swap_mb=64)
    begun = {what: killed(place, what, spec) for what in ("make", "remove")}
    assert all(len(servers) >= 2 for servers in begun.values())
    for server_id in begun["make"]:
        one = structs.replace(spec, server_id=server_id)
        again(partial(place.backend.ensure_system, one, GO_ON))
        again(partial(place.backend.ensure_swap, one))
        assert place.size(place.of(one)) == GIB
        assert place.holds(place.of(one), MIB, 0x5A)
        assert place.size(place.of(one, Name.SWAP)) == 64 * MIB
    for server_id in [*begun["make"], *begun["remove"]]:
        again(partial(place.backend.remove_all, server_id))
        place.folder.remove(server_id)
        assert [name for name in Name if place.backend.find(server_id, name)] == []
    assert place.backend.server_ids() == {spec.server_id}, "whose folder is empty"
    assert list(place.folder.base.glob("*.part")) == []


def killed(place: Place, what: str, spec: BuildSpec) -> list[str]:
    """The servers for which it was begun; that of the last came to its end."""
    asked = {"folder": str(place.folder.root), "options": place.options, "what": what}
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_disks", msgspec.json.encode(asked | {"like": spec}).decode()],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def again(work: Callable[[], object]) -> None:
    """Until Ceph takes who was killed for dead."""

    def done() -> bool:
        try:
            work()
        except Unavailable:
            return False
        return True

    until(done, 60, "what was killed to be done")


def test_a_flattened_disk_needs_nothing_else(place: Place) -> None:
    spec = place.spec(place.image())
    place.backend.ensure_system(spec, GO_ON)
    place.write(place.of(spec), 8 * MIB)
    source = place.of(spec)
    if place.backend.hold(spec.server_id):  # it is of a moment that is over when the guest goes on
        place.write(place.of(spec), 8 * MIB, b"x" * 4096)
        assert place.backend.held_at(spec.server_id) is not None
    taken = place.folder.instance(spec.server_id).path / "taken"
    place.backend.flatten(place.backend.held(spec.server_id) or source, taken, GO_ON)
    for _ in range(2):
        place.backend.let_go(spec.server_id)
        assert place.backend.held(spec.server_id) is None
        assert place.backend.held_at(spec.server_id) is None
    said = qemu("info", "-f", "qcow2", str(taken))
    assert "backing file" not in said
    for at in (MIB, 8 * MIB):
        assert place.holds(FileSource(path=taken, format="qcow2"), at, 0x5A)


def test_there_is_space(place: Place) -> None:
    space = place.backend.space()
    assert 0 < space.free_gb <= space.total_gb


# --- what only Ceph can do, or do wrong
def test_an_image_of_elsewhere_is_copied_and_that_is_said(in_ceph: InCeph) -> None:
    here = in_ceph.image()
    assert here.location is not None
    there = structs.replace(here.location, fsid=str(uuid.uuid4()))
    assert not in_ceph.backend.needs_file(here)
    image = structs.replace(Place.image(in_ceph), location=there)
    assert in_ceph.backend.needs_file(image)
    spec = in_ceph.spec(image)
    how = in_ceph.backend.ensure_system(spec, GO_ON)
    assert how == "copy: the image is not in this Ceph cluster"
    assert in_ceph.holds(in_ceph.of(spec), MIB, 0x5A)


def test_what_is_held_is_read_by_the_image_store(in_ceph: InCeph) -> None:
    """All of a clone, what it has of its image, too; and nothing keeps it from going."""
    spec = in_ceph.spec(in_ceph.image())
    in_ceph.backend.ensure_system(spec, GO_ON)
    in_ceph.write(in_ceph.of(spec), 8 * MIB)
    assert in_ceph.backend.hold(spec.server_id)
    in_ceph.write(in_ceph.of(spec), 8 * MIB, b"x" * 4096)
    at = in_ceph.backend.held_at(spec.server_id)
    assert at is not None
    with RbdStore(in_ceph.images).reading(at) as file:
        for start in (MIB, 8 * MIB):
            file.seek(start)
            assert file.read(4096) == LETTERS
        assert file.seek(0, 2) == GIB
    in_ceph.backend.let_go(spec.server_id)
    in_ceph.backend.remove_all(spec.server_id)
    assert (in_ceph.vms.names(), in_ceph.vms.trashed()) == (set(), set())


def test_what_is_copied_to_a_host_leaves_the_reserve_free(
    in_ceph: InCeph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes what was written to the disk and to its image, not the whole size of it."""
    spec = in_ceph.spec(in_ceph.image())
    in_ceph.backend.ensure_system(spec, GO_ON)
    in_ceph.write(in_ceph.of(spec), 8 * MIB)
    taken = in_ceph.folder.instance(spec.server_id).path / "taken"
    reserve = in_ceph.cache._reserve
    monkeypatch.setattr(cached, "free_bytes", lambda _folder: reserve + 4 * MIB)
    with pytest.raises(BuildFailed, match="no space left"):
        in_ceph.backend.flatten(in_ceph.of(spec), taken, GO_ON)
    assert not taken.exists()
    monkeypatch.setattr(cached, "free_bytes", lambda _folder: reserve + 32 * MIB)
    in_ceph.backend.flatten(in_ceph.of(spec), taken, GO_ON)
    assert in_ceph.holds(FileSource(path=taken, format="qcow2"), 8 * MIB, 0x5A)


def test_a_clone_of_an_image_that_grew_too_large_is_refused(in_ceph: InCeph) -> None:
    image = in_ceph.image()
    in_ceph.images.create("large", 2 * GIB)
    in_ceph.images.snapshot("large", "snap", protect=True)
    assert image.location is not None
    spec = in_ceph.spec(structs.replace(image, location=structs.replace(image.location, image="large")))
    with pytest.raises(BuildAborted, match="1 GiB"):
        in_ceph.backend.ensure_system(spec, GO_ON)
    gone = structs.replace(image, location=structs.replace(image.location, image="gone"))
    with pytest.raises(BuildFailed, match="images/gone"):
        in_ceph.backend.ensure_system(in_ceph.spec(gone), GO_ON)


def test_a_server_outlives_its_image(in_ceph: InCeph) -> None:
    image = in_ceph.image()
    spec = in_ceph.spec(image)
    in_ceph.backend.ensure_system(spec, GO_ON)
    RbdStore(in_ceph.images).delete(image.id)
    assert in_ceph.holds(in_ceph.of(spec), MIB, 0x5A)
    in_ceph.backend.remove_all(spec.server_id)
    assert in_ceph.images.trashed() == set()


def test_half_a_disk_is_made_anew(in_ceph: InCeph) -> None:
    spec = in_ceph.spec(in_ceph.image())
    in_ceph.vms.create(f"{spec.server_id}_disk", MIB)
    assert in_ceph.backend.find(spec.server_id, Name.SYSTEM) is None
    assert in_ceph.backend.ensure_system(spec, GO_ON) == "clone"
    assert in_ceph.size(in_ceph.of(spec)) == GIB


def test_a_host_that_comes_back_takes_nothing_from_another(in_ceph: InCeph, tmp_path: Path) -> None:
    """Its server was built elsewhere meanwhile, with disks of the same names."""
    spec = in_ceph.spec(in_ceph.image(), swap_mb=64)
    in_ceph.backend.ensure_system(spec, GO_ON)
    other = in_ceph.of_host("h2")
    assert other.ensure_system(spec, GO_ON) == "clone", "made anew: it is that host's now"
    other.ensure_swap(spec)
    in_ceph.write(in_ceph.of(spec), 0)
    in_ceph.backend.remove_all(spec.server_id)
    assert in_ceph.holds(in_ceph.of(spec), 0, 0x5A)
    in_ceph.folder.instance(spec.server_id).make()
    other.remove_all(spec.server_id)
    assert in_ceph.vms.names() == set()


def test_a_disk_that_somebody_has_open_is_removed_when_he_lets_go(
    in_ceph: InCeph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ceph has it of a QEMU that was killed, for a while."""
    spec = in_ceph.spec(in_ceph.image())
    in_ceph.backend.ensure_system(spec, GO_ON)
    monkeypatch.setattr(rbd, "_WATCHED", 0.0)
    with ExitStack() as opened:
        opened.enter_context(in_ceph.vms.writing(f"{spec.server_id}_disk"))
        with pytest.raises(BuildFailed, match="in use"):
            in_ceph.backend.remove_all(spec.server_id)
        assert in_ceph.backend.server_ids() == {spec.server_id}, "so it is found again"
        monkeypatch.undo()
        threading.Timer(0.5, opened.close).start()
        in_ceph.backend.remove_all(spec.server_id)
    assert in_ceph.vms.names() == set()


def test_a_cluster_that_does_not_answer_is_as_large_as_it_was(
    in_ceph: InCeph, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = in_ceph.backend.space()
    in_ceph.backend.close()
    monkeypatch.setattr(type(in_ceph.vms), "capacity", lambda _: in_ceph.vms.cluster.pool("none").size("x"))
    assert in_ceph.backend.space() == known
