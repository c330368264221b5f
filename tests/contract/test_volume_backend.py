"""What every volume backend does, on the real store."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from tests.ceph import USER, Ceph
from tests.killed_backend import chunks, elsewhere, image_store, source_of
from tests.running import until
from tests.tgt import Tgtd
from tests.volume_backends import HOST, OTHER, Images, Place, guest, opened, qemu_io
from tests.volume_store import MemoryBackend

from kilonova.cancel import Cancel
from kilonova.cli.parts.volumes import open_places
from kilonova.config import Config, Volume, VolumeBackend
from kilonova.domain.errors import BadRequest, Conflict, StaleEpoch, Unavailable, VolumeFailed
from kilonova.domain.machine import this_machine
from kilonova.domain.servers import ImageLocation, ImageRef
from kilonova.domain.volumes import (
    Blank,
    Connection,
    Connector,
    FileConnection,
    FromImage,
    FromSnapshot,
    FromVolume,
    IscsiConnection,
    Source,
)
from kilonova.rbd import Cluster, bindings
from kilonova.rbd.bindings import Fenced
from kilonova.volume.backends import copying
from kilonova.volume.backends.file import FileBackend
from kilonova.volume.backends.rbd import RbdBackend
from kilonova.volume.base import Backend

GO_ON = Cancel()
GIB = 1 << 30
MIB = 1 << 20


class Bench:
    """A backend, and what a guest would see in its volumes."""

    def __init__(self, place: Place, backend: Backend, images: Images) -> None:
        self.place = place
        self.backend = backend
        self.images = images

    def volume(self, source: Source | None = None, size_gb: int = 1) -> str:
        volume_id = str(uuid4())
        self.backend.ensure_volume(volume_id, size_gb, source or Blank(), GO_ON)
        return volume_id

    def write(self, volume_id: str, pattern: int, at: str = "0") -> None:
        connection = self.backend.connect(volume_id, HOST)
        qemu_io(connection, f"write -P {pattern} {at} 4k", place=self.place)
        self.backend.disconnect(volume_id, HOST)

    def read(self, volume_id: str, at: int = 0, size: int = 4096) -> bytes:
        with self.backend.open(volume_id) as file:
            file.seek(at)
            return file.read(size)

    def size(self, volume_id: str) -> int:
        with self.backend.open(volume_id) as file:
            return file.seek(0, io.SEEK_END)

    def image(self, data: bytes, disk_format: str = "raw", **more: Any) -> FromImage:
        image = ImageRef(
            id=str(uuid4()),
            disk_format=disk_format,
            size=more.pop("size", len(data)),
            os_hash_value=more.pop("os_hash_value", hashlib.sha512(data).hexdigest()),
            **more,
        )
        self.images.bytes[image.id] = data
        return FromImage(image=image)

    def nothing_left(self) -> bool:
        """By what the backend says, and by what is there."""
        said = (self.backend.volumes(), self.backend.snapshots(), self.backend.exports())
        return (said, self.left()) == ((set(), {}, set()), [])

    def left(self) -> list[str]:
        """All that is in the store, whatever its name."""
        folders = [self.place.folder / name for name in ("volumes", "spool", "elsewhere", "images")]
        found = [path.name for folder in folders if folder.exists() for path in folder.iterdir()]
        if isinstance(self.backend, RbdBackend):
            cluster = self.backend._pool.cluster
            for pool in (cluster.pool("volumes"), cluster.pool("images")):
                found += [*pool.names(), *(str(one["name"]) for one in bindings.rbd().trash_list(pool.io()))]
        if self.place.tgt is not None:
            found += self.place.tgt.targets()
        return found


@pytest.fixture(scope="module", params=["file", "iscsi", "rbd"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    if kind == "rbd":
        yield Place(kind, folder, ceph_conf=request.getfixturevalue("ceph").conf)
    elif kind == "iscsi":
        tgt = Tgtd(folder).start()
        yield Place(kind, folder, tgt=tgt)
        tgt.kill()
    else:
        yield Place(kind, folder)


@pytest.fixture(scope="module")
def images() -> Images:
    return Images()


@pytest.fixture(scope="module")
def backend(place: Place, images: Images) -> Iterator[Backend]:
    with opened(place, images) as made:
        yield made


@pytest.fixture
def bench(place: Place, backend: Backend, images: Images) -> Iterator[Bench]:
    """Empty, and empty again in the end."""
    made = Bench(place, backend, images)
    assert made.nothing_left()
    yield made
    images.before_read = lambda: None
    for volume_id in backend.volumes():
        again(partial(backend.delete, volume_id))
    assert made.nothing_left()


def test_it_says_how_much_it_holds(bench: Bench) -> None:
    bench.backend.check()
    total, free = bench.backend.capacity()
    assert total >= free > 0


def test_a_new_volume_is_zeros_whatever_was_there_before(bench: Bench) -> None:
    first = bench.volume()
    bench.write(first, 0xAB)
    bench.backend.delete(first)
    volume_id = str(uuid4())
    assert bench.backend.ensure_volume(volume_id, 1, Blank(), GO_ON) == "blank"
    assert bench.backend.ensure_volume(volume_id, 1, Blank(), GO_ON) == "blank"
    assert bench.read(volume_id) == bytes(4096)
    assert bench.size(volume_id) == GIB
    assert bench.backend.volumes() == {volume_id}


def test_what_is_there_is_not_made_again(bench: Bench) -> None:
    volume_id = bench.volume()
    bench.write(volume_id, 0xAB)
    bench.backend.ensure_volume(volume_id, 1, Blank(), GO_ON)
    assert bench.read(volume_id) == b"\xab" * 4096


def test_a_deleted_volume_is_gone_also_if_it_never_was(bench: Bench) -> None:
    volume_id = bench.volume()
    bench.backend.ensure_snapshot(volume_id, str(uuid4()), GO_ON)
    for _ in range(2):
        bench.backend.delete(volume_id)
        assert bench.nothing_left()
    with pytest.raises(VolumeFailed):
        bench.backend.open(volume_id)
    with pytest.raises(VolumeFailed):
        bench.backend.connect(volume_id, HOST)
    with pytest.raises(VolumeFailed):
        bench.backend.extend(volume_id, 2, GO_ON)
    with pytest.raises(VolumeFailed):
        bench.backend.ensure_snapshot(volume_id, str(uuid4()), GO_ON)


def test_ids_that_would_lead_elsewhere_are_refused(bench: Bench) -> None:
    for bad in ("../x", "", "A" * 36, str(uuid4()).upper()):
        with pytest.raises(BadRequest):
            bench.backend.ensure_volume(bad, 1, Blank(), GO_ON)
        with pytest.raises(BadRequest):
            bench.backend.delete(bad)
        with pytest.raises(BadRequest):
            bench.backend.ensure_snapshot(str(uuid4()), bad, GO_ON)


def test_it_grows_with_zeros_and_never_shrinks(bench: Bench) -> None:
    volume_id = bench.volume()
    bench.write(volume_id, 0xAB, at="1048572k")
    for size_gb in (2, 2, 1):
        bench.backend.extend(volume_id, size_gb, GO_ON)
        assert bench.size(volume_id) == 2 * GIB
    assert bench.read(volume_id, GIB - 4096, 8192) == b"\xab" * 4096 + bytes(4096)
    bench.write(volume_id, 0xCD, at="2097148k")
    assert bench.read(volume_id, 2 * GIB - 4096) == b"\xcd" * 4096


# --- made of an image
def test_a_volume_of_a_raw_image(bench: Bench) -> None:
    data = b"boot" + bytes(3 * MIB) + b"end"
    volume_id = bench.volume(bench.image(data))
    assert bench.read(volume_id, size=len(data) + 4096) == data + bytes(4096)
    assert bench.size(volume_id) == GIB


def qcow2(folder: Path, size: str = "64M", *options: str) -> bytes:
    path = folder / f"{uuid4()}.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, size], check=True)
    if "-b" not in options:
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 0xab 1M 4k", path], check=True)
    return path.read_bytes()


def test_a_volume_of_a_qcow2_image_holds_the_disk(bench: Bench, tmp_path: Path) -> None:
    volume_id = bench.volume(bench.image(qcow2(tmp_path), "qcow2"))
    assert bench.read(volume_id, MIB - 4096, 12288) == bytes(4096) + b"\xab" * 4096 + bytes(4096)
    assert bench.size(volume_id) == GIB


def test_a_bad_image_is_refused_and_nothing_is_left(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret" * 1000)
    overlay = qcow2(tmp_path, "64M", "-F", "raw", "-b", str(tmp_path / "secret"))
    bad = {
        "the bytes of another": bench.image(b"boot" * 1000, os_hash_value="0" * 128),
        "a qcow2 that is said to be raw": bench.image(qcow2(tmp_path)),
        "a raw that is said to be a qcow2": bench.image(b"boot" * 1000, "qcow2"),
        "a file of the host behind it": bench.image(overlay, "qcow2"),
        "a disk that the volume cannot hold": bench.image(qcow2(tmp_path, "2G"), "qcow2"),
        "… as it says itself": bench.image(b"boot", virtual_size=GIB + 1),
        "a format that is not converted": bench.image(b"boot" * 1000, "vmdk"),
        "a container": bench.image(b"boot" * 1000, container_format="ova"),
        "none": FromImage(image=ImageRef(id=str(uuid4()), disk_format="raw", size=4)),
    }
    for what, source in bad.items():
        with pytest.raises(VolumeFailed):
            bench.volume(source)
        assert bench.nothing_left(), what


def test_a_transfer_that_breaks_or_is_cancelled_leaves_nothing(bench: Bench) -> None:
    source = bench.image(b"boot" * MIB)
    cancel = Cancel()
    bench.images.before_read = cancel.set
    with pytest.raises(StaleEpoch):
        bench.backend.ensure_volume(str(uuid4()), 1, source, cancel)

    def breaks() -> None:
        raise ConnectionError("gone")

    bench.images.before_read = breaks
    with pytest.raises(Unavailable):
        bench.volume(source)
    left = bench.backend.volumes()
    for (
        volume_id
    ) in left:  # a backend that has no other name for it says so, until it is made again or deleted
        with pytest.raises(VolumeFailed):
            bench.backend.connect(volume_id, HOST)
        bench.images.before_read = lambda: None
        bench.backend.ensure_volume(volume_id, 1, source, GO_ON)
        assert bench.read(volume_id, size=4) == b"boot"


# --- made of another volume
def test_a_copy_of_a_volume_goes_its_own_way(bench: Bench) -> None:
    source = bench.volume()
    bench.write(source, 0xAB)
    copy = bench.volume(FromVolume(volume_id=source), size_gb=2)
    assert bench.backend.ensure_volume(copy, 2, FromVolume(volume_id=source), GO_ON) in ("clone", "copy")
    bench.write(source, 0x11)
    bench.write(copy, 0x22, at="4k")
    assert bench.read(copy, size=12288) == b"\xab" * 4096 + b"\x22" * 4096 + bytes(4096)
    assert bench.read(source, size=8192) == b"\x11" * 4096 + bytes(4096)
    assert bench.size(copy) == 2 * GIB
    assert bench.backend.snapshots() == {}
    bench.backend.delete(source)
    assert bench.backend.volumes() == {copy}
    assert bench.read(copy, size=4096) == b"\xab" * 4096


def test_a_snapshot_is_of_its_moment(bench: Bench) -> None:
    volume_id, snapshot_id = bench.volume(), str(uuid4())
    bench.write(volume_id, 0xAB)
    bench.backend.ensure_snapshot(volume_id, snapshot_id, GO_ON)
    bench.write(volume_id, 0x11)
    bench.backend.ensure_snapshot(volume_id, snapshot_id, GO_ON)
    assert bench.backend.snapshots() == {snapshot_id: volume_id}
    assert bench.backend.volumes() == {volume_id}
    made = bench.volume(FromSnapshot(snapshot_id=snapshot_id, volume_id=volume_id), size_gb=2)
    for _ in range(2):
        bench.backend.delete_snapshot(volume_id, snapshot_id)
        assert bench.backend.snapshots() == {}
    bench.backend.delete(volume_id)
    assert bench.backend.volumes() == {made}
    assert bench.read(made) == b"\xab" * 4096
    assert bench.size(made) == 2 * GIB


def test_a_snapshot_that_the_store_takes_is_of_a_guest_that_is_still(bench: Bench) -> None:
    """Asked for as long as it takes, and not for what is there already."""
    if bench.place.kind != "rbd":
        pytest.skip("only Ceph has one at once, whatever file system this is")
    volume_id, snapshot_id = bench.volume(), str(uuid4())
    seen: list[str] = []

    @contextmanager
    def still() -> Iterator[None]:
        seen.extend(["held", *bench.backend.snapshots()])
        yield
        seen.extend(["goes on", *bench.backend.snapshots()])

    for _ in range(2):
        bench.backend.ensure_snapshot(volume_id, snapshot_id, GO_ON, None, still)
        assert seen == ["held", "goes on", snapshot_id]

    @contextmanager
    def refused() -> Iterator[None]:
        raise VolumeFailed("it cannot be held")
        yield

    with pytest.raises(VolumeFailed):
        bench.backend.ensure_snapshot(volume_id, str(uuid4()), GO_ON, None, refused)
    assert set(bench.backend.snapshots()) == {snapshot_id}


def test_a_volume_takes_its_snapshots_with_it(bench: Bench) -> None:
    """So that who deletes one looks for snapshots before."""
    takes_its_snapshots_along(bench.backend)


def test_so_it_does_where_volumes_are_in_memory() -> None:
    """What stands for backends in other tests must not be kinder than they are."""
    takes_its_snapshots_along(MemoryBackend())


def takes_its_snapshots_along(backend: Backend) -> None:
    volume_id, snapshot_id = str(uuid4()), str(uuid4())
    backend.ensure_volume(volume_id, 1, Blank(), GO_ON)
    backend.ensure_snapshot(volume_id, snapshot_id, GO_ON)
    backend.connect(volume_id, HOST)
    backend.delete(volume_id)
    assert (backend.volumes(), backend.snapshots(), backend.exports()) == (set(), {}, set())


def test_a_volume_that_could_not_hold_its_source_is_refused(bench: Bench) -> None:
    source, snapshot_id = bench.volume(size_gb=2), str(uuid4())
    bench.backend.ensure_snapshot(source, snapshot_id, GO_ON)
    for of in (FromVolume(volume_id=source), FromSnapshot(snapshot_id=snapshot_id, volume_id=source)):
        with pytest.raises(VolumeFailed):
            bench.volume(of)
    for volume_id in bench.backend.volumes() - {source}:
        bench.backend.delete(volume_id)
    assert bench.backend.volumes() == {source}
    with pytest.raises(VolumeFailed):
        bench.volume(FromVolume(volume_id=str(uuid4())))


def test_a_volume_is_again_what_its_snapshot_is(bench: Bench) -> None:
    volume_id, snapshot_id = bench.volume(), str(uuid4())
    bench.write(volume_id, 0xAB)
    bench.backend.ensure_snapshot(volume_id, snapshot_id, GO_ON)
    bench.write(volume_id, 0x11)
    bench.backend.extend(volume_id, 2, GO_ON)
    bench.write(volume_id, 0x22, at="1500M")
    for _ in range(2):
        bench.backend.revert(volume_id, snapshot_id, GO_ON)
        assert bench.read(volume_id) == b"\xab" * 4096
        assert bench.read(volume_id, 1500 * MIB) == bytes(4096)
        assert bench.size(volume_id) == 2 * GIB


# --- the way there
def test_the_way_there_is_the_same_each_time(bench: Bench) -> None:
    volume_id = bench.volume()
    first = bench.backend.connect(volume_id, HOST)
    assert bench.backend.connect(volume_id, HOST) == first
    qemu_io(first, "write -P 1 0 4k", place=bench.place)
    second = bench.backend.connect(volume_id, OTHER)
    qemu_io(second, "read -P 1 0 4k", place=bench.place, connector=OTHER)
    for connector in (HOST, HOST, OTHER):
        assert (volume_id in bench.backend.exports()) == (bench.place.kind == "iscsi")
        bench.backend.disconnect(volume_id, connector)
    assert volume_id not in bench.backend.exports()
    bench.backend.delete(volume_id)
    bench.backend.disconnect(volume_id, HOST)


# --- several at once
def test_many_make_the_same_volume_at_once(bench: Bench) -> None:
    source = bench.volume()
    bench.write(source, 0xAB)
    volume_id = str(uuid4())
    start = threading.Barrier(4)

    def make() -> None:
        start.wait()
        with suppress(Unavailable, VolumeFailed):  # another one is at it
            bench.backend.ensure_volume(volume_id, 1, FromVolume(volume_id=source), GO_ON)

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(make) for _ in range(4)]:
            each.result()
    bench.backend.ensure_volume(volume_id, 1, FromVolume(volume_id=source), GO_ON)
    assert bench.read(volume_id) == b"\xab" * 4096
    assert bench.backend.volumes() == {source, volume_id}


def test_different_volumes_do_not_wait_for_each_other(bench: Bench) -> None:
    source = bench.volume()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: bench.volume(FromVolume(volume_id=source)), range(16)))
        assert bench.backend.volumes() == {source, *made}
        list(pool.map(bench.backend.delete, [source, *made]))
    assert bench.nothing_left()


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "kilonova-test", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def files(bench: Bench) -> Bench:
    if bench.place.kind == "rbd":
        pytest.skip("of files")
    return bench


@pytest.fixture
def rbd(bench: Bench) -> Bench:
    if bench.place.kind != "rbd":
        pytest.skip("of Ceph")
    return bench


def test_a_volume_of_an_image_in_the_same_cluster_is_a_clone(rbd: Bench) -> None:
    assert rbd.place.ceph_conf is not None
    cluster = Cluster(rbd.place.ceph_conf, USER)
    pool = cluster.pool("images")
    pool.create("image", 8 * MIB)
    with pool.writing("image") as writer:
        writer.write(b"boot")
    pool.snapshot("image", "snap", protect=True)
    there = ImageLocation(fsid=cluster.fsid, pool="images", image="image", snapshot="snap")
    volume_id = str(uuid4())
    for _ in range(2):
        source = rbd.image(b"", location=there)
        assert rbd.backend.ensure_volume(volume_id, 1, source, GO_ON) == "clone"
    pool.remove("image")
    assert rbd.read(volume_id, size=8) == b"boot\0\0\0\0"
    assert rbd.size(volume_id) == GIB
    elsewhere = msgspec.structs.replace(there, fsid=str(uuid4()))
    copied = str(uuid4())
    assert rbd.backend.ensure_volume(copied, 1, rbd.image(b"boot", location=elsewhere), GO_ON) == "copy"
    assert rbd.read(copied, size=8) == b"boot\0\0\0\0"
    rbd.backend.delete(volume_id)
    assert (pool.names(), pool.trashed()) == (set(), set())
    cluster.close()


def test_a_store_that_does_not_answer_is_unavailable_and_goes_on(rbd: Bench, ceph: Ceph) -> None:
    volume_id = rbd.volume()
    source = rbd.image(b"boot" * MIB)
    with opened(rbd.place._replace(timeout=1), rbd.images) as hasty:
        rbd.images.before_read = ceph.freeze_osd
        made = str(uuid4())
        with pytest.raises((Unavailable, VolumeFailed)):
            hasty.ensure_volume(made, 1, source, GO_ON)
        for ask in (hasty.check, lambda: hasty.delete(volume_id), lambda: hasty.connect(volume_id, HOST)):
            with pytest.raises(Unavailable):
                ask()
        rbd.images.before_read = lambda: None
        ceph.thaw_osd()
        until(lambda: ensured(hasty, made, source), 60, "the broken writer's watch to end")
        assert rbd.read(made, size=4) == b"boot"
        assert rbd.backend.volumes() == {volume_id, made}


def test_a_connection_that_ceph_locked_out_is_made_anew(rbd: Bench, ceph: Ceph) -> None:
    """As a client's that slept for so long that another one broke its lock."""
    volume_id = rbd.volume()
    with opened(rbd.place, rbd.images) as backend:
        assert isinstance(backend, RbdBackend)
        backend.check()
        fenced = Fenced("Ceph: ESHUTDOWN")
        cluster = backend._pool.cluster
        before = cluster.connection()
        with pytest.raises(Fenced), cluster.translated("x"):
            raise fenced
        assert cluster.connection() is not before
        assert backend.volumes() >= {volume_id}


