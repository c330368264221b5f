"""The disks of a server, looked at with other eyes than those that made them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import uuid
from pathlib import Path

import msgspec
import pytest

from kilonova.cancel import Cancel
from kilonova.disk_image import qemu_img
from kilonova.domain.errors import BuildAborted, BuildFailed, StaleEpoch
from kilonova.domain.servers import BuildSpec, Flavor, ImageRef
from kilonova.virt.libvirt import disks
from kilonova.virt.libvirt.folder import Folder, Instance
from kilonova.virt.libvirt.images import ImageCache


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.make()
    return folder


@pytest.fixture
def cache(folder: Folder) -> ImageCache:
    return ImageCache(folder, None)  # type: ignore[arg-type]  # nothing is fetched here


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


def instance_of(folder: Folder, spec: BuildSpec) -> Instance:
    instance = folder.instance(spec.server_id)
    instance.make()
    return instance


def info(path: Path) -> dict[str, object]:
    return json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", str(path)]))


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_the_system_disk_is_an_overlay_as_large_as_the_flavor(
    folder: Folder, cache: ImageCache, disk_format: str
) -> None:
    spec = make_spec(folder, disk_format, root_gb=2)
    instance = instance_of(folder, spec)
    disks.ensure_system_disk(spec, instance, cache)
    seen = info(instance.disk)
    assert seen["format"] == "qcow2"
    assert seen["virtual-size"] == 2 << 30
    assert seen["backing-filename-format"] == disk_format
    assert seen["backing-filename"] == str(cache.path(spec.image))  # type: ignore[arg-type]
    assert instance.disk.stat().st_mode & 0o077 == 0


def test_a_flavor_without_disk_takes_the_images_size(folder: Folder, cache: ImageCache) -> None:
    spec = make_spec(folder, root_gb=0)
    instance = instance_of(folder, spec)
    disks.ensure_system_disk(spec, instance, cache)
    assert info(instance.disk)["virtual-size"] == 3 << 20


def test_an_image_larger_than_the_flavor_is_refused_everywhere(folder: Folder, cache: ImageCache) -> None:
    spec = make_spec(folder, "qcow2", root_gb=1)
    assert spec.image is not None
    base = cache.path(spec.image)
    base.unlink()
    qemu_img.create_empty(base, size=(1 << 30) + 512)
    with pytest.raises(BuildAborted, match="1 GiB"):
        disks.ensure_system_disk(spec, instance_of(folder, spec), cache)


def test_a_disk_that_is_there_is_left_alone(folder: Folder, cache: ImageCache) -> None:
    spec = make_spec(folder)
    instance = instance_of(folder, spec)
    instance.disk.write_text("the guest's")
    disks.ensure_system_disk(spec, instance, cache)
    assert instance.disk.read_text() == "the guest's"


def test_half_a_disk_of_a_killed_process_is_made_anew(folder: Folder, cache: ImageCache) -> None:
    spec = make_spec(folder)
    instance = instance_of(folder, spec)
    instance.disk.with_name("disk.part").write_text("half")
    disks.ensure_system_disk(spec, instance, cache)
    assert info(instance.disk)["format"] == "qcow2"
    assert [path.name for path in instance.path.iterdir()] == ["disk"]


def test_an_iso_is_a_cd_and_has_no_overlay(folder: Folder, cache: ImageCache) -> None:
    spec = make_spec(folder, "iso")
    instance = instance_of(folder, spec)
    disks.ensure_system_disk(spec, instance, cache)
    assert disks.is_cdrom(spec)
    assert not instance.disk.exists()


def test_ephemeral_and_swap_are_formatted(folder: Folder) -> None:
    spec = make_spec(folder, ephemeral_gb=1, swap_mb=64)
    instance = instance_of(folder, spec)
    disks.ensure_ephemeral(spec, instance)
    disks.ensure_swap(spec, instance)
    assert instance.ephemeral.stat().st_size == 1 << 30
    assert instance.ephemeral.stat().st_blocks * 512 < 64 << 20, "sparse"
    with instance.ephemeral.open("rb") as file:
        ephemeral = file.read(2048)
    assert ephemeral[1080:1082] == b"\x53\xef"  # ext's magic number
    assert ephemeral[1144:1154] == b"ephemeral0"
    assert instance.swap.stat().st_size == 64 << 20
    assert instance.swap.read_bytes()[4086:4096] == b"SWAPSPACE2"


def test_none_asked_none_made(folder: Folder) -> None:
    spec = make_spec(folder)
    instance = instance_of(folder, spec)
    disks.ensure_ephemeral(spec, instance)
    disks.ensure_swap(spec, instance)
    assert list(instance.path.iterdir()) == []


def test_qemu_img_says_why_it_failed(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"qemu-img create: .*No such file"):
        qemu_img.create_empty(tmp_path / "no" / "such", size=1 << 20)


def test_a_missing_tool_is_named(
    folder: Folder, cache: ImageCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = make_spec(folder)
    instance = instance_of(folder, spec)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildFailed, match="not installed"):
        disks.ensure_system_disk(spec, instance, cache)


def test_a_server_without_image_gets_an_empty_disk(folder: Folder, cache: ImageCache) -> None:
    spec = msgspec.structs.replace(make_spec(folder), image=None)
    instance = instance_of(folder, spec)
    disks.ensure_system_disk(spec, instance, cache)
    assert "backing-filename" not in info(instance.disk)


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
