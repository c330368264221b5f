"""One image on its way to this host: it goes on where it broke, and what came is hashed and inspected by a
thread of its own, beside the reading and the writing.

What is in the file when a transfer begins is read again, as if it came now: nothing is believed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading
from typing import BinaryIO, Protocol

from kilonova import metrics
from kilonova.cancel import Cancel
from kilonova.domain.errors import (
    BuildAborted,
    BuildFailed,
    NotFound,
    StaleEpoch,
    Unavailable,
    UnsupportedMedia,
)
from kilonova.domain.servers import ImageRef

_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)
_AHEAD = 16
"""Chunks that may wait for the check, in memory."""
_SYNCED = 64 << 20
"""Bytes after which the disk is told to begin writing, so that the end need not wait for all of it."""
_TRIES = 3
"""Times that a source may break in a row, with nothing gained."""
_PAUSE = 1.0
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
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
    os.fsync(target.fileno())
    return size


def _transfer(image: ImageRef, source: ImageSource, target: BinaryIO, cancel: Cancel) -> int:
    check = _Check(image)
    try:
        have = _read_again(image, target, check, cancel)
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
        return check.verdict()
    finally:
        check.close()


def _read_again(image: ImageRef, target: BinaryIO, check: _Check, cancel: Cancel) -> int:
    target.seek(0)
    while chunk := target.read(_CHUNK):
        if cancel.is_set():
            raise _moved_on(image)
        check.feed(chunk)
    return target.tell()


def _receive(
    image: ImageRef, source: ImageSource, target: BinaryIO, start: int, check: _Check, cancel: Cancel
) -> None:
    """Write and check what comes until the source ends. Unavailable: it broke before."""
    try:
        stream = source.open(image.id)
    except NotFound as error:
        raise BuildAborted(f"image {image.id}: {error.message}") from error
    synced = have = start
    try:
        with stream:
            if start:
                stream.seek(start)
            while chunk := stream.read(_CHUNK):
                if cancel.is_set():
                    raise _moved_on(image)
                have += len(chunk)
                if have > image.size:
                    raise BuildAborted(f"image {image.id} is longer than the {image.size} bytes that it says")
                check.feed(chunk)
                _write(image, target, chunk)
                if have - synced >= _SYNCED:
                    _begin_writing(target, synced, have)
                    synced = have
    except (ConnectionError, TimeoutError) as error:
        raise Unavailable(str(error)) from error
    finally:
        _bytes.add(amount=have - start)
        # Zeros at the end were only passed over: what is known is what is there.
        _sized(image, target)


def _write(image: ImageRef, target: BinaryIO, chunk: bytes) -> None:
    """A chunk of zeros is a hole."""
    try:
        if chunk == _ZEROS:
            target.seek(len(chunk), os.SEEK_CUR)
            return
        rest = memoryview(chunk)
        while rest:
            rest = rest[target.write(rest) :]
    except OSError as error:
        raise _write_error(image, error) from error


def _sized(image: ImageRef, target: BinaryIO) -> None:
    try:
        target.truncate(target.tell())
    except OSError as error:
        raise _write_error(image, error) from error


def _begin_writing(target: BinaryIO, start: int, end: int) -> None:
    """Linux begins to write dirty pages that it is told not to keep, and waits for nothing; those that are
    dirty stay in memory, for the guests."""
    os.posix_fadvise(target.fileno(), start, end - start, os.POSIX_FADV_DONTNEED)


def _write_error(image: ImageRef, error: OSError) -> BuildFailed:
    if error.errno in _NO_SPACE:
        return NoSpace(f"image {image.id}: no space left for it on this host")
    return BuildFailed(f"image {image.id} could not be fetched: {error}")


def _moved_on(image: ImageRef) -> StaleEpoch:
    return StaleEpoch(f"image {image.id}: the build moved on while it was fetched")


class _Check:
    """The hash and the inspector, in a thread: sha512 may be slower than a disk, and needs no lock."""

    def __init__(self, image: ImageRef) -> None:
        from kilonova.disk_image.inspect import Inspector

        self._image = image
        self._digest = hashlib.sha512()
        self._inspector = Inspector(image.disk_format, image.container_format)
        self._chunks: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="image-check", daemon=True)
        self._thread.start()

    def feed(self, chunk: bytes) -> None:
        self._chunks.put(chunk)

    def close(self) -> None:
        """Safe to call again."""
        if self._thread.is_alive():
            self._chunks.put(None)
            self._thread.join()

    def verdict(self) -> int:
        """The virtual size. BuildAborted: the bytes are not those that were promised, or not safe."""
        self.close()
        if self._failure is not None:
            raise self._failure
        image, found = self._image, self._digest.hexdigest()
        if image.os_hash_value is not None and found != image.os_hash_value:
            raise BuildAborted(f"image {image.id}: its sha512 is {found}, not {image.os_hash_value}")
        try:
            return self._inspector.finish()
        except UnsupportedMedia as error:
            raise BuildAborted(f"image {image.id} is not safe to use: {error.message}") from error

    def _run(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            if self._failure is not None:
                continue
            try:
                self._digest.update(chunk)
                self._inspector.feed(chunk)
            except Exception as error:  # noqa: BLE001 - told to who waits for the verdict
                self._failure = error