def test_what_is_made_anew_by_another_is_not_written_to(rbd: Bench) -> None:
    cluster = Cluster(rbd.place.ceph_conf or Path(), USER)
    pool = cluster.pool("volumes")
    name = f"volume-{uuid4()}"
    pool.create(name, MIB)
    with pytest.raises(Conflict, match="in use"), pool.held(name):
        pool.remove(name)
    pool.create("other", MIB)
    with suppress(Conflict), pool.held(name) as check:
        bindings.rbd().rename(pool.io(), name, "away")  # type: ignore[attr-defined]
        bindings.rbd().rename(pool.io(), "other", name)  # type: ignore[attr-defined]
        with pytest.raises(Conflict, match="somebody else's"):
            check()
    for one in (name, "away"):
        pool.remove(one)
    cluster.close()


def test_an_image_that_a_kill_left_in_the_spool_goes_with_its_volume(rbd: Bench) -> None:
    volume_id = str(uuid4())
    spool = rbd.place.folder / "spool"
    spool.mkdir(exist_ok=True)
    left = spool / f"volume-{volume_id}.image.part"
    left.write_bytes(b"boot")
    assert volume_id in rbd.backend.volumes()
    rbd.backend.delete(volume_id)
    assert not left.exists()
    assert volume_id not in rbd.backend.volumes()


