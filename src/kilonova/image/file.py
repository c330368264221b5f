"""Images as files in one folder, each named by its id.

An upload goes to a temporary file that is synced and then renamed: under an image's name there is always all
of it. A temporary file is locked for as long as its writer lives, so that a start finds and removes what a
kill left, and never what another process is still writing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kilonova import log
from kilonova.disk_image.durable import sync_folder
from kilonova.domain.errors import BadRequest, NotFound, TooLarge, Unavailable
from kilonova.domain.servers import ImageLocation
from kilonova.image.base import checked

BLOCK = 1 << 20
_PARTIAL = ".part"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_log = log.get("image")


class FileStore:
    """An ImageStore in ``folder``, which is made if it is missing."""

    name = "file"
    keeps_disks = False

    def __init__(self, folder: Path, reserve: int = 0) -> None:
        """``reserve``: bytes of the disk that an upload leaves free."""
        self._folder = folder
        self._reserve = reserve
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._remove_partials()

    def put(self, image_id: str, chunks: Iterable[bytes], max_size: int) -> int:
        """All of ``chunks`` or nothing; what they raise passes on.

        TooLarge past ``max_size`` bytes, or when the disk is full; Unavailable if the disk fails.
        """
        target = self.path(image_id)
        partial = self._folder / f"{target.name}.{uuid.uuid4().hex}{_PARTIAL}"
        try:
            with _storage_errors():
                descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                size = _write(file, chunks, max_size, self._reserve)
                with _storage_errors():
                    os.fsync(file.fileno())
                    partial.rename(target)
            sync_folder(self._folder)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return size

    def open(self, image_id: str) -> BinaryIO:
        try:
            return self.path(image_id).open("rb")
        except FileNotFoundError:
            raise NotFound(f"The store has no data of image {image_id}") from None

    def read(self, image_id: str) -> Iterator[bytes]:
        with self.open(image_id) as file:
            while block := file.read(BLOCK):
                yield block

    def delete(self, image_id: str) -> None:
        with _storage_errors():
            self.path(image_id).unlink(missing_ok=True)
        sync_folder(self._folder)

    def location(self, image_id: str) -> ImageLocation | None:
        return None

    @contextmanager
    def reading(self, disk: ImageLocation) -> Iterator[BinaryIO]:
        raise BadRequest("images are kept in files")
        yield

    def path(self, image_id: str) -> Path:
        """The file of that image. BadRequest unless the id is a UUID in its canonical form."""
        return self._folder / checked(image_id)

    def _remove_partials(self) -> None:
        for partial in self._folder.glob(f"*{_PARTIAL}"):
            with suppress(FileNotFoundError), partial.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # its writer lives
                partial.unlink()
                _log.info("half_upload_removed", file=partial.name)


def free_bytes(descriptor: int) -> int:
    """Of the disk that the file is on."""
    found = os.fstatvfs(descriptor)
    return found.f_bavail * found.f_frsize


def _write(file: BinaryIO, chunks: Iterable[bytes], max_size: int, reserve: int) -> int:
    """Only the writes are ours to explain: an OSError of ``chunks`` is the client's connection."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > max_size:
            raise TooLarge(f"The incoming image is too large: it is more than {max_size} bytes")
        if reserve and free_bytes(file.fileno()) < reserve + len(chunk):
            raise TooLarge(f"Image storage media is full: {reserve >> 20} MiB are kept free")
        rest = memoryview(chunk)
        while rest:
            with _storage_errors():
                rest = rest[file.write(rest) :]
    return size


@contextmanager
def _storage_errors() -> Iterator[None]:
    """A full disk is TooLarge (as Glance answers); anything else of the disk's is Unavailable."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "unknown error"
        if error.errno in _FULL:
            raise TooLarge(f"Image storage media is full: {reason}") from error
        raise Unavailable(f"Image storage does not work: {reason}") from error
