"""What goes of the cache of images, and what never does."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest
from click.testing import CliRunner

from kilonova.cancel import Cancel
from kilonova.cli import main
from kilonova.disk_image import qemu_img
from kilonova.domain.errors import BuildFailed
from kilonova.domain.servers import ImageRef
from kilonova.virt.libvirt import cached
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.images import ImageCache

DAY = 86400.0
GO_ON = Cancel()


class Source:
    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def image(self, size: int = 1 << 16) -> ImageRef:
        data = os.urandom(size)
        found = ImageRef(
            id=str(uuid.uuid4()),
            disk_format="raw",
            size=size,
            os_hash_value=hashlib.sha512(data).hexdigest(),
        )
        self.data[found.id] = data
        return found

    def open(self, image_id: str) -> BinaryIO:
        return io.BytesIO(self.data[image_id])


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.make()
    return folder


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def cache(folder: Folder, source: Source) -> ImageCache:
    return ImageCache(folder, source, lambda: set(cached.users(folder)))


def aged(path: Path, seconds: float = 2 * DAY) -> Path:
    before = time.time() - seconds
    os.utime(path, (before, before))
    return path


def overlay(folder: Folder, base: Path, name: str = "disk", way: str | None = None) -> str:
    instance = folder.instance(str(uuid.uuid4()))
    instance.make()
    disk = instance.path / name
    qemu_img.create_overlay(disk, base=Path(way) if way else base, base_format="raw", size=1 << 20)
    return instance.path.name


def test_what_is_old_and_unused_goes(cache: ImageCache, source: Source, folder: Folder) -> None:
    old, young, based = (cache.ensure(source.image(), GO_ON) for _ in range(3))
    server = overlay(folder, based)
    for path in (old, based):
        aged(path)
    assert cache.remove_unused(DAY) == [old.name]
    assert (old.exists(), young.exists(), based.exists()) == (False, True, True)
    shown = {one.file: one for one in cached.listed(folder)}
    assert shown.keys() == {young.name, based.name}
    assert shown[based.name].used_by == [server]
    assert shown[based.name].images == [image for image in source.data if image in shown[based.name].images]


def test_the_age_begins_when_the_last_disk_goes(cache: ImageCache, source: Source, folder: Folder) -> None:
    base = aged(cache.ensure(source.image(), GO_ON))
    server = overlay(folder, base)
    assert cache.remove_unused(DAY) == []
    folder.remove(server)
    assert cache.remove_unused(DAY) == []
    aged(base)
    assert cache.remove_unused(DAY) == [base.name]


def test_a_base_that_is_reached_by_another_way_is_kept(
    cache: ImageCache, source: Source, folder: Folder, tmp_path: Path
) -> None:
    """A folder that hosts share may have another path on each, and a disk may name its base relatively."""
    (tmp_path / "other").symlink_to(folder.root)
    bases = [aged(cache.ensure(source.image(), GO_ON)) for _ in range(2)]
    overlay(folder, bases[0], way=str(tmp_path / "other" / "_base" / bases[0].name))
    overlay(folder, bases[1], "disk.rescue", way=f"../../_base/{bases[1].name}")
    for base in bases:
        aged(base)
    assert cache.remove_unused(DAY) == []


def test_a_disk_that_cannot_be_read_keeps_everything(
    cache: ImageCache, source: Source, folder: Folder
) -> None:
    base = aged(cache.ensure(source.image(), GO_ON))
    instance = folder.instance(str(uuid.uuid4()))
    instance.make()
    (instance.path / "disk").write_bytes(b"QFI\xfb" + b"garbage")
    with pytest.raises(BuildFailed):
        cache.remove_unused(DAY)
    assert base.exists()


def test_the_cd_that_a_server_boots_from_stays(cache: ImageCache, source: Source, folder: Folder) -> None:
    """Also while it is rescued, and has it in no drive."""
    first, second = (aged(cache.ensure(source.image(), GO_ON)) for _ in range(2))
    instance = folder.instance(str(uuid.uuid4()))
    instance.make()
    for cd in (first, second, second):
        instance.boots_from(cd)
        assert cached.users(folder) == {cd.name: {instance.server_id}}
    assert cache.remove_unused(DAY) == [first.name]
    instance.boots_from(None)
    assert cached.users(folder) == {}


def test_what_guests_write_is_no_overlay(
    cache: ImageCache, source: Source, folder: Folder, tmp_path: Path
) -> None:
    """A guest writes what it likes into its raw disks and its console: that neither keeps an image nor stops
    the cache."""
    base = aged(cache.ensure(source.image(), GO_ON))
    instance = folder.instance(overlay(folder, base, "disk.eph0"))
    for name in ("disk.raw", "disk.rescue.raw", "disk.swap", "console.log", "disk.snapshot"):
        (instance.path / name).write_bytes(b"QFI\xfb" + b"garbage")
    assert cached.users(folder) == {}
    assert cache.remove_unused(DAY) == [base.name]


def test_what_a_build_asked_for_stays(cache: ImageCache, source: Source) -> None:
    """It has no disk yet; not even short space takes it away."""
    wanted = source.image()
    path = aged(cache.ensure(wanted, GO_ON))
    cache.ensure(wanted, GO_ON)
    assert cache.remove_unused(0) == []
    assert path.exists()


def test_space_is_made_of_what_nobody_uses(
    cache: ImageCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = aged(cache.ensure(source.image(), GO_ON), 3600)
    monkeypatch.setattr(cached, "free_bytes", lambda _folder: 0 if old.exists() else 1 << 30)
    assert cache.ensure(source.image(), GO_ON).exists()
    assert not old.exists()


def test_a_transfer_that_nobody_goes_on_with_goes(cache: ImageCache, source: Source) -> None:
    path = cache.path(source.image())
    part = path.with_suffix(".part")
    part.write_bytes(b"begun")
    assert cache.remove_unused(DAY) == []
    aged(part)
    assert cache.remove_unused(DAY) == [part.name]


def test_what_a_build_asks_for_meanwhile_stays(source: Source, folder: Folder) -> None:
    """Between the look at the disks and the removal."""
    wanted = source.image()
    others = ImageCache(folder, source)

    def in_use() -> Set[str]:
        others.ensure(wanted, GO_ON)
        return set()

    path = aged(others.ensure(wanted, GO_ON))
    assert ImageCache(folder, source, in_use).remove_unused(DAY) == []
    assert path.exists()


def test_an_admin_sees_what_is_cached(
    cache: ImageCache, source: Source, folder: Folder, tmp_path: Path
) -> None:
    used, begun = source.image(), source.image()
    server = overlay(folder, cache.ensure(used, GO_ON))
    cache.path(begun).with_suffix(".part").write_bytes(b"begun")
    state = tmp_path / "state"
    (state / "hosts").mkdir(parents=True)
    (state / "hosts" / "node-1").symlink_to(folder.root)
    shown = CliRunner().invoke(main, ["images", "--state", str(state)])
    assert shown.exit_code == 0, shown.output
    assert all(text in shown.output for text in ("node-1: 2 images", used.id, server, "not all of it"))
    assert CliRunner().invoke(main, ["images", "--state", str(tmp_path / "none")]).exit_code != 0


_FETCH = """
import hashlib, sys, threading
from pathlib import Path
from kilonova.cancel import Cancel
from kilonova.domain.servers import ImageRef
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.images import ImageCache