def ensured(backend: Backend, volume_id: str, source: Source) -> bool:
    try:
        backend.ensure_volume(volume_id, 1, source, GO_ON)
    except Unavailable:
        return False
    return True


def test_only_its_owner_may_read_a_file(files: Bench) -> None:
    volume_id = files.volume()
    files.backend.ensure_snapshot(volume_id, str(uuid4()), GO_ON)
    made = list((files.place.folder / "volumes").iterdir())
    assert len(made) >= 2
    assert {path.stat().st_mode & 0o777 for path in made if path.is_file()} == {0o600}


def test_a_volume_that_a_guest_writes_to_is_not_copied_half(files: Bench) -> None:
    """Where files share blocks it is a copy of one moment; elsewhere it is refused, in any case not torn."""
    volume_id = files.volume()
    with guest(files.backend.connect(volume_id, HOST), files.place) as ask:
        assert "wrote 4096" in ask("write -P 1 0 4k")
        if not shares_blocks(files.place.folder):
            for _ in range(2):
                with pytest.raises(VolumeFailed, match="a guest has the volume"):
                    files.volume(FromVolume(volume_id=volume_id))
            with pytest.raises(VolumeFailed, match="a guest has the volume"):
                files.backend.ensure_snapshot(volume_id, str(uuid4()), GO_ON)
    assert files.backend.volumes() == {volume_id}
    assert files.backend.snapshots() == {}
    assert files.read(files.volume(FromVolume(volume_id=volume_id))) == b"\1" * 4096


