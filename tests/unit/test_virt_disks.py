"""The disks of a server, looked at with other eyes than those that made them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import uuid
from pathlib import Path

import msgspec
import pytest

from kilonova.cancel import Cancel
from kilonova.disk_image import qemu_img
from kilonova.domain.errors import BuildAborted, BuildFailed, StaleEpoch
from kilonova.domain.servers import BuildSpec, Flavor, ImageRef
from kilonova.virt.libvirt import cached
from kilonova.virt.libvirt.disk.base import Name, is_cdrom
from kilonova.virt.libvirt.disk.files import Files, once
from kilonova.virt.libvirt.disk.qcow2 import Qcow2
from kilonova.virt.libvirt.disk.raw import Raw
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.images import ImageCache


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.make()
    return folder


@pytest.fixture
def cache(folder: Folder) -> ImageCache:
    return ImageCache(folder, None)  # type: ignore[arg-type]  # nothing is fetched here


@pytest.fixture
def qcow2(folder: Folder, cache: ImageCache) -> Qcow2:
    return Qcow2(folder, cache)


@pytest.fixture(params=[Qcow2, Raw])
def disks(request: pytest.FixtureRequest, folder: Folder, cache: ImageCache) -> Files:
    """Each backend of files."""
    made: Files = request.param(folder, cache)
    return made


GO_ON = Cancel()


def make_spec(folder: Folder, disk_format: str = "raw", **flavor: int) -> BuildSpec:
    """A server whose image is in the cache already: 3 MiB as the guest sees it."""
    data = bytes(3 << 20)
    image = ImageRef(
        id=str(uuid.uuid4()),
        disk_format=disk_format,
        size=len(data),
        os_hash_value=hashlib.sha512(data).hexdigest(),
    )
    base = folder.image(image.id, image.os_hash_value)
    if disk_format == "qcow2":
        qemu_img.create_empty(base, size=len(data))
    else:
        base.write_bytes(data)
    return BuildSpec(
        server_id=str(uuid.uuid4()),
        name="n",
        hostname="n",
        project_id="p",
        user_id="u",
        flavor=Flavor(id="1", name="f", vcpus=1, memory_mb=64, root_gb=flavor.pop("root_gb", 1), **flavor),
        image=image,
    )


def path_of(folder: Folder, spec: BuildSpec, name: Name = Name.SYSTEM) -> Path:
    """Of a server that has its folder."""
    instance = folder.instance(spec.server_id)
    instance.make()
    return instance.path / name


def made(disks: Files, spec: BuildSpec) -> Path:
    """The system disk that it made."""
    found = disks.find(spec.server_id, Name.SYSTEM)
    assert found is not None
    assert found.format == disks.format
    return found.path


def info(path: Path) -> dict[str, object]:
    return json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", str(path)]))


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_the_system_disk_is_an_overlay_as_large_as_the_flavor(
    folder: Folder, qcow2: Qcow2, cache: ImageCache, disk_format: str
) -> None:
    spec = make_spec(folder, disk_format, root_gb=2)
    path = path_of(folder, spec)
    assert qcow2.ensure_system(spec, GO_ON) == "overlay"
    seen = info(path)
    assert seen["format"] == "qcow2"
    assert seen["virtual-size"] == 2 << 30
    assert seen["backing-filename-format"] == disk_format
    assert seen["backing-filename"] == str(cache.path(spec.image))  # type: ignore[arg-type]
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_a_raw_disk_is_a_sparse_copy_as_large_as_the_flavor(
    folder: Folder, cache: ImageCache, disk_format: str
) -> None:
    spec = make_spec(folder, disk_format, root_gb=2)
    base = cache.path(spec.image)  # type: ignore[arg-type]
    where = (1 << 20, 2 << 20)
    for at in where:
        write(base, disk_format, at)
    path = path_of(folder, spec).with_name("disk.raw")
    assert Raw(folder, cache).ensure_system(spec, GO_ON) == "copy"
    assert path.stat().st_size == 2 << 30
    assert path.stat().st_blocks * 512 < 16 << 20, "sparse"
    with path.open("rb") as file:
        data = file.read(3 << 20)
    assert [data[at : at + 4096] for at in where] == [b"\x5a" * 4096] * 2
    assert data.count(0) == (3 << 20) - 2 * 4096
    assert path.stat().st_mode & 0o077 == 0


def write(path: Path, disk_format: str, at: int) -> None:
    """4 KiB of one letter, as a guest would."""
    subprocess.run(
        ["qemu-io", "-f", disk_format, "-c", f"write -q -P 0x5a {at} 4096", str(path)], check=True, timeout=30
    )


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_a_copy_leaves_the_reserve_free(
    folder: Folder, cache: ImageCache, disk_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(folder, disk_format)
    write(cache.path(spec.image), disk_format, 1 << 20)  # type: ignore[arg-type]
    path = path_of(folder, spec)
    monkeypatch.setattr(cached, "free_bytes", lambda _folder: 300 << 20)
    with pytest.raises(BuildFailed, match="no space left"):
        Raw(folder, ImageCache(folder, None, reserve=300 << 20)).ensure_system(spec, GO_ON)  # type: ignore[arg-type]
    assert list(path.parent.iterdir()) == []


def test_a_disk_has_its_name_when_it_is_on_the_disk(
    folder: Folder, disks: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power failure nothing is booted that is half there; and nobody else may read what is made."""
    spec = make_spec(folder)
    path_of(folder, spec)
    steps: list[str] = []

    def sync(file: int) -> None:
        seen, found = os.fstat(file), disks.find(spec.server_id, Name.SYSTEM)
        if stat.S_ISDIR(seen.st_mode):
            steps.append(f"{Path(os.readlink(f'/proc/self/fd/{file}')).name} {found is not None}")
        else:
            steps.append(f"disk of {seen.st_mode & 0o777:o} {found is not None}")

    monkeypatch.setattr(os, "fsync", sync)
    disks.ensure_system(spec, GO_ON)
    assert steps == ["disk of 600 False", f"{spec.server_id} True", "instances True"]