class Slow:
    def __init__(self, path):
        self.file, self.left = open(path, "rb"), 3 << 20
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self.file.close()
    def read(self, size):
        if self.left <= 0:
            print("stuck", flush=True)
            threading.Event().wait()
        self.left -= size
        return self.file.read(size)
    def open(self, image_id):
        return self

folder = Folder(Path(sys.argv[1]))
folder.make()
image = ImageRef(id=sys.argv[3], disk_format="raw", size=int(sys.argv[4]), os_hash_value=sys.argv[5])
ImageCache(folder, Slow(sys.argv[2])).ensure(image, Cancel())
"""


def test_a_fetch_that_was_killed_goes_on(source: Source, folder: Folder, tmp_path: Path) -> None:
    """kill -9: the one that waits for its turn begins where the dead one was."""
    wanted = source.image(8 << 20)
    data = source.data[wanted.id]
    (tmp_path / "data").write_bytes(data)
    given = [str(tmp_path / "data"), wanted.id, str(wanted.size), wanted.os_hash_value or ""]
    process = subprocess.Popen(
        [sys.executable, "-c", _FETCH, str(folder.root), *given], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    begun: list[int] = []

    class Later(io.BytesIO):
        def seek(self, offset: int, whence: int = 0, /) -> int:
            begun.append(offset)
            return super().seek(offset, whence)

    class Rest:
        def open(self, image_id: str) -> BinaryIO:
            return Later(source.data[image_id])

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ImageCache(folder, Rest()).ensure, wanted, GO_ON)
        process.kill()
        process.wait(60)
        process.stdout.close()
        assert waiting.result(30).read_bytes() == data
    assert begun == [3 << 20]
