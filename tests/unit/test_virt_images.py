"""The image cache: fetched once, verified, and nothing left of what was bad."""

from __future__ import annotations

import hashlib
import io
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
from kilonova.domain.errors import BuildAborted, BuildFailed, KilonovaError, NotFound, StaleEpoch
from kilonova.domain.servers import ImageRef
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.images import ImageCache, virtual_size

GO_ON = Cancel()


class Source:
    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.opened = 0
        self.before_read: Callable[[], None] = lambda: None

    def open(self, image_id: str) -> BinaryIO:
        self.opened += 1
        self.before_read()
        return io.BytesIO(self.data)


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
    return sorted(path.name for path in folder.base.iterdir() if path.suffix != ".lock")


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
    with pytest.raises(BuildAborted, match="says it is raw, but it is qcow2"):
        ImageCache(folder, source).ensure(image(source.data, "raw"), GO_ON)
    source.data = bytes(1 << 20)
    with pytest.raises(BuildAborted, match=r"not a valid qcow2|says it is qcow2"):
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


def test_a_transfer_that_ends_early_may_be_tried_elsewhere(folder: Folder) -> None:
    data = bytes(2 << 20)
    with pytest.raises(BuildFailed, match="ended after") as raised:
        ImageCache(folder, Source(data[:-1])).ensure(image(data), GO_ON)
    assert not isinstance(raised.value, BuildAborted)
    assert files(folder) == []
    assert ImageCache(folder, Source(data)).ensure(image(data), GO_ON).exists()


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


def test_cancel_stops_the_fetch_and_leaves_nothing(folder: Folder) -> None:
    cancel = Cancel()
    source = Source(bytes(4 << 20))
    source.before_read = cancel.set
    with pytest.raises(StaleEpoch):
        ImageCache(folder, source).ensure(image(source.data), cancel)
    assert files(folder) == []


def test_cancel_stops_the_wait_for_another_fetch(folder: Folder) -> None:
    source = Source(bytes(1 << 20))
    fetching, finish, cancel = threading.Event(), threading.Event(), Cancel()

    def hold() -> None:
        fetching.set()
        assert finish.wait(10)

    source.before_read = hold
    wanted = image(source.data)
    cache, other_process = ImageCache(folder, source), ImageCache(folder, source)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(cache.ensure, wanted, GO_ON)
        assert fetching.wait(10)
        waiting = [pool.submit(one.ensure, wanted, cancel) for one in (cache, other_process)]
        cancel.set()
        for one in waiting:
            with pytest.raises(StaleEpoch):
                one.result(5)
        finish.set()
        assert first.result(5).exists()


def test_a_full_disk_is_this_hosts_trouble(
    tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, _data: object) -> int:
            raise OSError(28, "No space left on device")

        def fileno(self) -> int:
            return target.fileno()

    with (tmp_path / "x").open("wb") as target:
        monkeypatch.setattr(Path, "open", _open_full(Full, Path.open))
        with pytest.raises(BuildFailed, match="no space left") as raised:
            ImageCache(folder, Source(b"x" * 100)).ensure(image(b"x" * 100), GO_ON)
    assert not isinstance(raised.value, BuildAborted)


def _open_full(full: Callable[[], BinaryIO], real: Callable[..., BinaryIO]) -> Callable[..., BinaryIO]:
    def opened(path: Path, mode: str = "r", *rest: object) -> BinaryIO:
        return full() if path.suffix == ".part" else real(path, mode, *rest)

    return opened
