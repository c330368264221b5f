"""A disk on its way into a store that clones disks: what is not raw is made raw first.

qcow2 is read here and there, not from its first byte to its last, so that an upload is staged in a file. The
inspector has seen all of it before qemu-img opens it, and sees what comes out, too: a disk whose content
looks like another format never becomes an image.

A small file may be a large disk, and each conversion keeps the thread of its request. So there are only some
at once, few that wait, and none that takes the last of the disk it is staged on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kilonova import log
from kilonova.cancel import Cancel
from kilonova.disk_image import qemu_img
from kilonova.domain.errors import (
    BuildFailed,
    KilonovaError,
    NotFound,
    StaleEpoch,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from kilonova.image import file as files
from kilonova.image.file import FileStore
from kilonova.image.places import Places
from kilonova.image.upload import Source, Upload

CONVERTED = frozenset({"qcow2"})
"""Formats that are made raw. Others are kept as they came, and are no disk that can be cloned."""
_AT_ONCE = 2
"""Conversions: each reads a whole disk, and may take the space of one."""
_WAITING, _PATIENCE = 4, 600.0
"""Uploads that wait for a conversion, far fewer than the API has threads; and for how many seconds."""
_LOOK = 1.0
"""Seconds between two looks at the disk's free space: nothing tells when others fill it."""
_log = log.get("image")


class Converter:
    """``staging`` keeps uploads, and disks made of them, for as long as they are on their way. ``reserve``:
    bytes of its disk that are left free."""

    def __init__(self, staging: Path, max_size: int, reserve: int = 0) -> None:
        self._staging = FileStore(staging, reserve)
        self._max_size = max_size
        self._reserve = reserve
        self._places = Places(_AT_ONCE, _WAITING, _PATIENCE)
        self._lock = threading.Lock()
        self._under_way: dict[str, _Conversion] = {}

    @contextmanager
    def converted(self, image_id: str, upload: Upload, disk_format: str, max_size: int) -> Iterator[Source]:
        """The disk in the upload, raw, from a file that is gone after the block.

        TooLarge: the disk is larger than may be converted, or than what is free. UnsupportedMedia: qemu-img
        cannot read it. Unavailable: too many others are at it, or this process stops. NotFound: stop() was
        called, here or in another process; reading raises it, too.
        """
        one = _Conversion(image_id, self._staging.path(image_id), disk_format)
        try:
            with self._known(one):
                self._staging.put(image_id, upload, max_size)
                size = upload.data.virtual_size
                if size > self._max_size:
                    raise TooLarge(f"The disk in the image has {size} bytes, more than {self._max_size}")
                with self._places.taken(one.cancel), self._watched(one):
                    self._make_room(one)
                    one.convert(size)
                    self._staging.delete(image_id)
                    with one.raw.open("rb") as file:
                        yield _Disk(file, one)
        finally:
            self._remove(image_id)

    def stop(self, image_id: str) -> None:
        """Its upload is not wanted any more: a conversion ends soon, in whatever process it is."""
        with self._lock:
            one = self._under_way.get(image_id)
        if one is not None:
            one.end(_deleted(image_id))
        try:
            self._remove(image_id)  # what others see
        except KilonovaError as error:
            _log.warning("staged_image_not_removed", image=image_id, reason=error.message)

    def forget(self, image_id: str) -> None:
        """Nothing of it is left here."""
        self._remove(image_id)

    def close(self) -> None:
        """All conversions end soon."""
        with self._lock:
            found = list(self._under_way.values())
        for one in found:
            one.end(Unavailable("The image service stops: try again later"))

    def _remove(self, image_id: str) -> None:
        self._staging.delete(image_id)
        _raw(self._staging.path(image_id)).unlink(missing_ok=True)

    @contextmanager
    def _known(self, one: _Conversion) -> Iterator[None]:
        with self._lock:
            self._under_way[one.image_id] = one
        try:
            yield
        finally:
            with self._lock:
                del self._under_way[one.image_id]

    def _make_room(self, one: _Conversion) -> None:
        """TooLarge if there is none for it, beside what the others under way still need."""
        one.begin()
        with self._lock:
            free = _free(one.raw) - self._reserve - sum(other.missing() for other in self._under_way.values())
            if one.needed <= free:
                one.promised = one.needed
                return
        raise TooLarge(
            f"Image storage media is full: the disk in the image takes {one.needed >> 20} MiB, "
            f"and {max(free, 0) >> 20} MiB are free"
        )

    @contextmanager
    def _watched(self, one: _Conversion) -> Iterator[None]:
        """In the block it is ended when the disk gets full, or when its file was taken away."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_LOOK):
                try:
                    free = _free(one.raw)
                except FileNotFoundError:
                    one.end(_deleted(one.image_id))
                else:
                    if free < self._reserve:
                        one.end(TooLarge("Image storage media is full: the image cannot be converted"))

        one.make_file()
        watcher = threading.Thread(target=watch, name="image-conversion", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


class _Conversion:
    """One, and why it ends if it does not end by itself."""

    def __init__(self, image_id: str, source: Path, disk_format: str) -> None:
        self.image_id = image_id
        self.raw = _raw(source)
        self.cancel = Cancel()
        self.needed = self.promised = 0
        """Bytes that it takes of the disk; and as soon as it may have them."""
        self._source = source
        self._format = disk_format
        self._why: KilonovaError | None = None

    def end(self, why: KilonovaError) -> None:
        self._why = self._why or why
        self.cancel.set()

    def go_on(self) -> None:
        if self._why is not None:
            raise self._why

    def make_file(self) -> None:
        self.go_on()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(self.raw, flags, 0o600))

    def begin(self) -> None:
        if not self._source.exists():
            raise _deleted(self.image_id)
        with self._explained():
            self.needed = qemu_img.data_bytes(self._source, self._format, self.cancel)

    def missing(self) -> int:
        """Bytes that were promised to it, and that it has not taken yet."""
        with suppress(FileNotFoundError):
            return max(self.promised - self.raw.stat().st_blocks * 512, 0)
        return 0

    def convert(self, size: int) -> None:
        with self._explained():
            os.truncate(self.raw, size)
            qemu_img.convert(self._source, self._format, str(self.raw), cancel=self.cancel)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (StaleEpoch, FileNotFoundError):
            self.go_on()
            raise _deleted(self.image_id) from None
        except BuildFailed as error:
            self.go_on()
            if not self.raw.exists():
                raise _deleted(self.image_id) from None
            if "No space left" in error.message:
                raise TooLarge("Image storage media is full: the image cannot be converted") from error
            raise UnsupportedMedia(f"The {self._format} image cannot be read: {error.message}") from error


class _Disk:
    """What came of it, read for as long as it is wanted."""

    def __init__(self, file: BinaryIO, one: _Conversion) -> None:
        self._file = file
        self._one = one

    def read(self, size: int, /) -> bytes:
        self._one.go_on()
        return self._file.read(size)


def _raw(staged: Path) -> Path:
    return staged.with_suffix(".raw")


def _free(path: Path) -> int:
    with path.open("rb") as file:
        return files.free_bytes(file.fileno())


def _deleted(image_id: str) -> NotFound:
    return NotFound(f"Image {image_id} was deleted during the upload.")