def is_closed(way: Connection, place: Place) -> bool:
    return not Path(way.path).exists() if isinstance(way, FileConnection) else refused(way, place)


def test_what_a_guest_writes_to_is_copied_by_its_hypervisor(files: Bench) -> None:
    if shares_blocks(files.place.folder):
        pytest.skip("files share blocks here: nobody is asked")
    volume_id, snapshot_id = files.volume(), str(uuid4())
    asked: list[Connection] = []

    def copied(to: Connection) -> None:
        asked.append(to)
        qemu_io(to, "write -P 7 0 4k", f"write -P 8 {GIB - 4096} 4k", place=files.place)

    def broken(to: Connection) -> None:
        asked.append(to)
        raise Unavailable("the host does not answer")

    with guest(files.backend.connect(volume_id, HOST), files.place) as ask:
        assert "wrote 4096" in ask("write -P 1 0 4k")
        with pytest.raises(Unavailable):
            files.backend.ensure_snapshot(volume_id, snapshot_id, GO_ON, broken)
        assert files.backend.snapshots() == {}
        assert is_closed(asked[0], files.place)
        files.backend.ensure_snapshot(volume_id, snapshot_id, GO_ON, copied)
        files.backend.ensure_snapshot(volume_id, snapshot_id, GO_ON, broken)  # it is there: nobody is asked
        assert is_closed(asked[1], files.place)
    assert len(asked) == 2
    made = files.volume(FromSnapshot(snapshot_id=snapshot_id, volume_id=volume_id))
    assert (files.read(made), files.read(made, GIB - 4096)) == (b"\7" * 4096, b"\10" * 4096)
    files.backend.delete_snapshot(volume_id, snapshot_id)
    assert files.backend.snapshots() == {}


