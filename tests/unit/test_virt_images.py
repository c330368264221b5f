"""The image cache: fetched once, verified, and nothing left of what was bad."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import struct
import subprocess
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import msgspec
import pytest

from kilonova.cancel import Cancel
from kilonova.disk_image import transfer
from kilonova.disk_image.tree_hash import TreeHash
from kilonova.domain.errors import BuildAborted, BuildFailed, KilonovaError, NotFound, StaleEpoch, Unavailable
from kilonova.domain.servers import ImageRef
from kilonova.virt.libvirt import cached
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.images import ImageCache, virtual_size

GO_ON = Cancel()


class Source:
    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.opened = 0
        self.before_read: Callable[[], None] = lambda: None
        self.breaks_at: list[int] = []
        """Where each transfer breaks off; what is after these goes well."""
        self.begun_at: list[int] = []

    def open(self, image_id: str) -> BinaryIO:
        self.opened += 1
        self.before_read()
        return Stream(self)


class Stream(io.BytesIO):
    def __init__(self, source: Source) -> None:
        super().__init__(source.data)
        self._source = source
        self._end = source.breaks_at.pop(0) if source.breaks_at else None
        self._began = False

    def read(self, size: int | None = -1, /) -> bytes:
        if not self._began:
            self._source.begun_at.append(self.tell())
            self._began = True
        if self._end is not None:
            if self.tell() >= self._end:
                raise ConnectionResetError("the line broke")
            size = min(size or 0, self._end - self.tell())
        return super().read(size)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.make()
    return folder


def image(data: bytes, disk_format: str = "raw") -> ImageRef:
    return ImageRef(
        id=str(uuid.uuid4()),
        disk_format=disk_format,
        size=len(data),
        os_hash_value=hashlib.sha512(data).hexdigest(),
    )


def qcow2(path: Path, *options: str) -> bytes:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "64M"], check=True)
    return path.read_bytes()


def files(folder: Folder) -> list[str]:
    return sorted(path.name for path in folder.base.iterdir() if path.suffix not in (".lock", ".json"))


def test_twenty_builds_fetch_once(folder: Folder) -> None:
    source = Source(bytes(3 << 20))
    started = threading.Barrier(20)
    wanted = image(source.data)
    caches = [ImageCache(folder, source) for _ in range(2)]  # as two processes would

    def build(number: int) -> Path:
        started.wait()
        return caches[number % 2].ensure(wanted, GO_ON)

    with ThreadPoolExecutor(20) as pool:
        paths = set(pool.map(build, range(20)))
    assert source.opened == 1
    (path,) = paths
    assert path.read_bytes() == source.data
    assert path.stat().st_mode & 0o222 == 0, "nobody writes to a base image"


def test_images_of_the_same_bytes_are_one_file(folder: Folder) -> None:
    source = Source(bytes(1 << 20))
    cache = ImageCache(folder, source)
    assert cache.ensure(image(source.data), GO_ON) == cache.ensure(image(source.data), GO_ON)
    assert source.opened == 1


def test_a_good_qcow2(folder: Folder, tmp_path: Path) -> None:
    source = Source(qcow2(tmp_path / "good"))
    wanted = image(source.data, "qcow2")
    path = ImageCache(folder, source).ensure(wanted, GO_ON)
    assert virtual_size(path, wanted) == 64 << 20


def _with_backing_file(tmp_path: Path) -> bytes:
    qcow2(tmp_path / "base")
    return qcow2(tmp_path / "top", "-F", "qcow2", "-b", str(tmp_path / "base"))


def _with_data_file(tmp_path: Path) -> bytes:
    return qcow2(tmp_path / "top", "-o", f"data_file={tmp_path / 'data'},data_file_raw=on")


@pytest.mark.parametrize("make", [_with_backing_file, _with_data_file])
def test_a_qcow2_that_reads_other_files_is_refused(
    folder: Folder, tmp_path: Path, make: Callable[[Path], bytes]
) -> None:
    source = Source(make(tmp_path))
    with pytest.raises(BuildAborted, match="not safe"):
        ImageCache(folder, source).ensure(image(source.data, "qcow2"), GO_ON)
    assert files(folder) == []


def test_an_image_that_lies_about_its_format_is_refused(folder: Folder, tmp_path: Path) -> None:
    source = Source(qcow2(tmp_path / "disk"))
    with pytest.raises(BuildAborted, match="disk_format raw does not match stream data qcow2"):
        ImageCache(folder, source).ensure(image(source.data, "raw"), GO_ON)
    source.data = bytes(1 << 20)
    with pytest.raises(BuildAborted, match="disk_format qcow2 does not match stream data raw"):
        ImageCache(folder, source).ensure(image(source.data, "qcow2"), GO_ON)
    assert files(folder) == []


def test_a_raw_disk_may_have_a_partition_table(folder: Folder) -> None:
    partition = struct.pack("<BBBBBBBBII", 0x80, 1, 1, 0, 0x83, 1, 1, 1, 1, 100)
    source = Source(bytes(446) + partition + bytes(48) + b"\x55\xaa" + bytes(1 << 20))
    assert ImageCache(folder, source).ensure(image(source.data), GO_ON).exists()


@pytest.mark.parametrize("disk_format", ["vmdk", "vhd", "vdi", "ami", "ploop"])
def test_formats_that_do_not_boot_here_are_refused_before_the_fetch(folder: Folder, disk_format: str) -> None:
    source = Source(bytes(1 << 20))
    with pytest.raises(BuildAborted, match=disk_format):
        ImageCache(folder, source).ensure(image(source.data, disk_format), GO_ON)
    assert source.opened == 0


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_PAUSE", 0.0)


@pytest.mark.usefixtures("at_once")
def test_a_transfer_that_ends_early_may_be_tried_elsewhere(folder: Folder) -> None:
    data = os.urandom(2 << 20)
    wanted = image(data)
    with pytest.raises(Unavailable, match="ended after"):
        ImageCache(folder, Source(data[:-1])).ensure(wanted, GO_ON)
    again = Source(data)
    assert ImageCache(folder, again).ensure(wanted, GO_ON).read_bytes() == data
    assert again.begun_at == [len(data) - 1], "what had come came once"


@pytest.mark.usefixtures("at_once")
def test_a_transfer_that_breaks_goes_on_where_it_was(folder: Folder) -> None:
    """A qcow2's own header is long past when it goes on."""
    source = Source(os.urandom(3 << 20) + bytes(2 << 20) + b"end")
    source.breaks_at = [1 << 20, (4 << 20) + 7, (4 << 20) + 7]
    path = ImageCache(folder, source).ensure(image(source.data), GO_ON)
    assert path.read_bytes() == source.data
    assert source.begun_at == [0, 1 << 20, (4 << 20) + 7, (4 << 20) + 7]
    assert files(folder) == [path.name]


