"""``raw``: a copy of the host's cached image, sparse; shared with it where the file system can (reflink)."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from kilonova.cancel import Cancel
from kilonova.disk_image import qemu_img
from kilonova.domain.errors import BuildFailed, StaleEpoch
from kilonova.domain.servers import ImageRef
from kilonova.virt.libvirt.disk.files import Files
from kilonova.virt.libvirt.images import BOOTABLE_FORMATS

_FICLONE = 0x40049409
_CANNOT_SHARE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS}
_PIECE = 1 << 26
"""Bytes between two looks whether the copy is still wanted."""


class Raw(Files):
    format = "raw"
    made_of_image = "copy"

    def _of_image(self, path: Path, image: ImageRef, size: int, cancel: Cancel) -> None:
        base, base_format = self._images.path(image), BOOTABLE_FORMATS[image.disk_format]
        if base_format == "raw":
            if not shared(base, path):
                self._images.make_room(base.stat().st_blocks * 512, f"a disk of image {image.id}")
                copy(base, path, cancel)
            os.truncate(path, size)
        else:
            needed = qemu_img.data_bytes(base, base_format, cancel)
            self._images.make_room(needed, f"a disk of image {image.id}")
            self._blank(path, size)
            qemu_img.convert(base, base_format, str(path), cancel=cancel)

    def _blank(self, path: Path, size: int) -> None:
        with path.open("wb") as file:
            file.truncate(size)


def shared(base: Path, path: Path) -> bool:
    """``path`` shares the blocks of ``base``. False: this file system cannot."""
    with base.open("rb") as source, path.open("wb") as target:
        try:
            fcntl.ioctl(target, _FICLONE, source.fileno())
        except OSError as error:
            if error.errno in _CANNOT_SHARE:
                return False
            raise
        return True


def copy(base: Path, path: Path, cancel: Cancel) -> None:
    """The same bytes and the same holes. StaleEpoch as soon as ``cancel`` is set."""
    with base.open("rb") as source, path.open("wb") as target:
        size = os.fstat(source.fileno()).st_size
        target.truncate(size)
        at = 0
        while (data := _next_data(source.fileno(), at)) is not None:
            at, end = data, os.lseek(source.fileno(), data, os.SEEK_HOLE)
            while at < end:
                if cancel.is_set():
                    raise StaleEpoch("the build moved on while its disk was copied")
                came = os.copy_file_range(source.fileno(), target.fileno(), min(_PIECE, end - at), at, at)
                if not came:
                    raise BuildFailed(f"{base.name} became shorter while it was copied")
                at += came


def _next_data(file: int, at: int) -> int | None:
    try:
        return os.lseek(file, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