def test_a_guest_sees_that_its_volume_has_grown(bench: Bench) -> None:
    volume_id = bench.volume()
    with guest(bench.backend.connect(volume_id, HOST), bench.place) as ask:
        assert "wrote 4096" in ask("write -P 1 0 4k")
        bench.backend.extend(volume_id, 2, GO_ON)
        # What QEMU's block_resize does: where the store is not as large, it fails.
        ask("truncate 2G\nwrite -P 2 2147479552 4k")
    assert bench.read(volume_id, 2 * GIB - 4096) == b"\2" * 4096
    assert bench.read(volume_id) == b"\1" * 4096
    assert bench.size(volume_id) == 2 * GIB


def shares_blocks(folder: Path) -> bool:
    a, b = folder / "a", folder / "b"
    a.write_bytes(b"x" * 4096)
    done = subprocess.run(["cp", "--reflink=always", a, b], capture_output=True, check=False)
    a.unlink()
    b.unlink(missing_ok=True)
    return done.returncode == 0


@pytest.mark.system
def test_a_disk_that_is_full_leaves_nothing(files: Bench, tmp_path: Path) -> None:
    no_space = pytest.raises(VolumeFailed, match=r"[nN]o space")
    with small_disk(tmp_path / "small", 4), opened(Place("file", tmp_path / "small"), files.images) as full:
        for disk_format, data in (("raw", b"boot" * 2 * MIB), ("qcow2", big_qcow2(tmp_path))):
            with no_space:
                full.ensure_volume(str(uuid4()), 1, files.image(data, disk_format), GO_ON)
            assert full.volumes() == set()
        source, snapshot, data = str(uuid4()), str(uuid4()), b"boot" * (3 * MIB // 8)
        full.ensure_volume(source, 1, files.image(data), GO_ON)
        full.ensure_snapshot(source, snapshot, GO_ON)
        with no_space:
            full.ensure_volume(str(uuid4()), 1, FromVolume(volume_id=source), GO_ON)
        with no_space:
            full.ensure_snapshot(source, str(uuid4()), GO_ON)
        with no_space:
            full.revert(source, snapshot, GO_ON)
        large = files.volume(files.image(b"boot" * MIB))
        with no_space:
            full.take_over(large, 1, files.backend.address(large), GO_ON)
        assert (full.volumes(), full.snapshots()) == ({source}, {snapshot: source})
        with full.open(source) as file:
            assert file.read(len(data)) == data
        full.delete(source)
        assert list((tmp_path / "small" / "volumes").iterdir()) == []


@pytest.mark.system
def test_a_spool_that_is_full_leaves_nothing(rbd: Bench, tmp_path: Path) -> None:
    place = rbd.place._replace(folder=tmp_path / "small")
    with small_disk(place.folder, 4), opened(place, rbd.images) as full:
        for disk_format in ("raw", "qcow2"):
            with pytest.raises(VolumeFailed, match="no space"):
                full.ensure_volume(str(uuid4()), 1, rbd.image(b"boot" * 2 * MIB, disk_format), GO_ON)
            assert list((place.folder / "spool").iterdir()) == []
    assert rbd.nothing_left(), rbd.left()


def big_qcow2(folder: Path) -> bytes:
    """Small as a file: the disk in it is not."""
    path = folder / "big.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 0xab 0 8M", path], check=True)
    packed = folder / "packed.qcow2"
    subprocess.run(["qemu-img", "convert", "-c", "-f", "qcow2", "-O", "qcow2", path, packed], check=True)
    return packed.read_bytes()