@pytest.mark.parametrize("left", [b"not what it was", b"x" * (9 << 20)], ids=["damaged", "longer"])
def test_what_a_crash_left_damaged_is_fetched_anew(folder: Folder, left: bytes) -> None:
    source = Source(os.urandom(2 << 20))
    cache, wanted = ImageCache(folder, source), image(source.data)
    cache.path(wanted).with_suffix(".part").write_bytes(left)
    assert cache.ensure(wanted, GO_ON).read_bytes() == source.data


def tree_hash(data: bytes, step: int = 1 << 20) -> str:
    tree = TreeHash()
    for start in range(0, len(data), step):
        tree.update(data[start : start + step])
    found = tree.hexdigest()
    tree.close()
    return found


def test_a_tree_hash_depends_on_the_bytes_alone() -> None:
    data = os.urandom((2 << 20) + 5)
    pieces = [data[: 1 << 20], data[1 << 20 : 2 << 20], data[2 << 20 :]]
    wanted = hashlib.sha256(b"".join(hashlib.sha256(piece).digest() for piece in pieces)).hexdigest()
    assert {tree_hash(data, step) for step in (70_001, 1 << 20, 1 << 22)} == {wanted}
    assert tree_hash(data[:-1] + b"x") != wanted


@pytest.mark.parametrize("at", [0, (1 << 20) + 3, (2 << 20) + 4])
def test_what_has_a_tree_hash_is_checked_by_it(folder: Folder, at: int) -> None:
    data = bytearray(os.urandom((2 << 20) + 5))
    wanted = msgspec.structs.replace(image(bytes(data)), tree_hash=tree_hash(bytes(data)))
    good = bytes(data)
    data[at] ^= 1
    with pytest.raises(BuildAborted, match="tree hash"):
        ImageCache(folder, Source(bytes(data))).ensure(wanted, GO_ON)
    assert files(folder) == []
    assert ImageCache(folder, Source(good)).ensure(wanted, GO_ON).read_bytes() == good


def test_zeros_of_an_image_take_no_space(folder: Folder) -> None:
    source = Source(b"head" + bytes(16 << 20))
    path = ImageCache(folder, source).ensure(image(source.data), GO_ON)
    assert path.read_bytes() == source.data
    assert path.stat().st_blocks * 512 < 4 << 20


def test_an_absurd_size_is_refused(folder: Folder, tmp_path: Path) -> None:
    data = bytearray(qcow2(tmp_path / "bomb"))
    data[24:32] = (1 << 62).to_bytes(8, "big")
    with pytest.raises(BuildAborted, match="impossible size"):
        ImageCache(folder, Source(bytes(data))).ensure(image(bytes(data), "qcow2"), GO_ON)
    assert files(folder) == []


@pytest.mark.parametrize("data", [b"\1" * (1 << 20), bytes((1 << 20) + 1)], ids=["changed", "longer"])
def test_other_bytes_than_promised_are_refused(folder: Folder, data: bytes) -> None:
    with pytest.raises(BuildAborted):
        ImageCache(folder, Source(data)).ensure(image(bytes(1 << 20)), GO_ON)
    assert files(folder) == []