def test_what_is_half_made_is_nobody_elses(tmp_path: Path) -> None:
    def make(part: Path) -> None:
        qemu_img.create_empty(part, size=1 << 20)
        modes.append(part.stat().st_mode & 0o777)

    modes: list[int] = []
    once(tmp_path / "disk", make)
    assert modes == [0o600]


def test_a_copy_that_nobody_wants_any_more_ends(folder: Folder, cache: ImageCache) -> None:
    spec, cancel = make_spec(folder, "qcow2"), Cancel()
    cancel.set()
    path = path_of(folder, spec)
    with pytest.raises(StaleEpoch):
        Raw(folder, cache).ensure_system(spec, cancel)
    assert list(path.parent.iterdir()) == []


def test_a_flavor_without_disk_takes_the_images_size(folder: Folder, disks: Files) -> None:
    spec = make_spec(folder, root_gb=0)
    path_of(folder, spec)
    disks.ensure_system(spec, GO_ON)
    assert info(made(disks, spec))["virtual-size"] == 3 << 20


def test_an_image_larger_than_the_flavor_is_refused_everywhere(
    folder: Folder, cache: ImageCache, disks: Files
) -> None:
    spec = make_spec(folder, "qcow2", root_gb=1)
    assert spec.image is not None
    base = cache.path(spec.image)
    base.unlink()
    qemu_img.create_empty(base, size=(1 << 30) + 512)
    path_of(folder, spec)
    with pytest.raises(BuildAborted, match="1 GiB"):
        disks.ensure_system(spec, GO_ON)


def test_a_disk_that_is_there_is_left_alone(folder: Folder, disks: Files) -> None:
    spec = make_spec(folder)
    path = path_of(folder, spec)
    path.write_text("the guest's")
    assert disks.ensure_system(spec, GO_ON) == ""
    assert path.read_text() == "the guest's"


def test_half_a_disk_of_a_killed_process_is_made_anew(folder: Folder, disks: Files) -> None:
    spec = make_spec(folder)
    path = path_of(folder, spec)
    half = {"qcow2": "disk.part", "raw": "disk.raw.part"}[disks.format]
    path.with_name(half).write_text("half")
    disks.ensure_system(spec, GO_ON)
    whole = made(disks, spec)
    assert info(whole)["format"] == disks.format
    assert list(path.parent.iterdir()) == [whole]


def test_a_disk_has_the_format_that_it_was_made_with(folder: Folder, cache: ImageCache, disks: Files) -> None:
    """Also when the other backend is configured later: a guest may have written another format's beginning
    into its raw disk."""
    spec = make_spec(folder)
    path_of(folder, spec)
    disks.ensure_system(spec, GO_ON)
    assert spec.image is not None
    disks.ensure_rescue(spec, spec.image, GO_ON)
    for later in (Qcow2(folder, cache), Raw(folder, cache)):
        assert later.ensure_system(spec, GO_ON) == ""
        for name in (Name.SYSTEM, Name.RESCUE):
            assert later.find(spec.server_id, name) == disks.find(spec.server_id, name)
    other = Raw(folder, cache) if disks.format == "qcow2" else Qcow2(folder, cache)
    other.remove(spec.server_id, Name.RESCUE)
    assert disks.find(spec.server_id, Name.RESCUE) is None