@pytest.fixture
def iscsi(bench: Bench) -> Bench:
    if bench.place.kind != "iscsi":
        pytest.skip("of iSCSI")
    return bench


def refused(connection: Connection, place: Place, connector: Connector = HOST) -> bool:
    with pytest.raises(AssertionError, match="iSCSI"):
        qemu_io(connection, "read 0 4k", place=place, connector=connector)
    return True


def test_only_the_host_that_was_let_in_reaches_a_target_and_only_with_the_password(iscsi: Bench) -> None:
    volume_id = iscsi.volume()
    way = iscsi.backend.connect(volume_id, HOST)
    assert isinstance(way, IscsiConnection)
    assert refused(way, iscsi.place, OTHER)
    wrong = msgspec.structs.replace(way, password="x" * 32)
    assert refused(wrong, iscsi.place)
    iscsi.backend.connect(volume_id, OTHER)
    with guest(way, iscsi.place) as ask:
        assert "wrote 4096" in ask("write -P 1 0 4k")
        iscsi.backend.disconnect(volume_id, HOST)
        assert refused(way, iscsi.place)
    qemu_io(way, "read -P 1 0 4k", place=iscsi.place, connector=OTHER)
    iscsi.backend.disconnect(volume_id, OTHER)
    assert refused(way, iscsi.place, OTHER)
    assert iscsi.backend.connect(volume_id, HOST) != way  # a password that nobody knows any more
    with pytest.raises(BadRequest):
        iscsi.backend.connect(volume_id, Connector(host="h3", initiator="iqn.x,user=y"))


def test_a_target_that_died_serves_what_it_served(iscsi: Bench) -> None:
    volume_id = iscsi.volume()
    way = iscsi.backend.connect(volume_id, HOST)
    assert isinstance(way, IscsiConnection)
    tgt = iscsi.place.tgt
    assert tgt is not None
    assert way.password not in tgt.log
    tgt.kill()
    for ask in (iscsi.backend.check, lambda: iscsi.backend.delete(volume_id)):
        with pytest.raises(Unavailable):
            ask()
    tgt.start()
    iscsi.backend.check()
    assert iscsi.backend.connect(volume_id, HOST) == way
    qemu_io(way, "read -P 0 0 4k", place=iscsi.place)


def test_what_a_guest_discards_is_a_hole(iscsi: Bench) -> None:
    """So a swap to such a volume, and a copy of one, take as long as what it holds."""
    volume_id = iscsi.volume()
    path = iscsi.place.folder / "volumes" / f"volume-{volume_id}"
    way = iscsi.backend.connect(volume_id, HOST)
    for at in ("1M", "1500M"):
        qemu_io(way, f"write -P 1 {at} 4M", place=iscsi.place)
        assert path.stat().st_blocks * 512 >= 4 * MIB
        qemu_io(way, f"discard {at} 4M", f"read -P 0 {at} 4M", place=iscsi.place)
        assert path.stat().st_blocks * 512 < MIB
        iscsi.backend.extend(volume_id, 2, GO_ON)


def test_a_volume_that_cannot_be_served_is_no_other_volumes_trouble(iscsi: Bench) -> None:
    bad, good = iscsi.volume(), iscsi.volume()
    iscsi.backend.connect(bad, HOST)
    way = iscsi.backend.connect(good, HOST)
    tgt = iscsi.place.tgt
    assert tgt is not None
    (iscsi.place.folder / "volumes" / f"volume-{bad}").unlink()
    tgt.kill()
    tgt.start()
    iscsi.backend.check()
    qemu_io(way, "read -P 0 0 4k", place=iscsi.place)
    iscsi.volume()


