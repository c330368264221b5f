"""Copies of a disk in a file: shared blocks where the file system can, else what is not zeros."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from kilonova.cancel import Cancel
from kilonova.domain.errors import StaleEpoch, VolumeFailed

_FICLONE = 0x40049409
_CANNOT = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS}
_STEP = 64 << 20
"""Bytes between two looks at whether the work moved on."""

# QEMU's locks on an image (its block/file-posix.c): who writes holds the one, who bears no writer the other.
_WRITES, _BEARS_NO_WRITER = 101, 201
_FLOCK = "hhqqi0q"


def clone(source: BinaryIO, target: BinaryIO) -> bool:
    """``target``, which is empty, shares the blocks of ``source`` as it is at this moment, whoever writes to
    it. False: this file system cannot."""
    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def copy(source: BinaryIO, target: BinaryIO, cancel: Cancel) -> None:
    """``target``, which is empty, holds what ``source`` holds; holes stay holes. StaleEpoch."""
    size = os.fstat(source.fileno()).st_size
    target.truncate(size)
    at = 0
    while (start := _next_data(source, at)) is not None:
        at = os.lseek(source.fileno(), start, os.SEEK_HOLE)
        _copy_range(source, target, start, at, cancel)
    stop_if(cancel)


def stop_if(cancel: Cancel) -> None:
    if cancel.is_set():
        raise StaleEpoch("the work moved on while a disk was copied")


class GuestWrites(VolumeFailed):
    """A guest has the disk, or may have: no copy of one moment can be made here."""


@contextmanager
def unwritten(file: BinaryIO) -> Iterator[None]:
    """No guest begins to write to the disk in the block. GuestWrites: one may be writing now.

    It is what ``qemu-img`` does before it reads an image: QEMU keeps to the same locks.
    """
    fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, _lock(fcntl.F_RDLCK, _BEARS_NO_WRITER))
    try:
        answer = fcntl.fcntl(file.fileno(), fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK, _WRITES))
        if struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK:
            raise GuestWrites(
                "a guest has the volume, and this file system cannot copy of one moment (XFS and Btrfs can)"
            )
        yield
    finally:
        fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, _lock(fcntl.F_UNLCK, _BEARS_NO_WRITER))


def _lock(kind: int, byte: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0)


def _next_data(source: BinaryIO, at: int) -> int | None:
    try:
        return os.lseek(source.fileno(), at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # only a hole comes, or nothing
            return None
        raise


def _copy_range(source: BinaryIO, target: BinaryIO, start: int, end: int, cancel: Cancel) -> None:
    at = start
    while at < end:
        stop_if(cancel)
        done = os.copy_file_range(source.fileno(), target.fileno(), min(_STEP, end - at), at, at)
        if not done:
            raise VolumeFailed("a disk became shorter while it was copied")
        at += done
