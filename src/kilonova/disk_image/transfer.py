"""One image on its way to this host: it goes on where it broke, and what came is hashed and inspected beside
the copying, as it is in the file: what was there when a transfer began, too. Nothing is believed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import BinaryIO, Protocol

from kilonova import metrics
from kilonova.cancel import Cancel
from kilonova.disk_image.check import Check
from kilonova.domain.errors import (
    BuildAborted,
    BuildFailed,
    NotFound,
    StaleEpoch,
    Unavailable,
)
from kilonova.domain.servers import ImageRef

_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)
_COPIED = 16 << 20
"""Bytes that the kernel copies at once, between two files of this machine."""
_SYNCED = 128 << 20
"""Bytes after which the disk writes them, while the check goes on: the end need not wait for all of it."""
_TRIES = 3
"""Times that a source may break in a row, with nothing gained."""
_PAUSE = 1.0
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NOT_BETWEEN_THESE = {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_bytes = metrics.Counter("image_fetched_bytes", "Bytes of images that came to this host.")


class ImageSource(Protocol):
    """Where the bytes come from (the image service has the same)."""

    def open(self, image_id: str) -> BinaryIO:
        """Read from its first byte, or after one seek() from there."""


class NoSpace(BuildFailed):
    """The disk is full."""


def transfer(image: ImageRef, source: ImageSource, target: BinaryIO, cancel: Cancel) -> int:
    """``target``, open for reading and writing, holds all of the image when this returns, verified and
    synced: the disk's virtual size.

    What it held before is the beginning of the image, or is damaged: then all of it is fetched anew.
    BuildAborted: the bytes are not the image, or not what they say. Unavailable: it broke, and may go on
    later. NoSpace. StaleEpoch as soon as ``cancel`` is set.
    """
    resumed = target.seek(0, os.SEEK_END)
    try:
        if resumed > image.size:
            raise BuildAborted(f"image {image.id} is longer than the {image.size} bytes that it says")
        size = _transfer(image, source, target, cancel)
    except BuildAborted:
        if not resumed:
            raise
        target.truncate(0)
        size = _transfer(image, source, target, cancel)
    return size


def _transfer(image: ImageRef, source: ImageSource, target: BinaryIO, cancel: Cancel) -> int:
    have = target.seek(0, os.SEEK_END)
    with Check(image, target.fileno(), cancel) as check:
        check.reached(have)
        failures = 0
        while have < image.size:
            begun, broken = have, f"the transfer ended after {have} of {image.size} bytes"
            try:
                _receive(image, source, target, have, check, cancel)
            except Unavailable as error:
                broken = error.message
            have = target.tell()
            failures = failures + 1 if have == begun else 0
            if failures >= _TRIES:
                raise Unavailable(f"image {image.id}: {broken}")
            if failures > 1 and cancel.wait(_PAUSE):
                raise _moved_on(image)
        os.fsync(target.fileno())  # while the check ends
        return check.verdict()


def _receive(
    image: ImageRef, source: ImageSource, target: BinaryIO, start: int, check: Check, cancel: Cancel
) -> None:
    """Write what comes until the source ends. Unavailable: it broke before."""
    try:
        stream = source.open(image.id)
    except NotFound as error:
        raise BuildAborted(f"image {image.id}: {error.message}") from error
    synced = have = start
    try:
        with stream:
            if start:
                stream.seek(start)
            copy = _copying(image, stream, target)
            while came := copy(have):
                have += came
                if cancel.is_set():
                    raise _moved_on(image)
                if have > image.size:
                    raise BuildAborted(f"image {image.id} is longer than the {image.size} bytes that it says")
                check.reached(target.tell())
                if have - synced >= _SYNCED:
                    os.fdatasync(target.fileno())
                    synced = have
    except (ConnectionError, TimeoutError) as error:
        raise Unavailable(str(error)) from error
    finally:
        _bytes.add(amount=have - start)
        _sized(image, target)


def _copying(image: ImageRef, stream: BinaryIO, target: BinaryIO) -> Callable[[int], int]:
    """What copies the next bytes, and says how many; given where it is."""
    descriptor = _file(stream)
    if descriptor is None or image.disk_format == "raw":
        return lambda _at: _written(image, stream, target)

    def in_kernel(at: int) -> int:
        try:
            came = os.copy_file_range(descriptor, target.fileno(), _COPIED, at, at)
        except OSError as error:
            if error.errno not in _NOT_BETWEEN_THESE:
                raise _write_error(image, error) from error
            stream.seek(at)
            return _written(image, stream, target)
        target.seek(at + came)
        return came

    return in_kernel


def _file(stream: BinaryIO) -> int | None:
    """The descriptor of a plain file."""
    try:
        descriptor = stream.fileno()
    except (OSError, AttributeError):
        return None
    return descriptor if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _written(image: ImageRef, stream: BinaryIO, target: BinaryIO) -> int:
    """A chunk of zeros is a hole: raw disks have many."""
    chunk = stream.read(_CHUNK)
    try:
        if chunk == _ZEROS:
            target.seek(len(chunk), os.SEEK_CUR)
            _sized(image, target)
        else:
            rest = memoryview(chunk)
            while rest:
                rest = rest[target.write(rest) :]
            target.flush()
    except OSError as error:
        raise _write_error(image, error) from error
    return len(chunk)


def _sized(image: ImageRef, target: BinaryIO) -> None:
    """What was passed over is there, and nothing behind it."""
    try:
        target.truncate(target.tell())
    except OSError as error:
        raise _write_error(image, error) from error


def _write_error(image: ImageRef, error: OSError) -> BuildFailed:
    if error.errno in _NO_SPACE:
        return NoSpace(f"image {image.id}: no space left for it on this host")
    return BuildFailed(f"image {image.id} could not be fetched: {error}")


def _moved_on(image: ImageRef) -> StaleEpoch:
    return StaleEpoch(f"image {image.id}: the build moved on while it was fetched")