def test_a_guest_that_begins_while_its_volume_is_copied_spoils_the_copy(
    iscsi: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would be of many moments. (Where blocks are shared it is of one.)"""
    volume_id, snapshot = iscsi.volume(), str(uuid4())
    way = iscsi.backend.connect(volume_id, HOST)
    real = copying.copy

    def copy(*arguments: Any) -> None:
        real(*arguments)
        qemu_io(way, "write -P 1 0 4k", place=iscsi.place)

    monkeypatch.setattr(copying, "copy", copy)
    monkeypatch.setattr(copying, "clone", lambda *_: False)
    with pytest.raises(VolumeFailed, match="began to write"):
        iscsi.backend.ensure_snapshot(volume_id, snapshot, GO_ON)
    assert snapshot not in iscsi.backend.snapshots()


# --- files that one machine has, or all
def test_a_snapshot_whose_blocks_can_be_shared_no_more_is_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was shared before the guest was held is of an earlier moment."""
    backend, volume_id, snapshot = FileBackend(tmp_path, Images()), str(uuid4()), str(uuid4())
    backend.ensure_volume(volume_id, 1, Blank(), GO_ON)
    shares = iter([True, False])

    def clone(_source: io.BufferedReader, target: io.BufferedRandom) -> bool:
        target.write(b"earlier")
        target.flush()
        return next(shares)

    monkeypatch.setattr(copying, "clone", clone)
    backend.ensure_snapshot(volume_id, snapshot, GO_ON)
    with backend.open(volume_id, snapshot) as file:
        assert file.read(7) == bytes(7)


def test_files_of_one_machine_are_shown_to_its_hosts_alone(tmp_path: Path) -> None:
    """Which it is, the configuration says."""
    far, near = (msgspec.structs.replace(HOST, machine=where) for where in ("far", this_machine()))
    path = str(tmp_path / "volumes")
    backends = {
        "own": VolumeBackend(driver="file", path=path),
        "all": VolumeBackend(driver="file", path=path, shared=True),
    }
    config = Config(volume=Volume(backends=backends))
    with ExitStack() as closing:
        places = open_places(config, Images(), tmp_path, closing)
        own, shared = places["own"].backend, places["all"].backend
        volume_id = str(uuid4())
        own.ensure_volume(volume_id, 1, Blank(), GO_ON)
        for host in (near, HOST):
            assert own.connect(volume_id, host) == FileConnection(path=f"{path}/volume-{volume_id}")
        with pytest.raises(VolumeFailed, match="not shared"):
            own.connect(volume_id, far)
        assert shared.connect(volume_id, far) == own.connect(volume_id, near)
        assert (own.shared, shared.shared) == (False, True)
        shared.extend(volume_id, 2, GO_ON)  # another manager of that name
        shared.delete(volume_id)
        assert own.volumes() == set()


# --- from one place to another
def test_a_volume_goes_to_another_place_and_comes_back(bench: Bench, tmp_path: Path) -> None:
    """Whatever the other place holds of an older one."""
    other = FileBackend(tmp_path / "other", bench.images)
    volume_id = bench.volume()
    bench.write(volume_id, 0xAB, at="1M")
    other.ensure_volume(volume_id, 1, Blank(), GO_ON)
    other.take_over(volume_id, 1, bench.backend.address(volume_id), GO_ON)
    with other.open(volume_id) as file:
        file.seek(MIB - 4096)
        assert file.read(3 * 4096) == bytes(4096) + b"\xab" * 4096 + bytes(4096)
    assert (tmp_path / "other" / f"volume-{volume_id}").stat().st_blocks * 512 < 16 * MIB, "holes stay holes"
    bench.write(volume_id, 0x11)
    for _ in range(2):
        bench.backend.take_over(volume_id, 1, other.address(volume_id), GO_ON)
        assert bench.size(volume_id) == GIB
        assert bench.read(volume_id) == bytes(4096)
        assert bench.read(volume_id, MIB) == b"\xab" * 4096
    bench.write(volume_id, 0x22)
    assert other.volumes() == bench.backend.volumes() == {volume_id}
    assert bench.backend.place() == bench.backend.place() != other.place()
    cancel = Cancel()
    cancel.set()
    with pytest.raises(StaleEpoch):
        bench.backend.take_over(str(uuid4()), 1, other.address(volume_id), cancel)
    with pytest.raises(VolumeFailed):
        bench.backend.address(str(uuid4()))


def test_what_is_read_of_a_snapshot_is_of_its_moment(bench: Bench) -> None:
    volume_id, snapshot_id = bench.volume(), str(uuid4())
    bench.write(volume_id, 0xAB)
    bench.backend.ensure_snapshot(volume_id, snapshot_id, GO_ON)
    bench.write(volume_id, 0x11)
    with bench.backend.open(volume_id, snapshot_id) as file:
        assert file.read(8192) == b"\xab" * 4096 + bytes(4096)
    with pytest.raises(VolumeFailed):
        bench.backend.open(volume_id, str(uuid4()))


# --- kill -9
def killed(bench: Bench, what: str, source: str) -> list[str]:
    """What was begun, and cut off before each of its steps; the last one came to its end."""
    place = bench.place
    asked = {
        "kind": place.kind,
        "folder": str(place.folder),
        "conf": str(place.ceph_conf or ""),
        "tgt": place.tgt.portal if place.tgt else "",
        "what": what,
        "source": source,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_backend", json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def again(work: Callable[[], object]) -> None:
    """Until the store takes who was killed for dead."""

    def done() -> bool:
        try:
            work()
        except Unavailable:
            return False
        except Conflict as error:
            if "in use" not in error.message:
                raise
            return False
        return True

    until(done, 60, "what was killed to be done")


def test_whatever_is_killed_between_two_steps_is_whole_when_it_is_done_again(bench: Bench) -> None:
    source, data = bench.volume(), b"\xab" * 4096
    bench.write(source, 0xAB)
    other, there = elsewhere(bench.place), [source]
    other.take_over(source, 1, bench.backend.address(source), GO_ON)
    backend = bench.backend

    def holds(ident: str, size_gb: int) -> None:
        assert (bench.size(ident), bench.read(ident)) == (size_gb * GIB, data)
        assert bench.read(ident, size_gb * GIB - 4096) == bytes(4096)
        there.append(ident)

    def create(ident: str) -> None:
        again(partial(backend.ensure_volume, ident, 2, FromVolume(volume_id=source_of(ident)), GO_ON))
        holds(ident, 2)
        there.append(source_of(ident))

    def delete(ident: str) -> None:
        again(partial(backend.delete, ident))

    def snapshot(ident: str) -> None:
        again(partial(backend.ensure_snapshot, source, ident, GO_ON))
        assert backend.snapshots()[ident] == source

    def delete_snapshot(ident: str) -> None:
        again(partial(backend.delete_snapshot, ident, ident))
        assert ident not in backend.snapshots()
        there.append(ident)

    def revert(ident: str) -> None:
        again(partial(backend.revert, ident, ident, GO_ON))
        holds(ident, 2)

    def extend(ident: str) -> None:
        again(partial(backend.extend, ident, 2, GO_ON))
        last = f"read -P 0 {2 * GIB - 4096} 4k"
        qemu_io(backend.connect(ident, HOST), "read -P 171 0 4k", last, place=bench.place)
        holds(ident, 2)

    def connect(ident: str) -> None:
        qemu_io(backend.connect(ident, HOST), "read -P 171 0 4k", place=bench.place)
        there.append(ident)

    def disconnect(ident: str) -> None:
        again(partial(backend.disconnect, ident, HOST))
        assert ident not in backend.exports()
        holds(ident, 1)

    def arrive(ident: str) -> None:
        again(partial(backend.take_over, ident, 1, other.address(source), GO_ON))
        holds(ident, 1)

    def leave(ident: str) -> None:
        again(partial(other.take_over, ident, 1, backend.address(source), GO_ON))
        with other.open(ident) as file:
            assert file.read(8192) == data + bytes(4096)
        other.delete(ident)

    store = image_store(bench.place, backend)

    def upload(ident: str) -> None:
        again(partial(store.delete, ident))  # as who takes it up does
        store.put(ident, chunks(backend, source), GIB)
        with store.open(ident) as file:
            assert file.read() == data + bytes(4096)
        store.delete(ident)

    def delete_image(ident: str) -> None:
        again(partial(store.delete, ident))

    # Each kind of work where its steps differ from those of another backend.
    tried = {
        "file": (create, delete, snapshot, delete_snapshot, revert, extend, arrive, upload),
        "iscsi": (delete, delete_snapshot, extend, connect, disconnect),
        "rbd": (create, delete, delete_snapshot, revert, extend, arrive, leave, upload, delete_image),
    }
    begun = [(work, killed(bench, work.__name__, source)) for work in tried[bench.place.kind]]
    with ThreadPoolExecutor(8) as pool:
        for work, idents in begun:
            assert len(idents) >= 2, work
            list(pool.map(work, idents))
        assert backend.volumes() == set(there)
        other.delete(source)
        list(pool.map(delete, there))
    assert bench.nothing_left(), bench.left()


def test_a_copy_by_a_guest_that_is_killed_between_two_steps_is_made_again(files: Bench) -> None:
    """What it leaves, the backend knows of; and the guest's host is let in when it is asked again."""
    if shares_blocks(files.place.folder):
        pytest.skip("files share blocks here: nobody is asked")
    volume_id, backend = files.volume(), files.backend
    with guest(backend.connect(volume_id, HOST), files.place) as ask:
        assert "wrote 4096" in ask("write -P 1 0 4k")
        begun = killed(files, "by_guest", volume_id)
        assert len(begun) >= 2
        left = {ident for ident in begun if any(ident in name for name in files.left())}
        assert left
        assert {ident: backend.snapshots().get(ident) for ident in left} == dict.fromkeys(left, volume_id)

        def copied(to: Connection) -> None:
            qemu_io(to, "write -P 7 0 4k", place=files.place)

        for ident in begun[::2]:
            again(partial(backend.ensure_snapshot, volume_id, ident, GO_ON, copied))
            with backend.open(volume_id, ident) as file:
                assert file.read(4096) == b"\7" * 4096
        for ident in begun[::3]:
            backend.delete_snapshot(volume_id, ident)
            assert not [name for name in files.left() if ident in name]
    backend.delete(volume_id)  # with what nobody has made again, or cleared away
    assert files.nothing_left(), files.left()