def test_a_hash_that_is_a_path_is_refused(folder: Folder) -> None:
    wanted = msgspec.structs.replace(image(b"x"), os_hash_value="../../etc/passwd")
    with pytest.raises(BuildAborted):
        ImageCache(folder, Source(b"x")).ensure(wanted, GO_ON)
    with pytest.raises(KilonovaError):
        ImageCache(folder, Source(b"x")).ensure(
            msgspec.structs.replace(wanted, id="../../x", os_hash_value=None), GO_ON
        )


def test_an_image_that_the_store_lost_is_fatal(folder: Folder) -> None:
    class Nothing:
        def open(self, image_id: str) -> BinaryIO:
            raise NotFound(f"no data of {image_id}")

    with pytest.raises(BuildAborted, match="no data"):
        ImageCache(folder, Nothing()).ensure(image(b"x"), GO_ON)


def test_cancel_stops_the_fetch_which_is_not_there_then(folder: Folder) -> None:
    cancel = Cancel()
    source = Source(bytes(4 << 20))
    source.before_read = cancel.set
    cache, wanted = ImageCache(folder, source), image(source.data)
    with pytest.raises(StaleEpoch):
        cache.ensure(wanted, cancel)
    assert not cache.path(wanted).exists()


def test_cancel_stops_the_wait_for_another_fetch(folder: Folder) -> None:
    source = Source(bytes(1 << 20))
    fetching, finish, cancel = threading.Event(), threading.Event(), Cancel()

    def hold() -> None:
        fetching.set()
        assert finish.wait(60)

    source.before_read = hold
    wanted = image(source.data)
    cache, other_process = ImageCache(folder, source), ImageCache(folder, source)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(cache.ensure, wanted, GO_ON)
        assert fetching.wait(60)
        waiting = [pool.submit(one.ensure, wanted, cancel) for one in (cache, other_process)]
        cancel.set()
        for one in waiting:
            with pytest.raises(StaleEpoch):
                one.result(60)
        finish.set()
        assert first.result(60).exists()


class Full(io.FileIO):
    def write(self, _data: object, /) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_this_hosts_trouble(tmp_path: Path) -> None:
    source = Source(b"x" * 100)
    with Full(tmp_path / "part", "w+b") as target, pytest.raises(BuildFailed, match="no space") as raised:
        transfer.transfer(image(source.data), source, target, GO_ON)
    assert not isinstance(raised.value, BuildAborted)


def test_an_image_that_does_not_fit_is_not_begun(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached, "free_bytes", lambda _folder: 99)
    source = Source(b"x" * 100)
    with pytest.raises(BuildFailed, match="no space left") as raised:
        ImageCache(folder, source).ensure(image(source.data), GO_ON)
    assert not isinstance(raised.value, BuildAborted)
    assert source.opened == 0


def test_what_is_reserved_stays_free(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(b"x" * 100)
    monkeypatch.setattr(cached, "free_bytes", lambda _folder: (1 << 30) + 99)
    with pytest.raises(BuildFailed, match="no space left"):
        ImageCache(folder, source, reserve=1 << 30).ensure(image(source.data), GO_ON)
    assert source.opened == 0
    monkeypatch.setattr(cached, "free_bytes", lambda _folder: (1 << 30) + 100)
    assert ImageCache(folder, source, reserve=1 << 30).ensure(image(source.data), GO_ON).exists()


def test_some_of_a_disk_is_always_reserved(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests that find no space to write to stand still."""
    source = Source(b"x" * 100)
    monkeypatch.setattr(cached, "size_bytes", lambda _folder: 50 << 20)
    monkeypatch.setattr(cached, "free_bytes", lambda _folder: 500 << 10)
    with pytest.raises(BuildFailed, match="no space left"):
        ImageCache(folder, source).ensure(image(source.data), GO_ON)


def test_a_fetch_that_was_killed_at_its_last_line_goes_on(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not be written any more, and has not its name yet: all but root are refused."""
    really = os.open

    def opened(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR and path.exists() and not path.stat().st_mode & 0o200:
            raise PermissionError(errno.EACCES, "Permission denied")
        return really(path, flags, mode)

    monkeypatch.setattr(os, "open", opened)
    source = Source(b"x" * 100)
    cache, wanted = ImageCache(folder, source), image(source.data)
    part = cache.path(wanted).with_suffix(".part")
    part.write_bytes(source.data)
    part.chmod(0o444)
    cache.ensure(wanted, GO_ON)
    assert cache.path(wanted).stat().st_mode & 0o777 == 0o444


def test_a_build_has_its_image_though_nothing_can_be_noted(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remember(_path: Path, _image: ImageRef) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = Source(b"x" * 100)
    monkeypatch.setattr(cached, "remember", remember)
    assert ImageCache(folder, source).ensure(image(source.data), GO_ON).read_bytes() == source.data
