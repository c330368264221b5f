"""A disk on its way into a store that clones disks: what is not raw is made raw first.

qcow2 is read here and there, not from its first byte to its last, so that an upload is staged in a file. The
inspector has seen all of it before qemu-img opens it, and sees what comes out, too: a disk whose content
looks like another format never becomes an image.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kilonova.disk_image import qemu_img
from kilonova.domain.errors import BuildFailed, TooLarge, UnsupportedMedia
from kilonova.image.file import FileStore
from kilonova.image.upload import Upload

CONVERTED = frozenset({"qcow2"})
"""Formats that are made raw. Others are kept as they came, and are no disk that can be cloned."""
_AT_ONCE = 2
"""Conversions: each reads a whole disk, and may take the space of one."""


class Converter:
    """``staging`` keeps uploads, and disks made of them, for as long as they are on their way."""

    def __init__(self, staging: Path, max_size: int) -> None:
        self._staging = FileStore(staging)
        self._max_size = max_size
        self._turns = threading.BoundedSemaphore(_AT_ONCE)

    @contextmanager
    def converted(self, image_id: str, upload: Upload, disk_format: str, max_size: int) -> Iterator[BinaryIO]:
        """The disk in the upload, raw; in a file that is sparse, and is gone after the block.

        TooLarge: the disk is larger than may be converted. UnsupportedMedia: qemu-img cannot read it.
        """
        raw = self._raw(image_id)
        try:
            self._staging.put(image_id, upload, max_size)
            size = upload.data.virtual_size
            if size > self._max_size:
                raise TooLarge(f"The disk in the image has {size} bytes, more than {self._max_size}")
            with self._turns:
                _convert(self._staging.path(image_id), disk_format, raw, size)
            self._staging.delete(image_id)
            with raw.open("rb") as file:
                yield file
        finally:
            self.forget(image_id)

    def forget(self, image_id: str) -> None:
        """Nothing of it is left here."""
        self._staging.delete(image_id)
        self._raw(image_id).unlink(missing_ok=True)

    def _raw(self, image_id: str) -> Path:
        return self._staging.path(image_id).with_suffix(".raw")


def _convert(source: Path, disk_format: str, target: Path, size: int) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.truncate(size)
    try:
        qemu_img.convert(source, disk_format, str(target))
    except BuildFailed as error:
        if "No space left" in error.message:
            raise TooLarge("Image storage media is full: the image cannot be converted") from error
        raise UnsupportedMedia(f"The {disk_format} image cannot be read: {error.message}") from error