def test_an_iso_is_a_cd_and_has_no_overlay(folder: Folder, disks: Files) -> None:
    spec = make_spec(folder, "iso")
    path_of(folder, spec)
    assert disks.ensure_system(spec, GO_ON) == ""
    assert is_cdrom(spec)
    assert disks.find(spec.server_id, Name.SYSTEM) is None


def test_ephemeral_and_swap_are_formatted(folder: Folder, qcow2: Qcow2) -> None:
    spec = make_spec(folder, ephemeral_gb=1, swap_mb=64)
    path, swap = path_of(folder, spec, Name.EPHEMERAL), path_of(folder, spec, Name.SWAP)
    qcow2.ensure_ephemeral(spec)
    qcow2.ensure_swap(spec)
    assert path.stat().st_size == 1 << 30
    assert path.stat().st_blocks * 512 < 64 << 20, "sparse"
    with path.open("rb") as file:
        ephemeral = file.read(2048)
    assert ephemeral[1080:1082] == b"\x53\xef"  # ext's magic number
    assert ephemeral[1144:1154] == b"ephemeral0"
    assert swap.stat().st_size == 64 << 20
    assert swap.read_bytes()[4086:4096] == b"SWAPSPACE2"


def test_none_asked_none_made(folder: Folder, disks: Files) -> None:
    spec = make_spec(folder)
    path = path_of(folder, spec)
    disks.ensure_ephemeral(spec)
    disks.ensure_swap(spec)
    assert list(path.parent.iterdir()) == []


def test_a_flattened_disk_needs_no_other_file(folder: Folder, cache: ImageCache, disks: Files) -> None:
    spec = make_spec(folder, "qcow2")
    write(cache.path(spec.image), "qcow2", 0)  # type: ignore[arg-type]
    path = path_of(folder, spec)
    disks.ensure_system(spec, GO_ON)
    write(made(disks, spec), disks.format, 1 << 20)
    source = disks.find(spec.server_id, Name.SYSTEM)
    assert source is not None
    taken = path.with_name("taken")
    disks.flatten(source, taken, GO_ON)
    seen = info(taken)
    assert (seen["format"], seen["virtual-size"]) == ("qcow2", 1 << 30)
    assert "backing-filename" not in seen
    for at in (0, 1 << 20):
        check = f"read -q -P 0x5a {at} 4096"
        said = subprocess.check_output(["qemu-io", "-f", "qcow2", "-c", check, str(taken)], text=True)
        assert "failed" not in said, said


def test_qemu_img_says_why_it_failed(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"qemu-img create: .*No such file"):
        qemu_img.create_empty(tmp_path / "no" / "such", size=1 << 20)


def test_a_missing_tool_is_named(
    folder: Folder, qcow2: Qcow2, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = make_spec(folder)
    path_of(folder, spec)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildFailed, match="not installed"):
        qcow2.ensure_system(spec, GO_ON)


def test_a_server_without_image_gets_an_empty_disk(folder: Folder, disks: Files) -> None:
    spec = msgspec.structs.replace(make_spec(folder), image=None)
    path_of(folder, spec)
    assert disks.ensure_system(spec, GO_ON) == "blank"
    seen = info(made(disks, spec))
    assert "backing-filename" not in seen
    assert seen["virtual-size"] == 1 << 30


def test_the_base_of_an_overlay_is_read_from_the_overlay(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    qemu_img.create_empty(base, size=1 << 20)
    qemu_img.create_overlay(overlay, base=base, base_format="qcow2", size=1 << 21)
    assert qemu_img.backing_file(overlay) == str(base)
    assert qemu_img.backing_file(base) is None


def test_a_conversion_ends_with_its_reason(tmp_path: Path) -> None:
    source, target, cancel = tmp_path / "source", tmp_path / "target", Cancel()
    qemu_img.create_empty(source, size=1 << 20)
    with target.open("wb") as file:
        file.truncate(1 << 20)
    qemu_img.convert(source, "qcow2", str(target), cancel=cancel)
    assert target.read_bytes() == bytes(1 << 20)
    cancel.set()
    with pytest.raises(StaleEpoch):
        qemu_img.convert(source, "qcow2", str(target), cancel=cancel)
