"""The host's cache of images: each is fetched exactly once, however many builds wait for it.

A file in ``_base`` is complete and verified, or it is not there: it is written beside, hashed and inspected
on the way, synced, and renamed. One at a time fetches it (turns.py), of this process or another one over the
same folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import BinaryIO, Protocol

from oslo_utils.imageutils import format_inspector

from kilonova import log
from kilonova.cancel import Cancel
from kilonova.domain.errors import BuildAborted, BuildFailed, KilonovaError, NotFound, StaleEpoch, Unavailable
from kilonova.domain.servers import ImageRef
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.turns import Turn

_CHUNK = 1 << 20
BOOTABLE_FORMATS = {"qcow2": "qcow2", "raw": "raw", "iso": "raw"}
"""Image format → what QEMU calls it. Others must be converted before they are uploaded."""
_log = log.get("virt.images")


class ImageSource(Protocol):
    """Where the bytes come from (the image service has the same)."""

    def open(self, image_id: str) -> BinaryIO: ...


class ImageCache:
    def __init__(self, folder: Folder, source: ImageSource) -> None:
        self._folder = folder
        self._source = source
        self._turns: dict[str, Turn] = {}
        self.fetches = 0
        """Images really fetched since the start."""

    def path(self, image: ImageRef) -> Path:
        return self._folder.image(image.id, image.os_hash_value)

    def ensure(self, image: ImageRef, cancel: Cancel) -> Path:
        """The verified file of the image. StaleEpoch as soon as ``cancel`` is set.

        BuildAborted if the image is bad; BuildFailed if this host could not get it; Unavailable if the
        image service does not answer.
        """
        if image.disk_format not in BOOTABLE_FORMATS:
            raise BuildAborted(f"image {image.id}: a guest cannot boot the format {image.disk_format!r} here")
        path = self.path(image)
        if path.exists():
            return path
        turn = self._turns.setdefault(path.name, Turn(path.with_suffix(".lock")))
        with turn.taken(cancel):
            if not path.exists():
                self._fetch(image, path, cancel)
        return path

    def _fetch(self, image: ImageRef, path: Path, cancel: Cancel) -> None:
        part = path.with_suffix(".part")
        self.fetches += 1
        try:
            with self._source.open(image.id) as source, part.open("wb") as target:
                os.fchmod(target.fileno(), 0o444)
                _copy(image, source, target, cancel)
                target.flush()
                os.fsync(target.fileno())
            part.rename(path)
        except NotFound as error:
            raise BuildAborted(f"image {image.id}: {error.message}") from error
        except OSError as error:
            raise _fetch_error(image, error) from error
        finally:
            part.unlink(missing_ok=True)
        _sync_folder(path.parent)
        _log.info("image_fetched", image=image.id, size=image.size)


def _copy(image: ImageRef, source: BinaryIO, target: BinaryIO, cancel: Cancel) -> None:
    """Copy, hash and inspect in one pass; raise if the bytes are not the image, or not what they say."""
    digest = hashlib.sha512()
    inspected = format_inspector.InspectWrapper(source)
    size = 0
    while chunk := _next(inspected, image):
        if cancel.is_set():
            raise StaleEpoch(f"image {image.id}: the build moved on while it was fetched")
        size += len(chunk)
        if size > image.size:
            raise BuildAborted(f"image {image.id} is longer than the {image.size} bytes that it says")
        digest.update(chunk)
        target.write(chunk)
    inspected.close()
    if size < image.size:
        raise BuildFailed(f"image {image.id}: the transfer ended after {size} of {image.size} bytes")
    if image.os_hash_value is not None and digest.hexdigest() != image.os_hash_value:
        raise BuildAborted(f"image {image.id}: its sha512 is {digest.hexdigest()}, not {image.os_hash_value}")
    _check_format(image, inspected)


def _next(inspected: format_inspector.InspectWrapper, image: ImageRef) -> bytes:
    try:
        return bytes(inspected.read(_CHUNK))
    except format_inspector.ImageFormatError as error:
        raise BuildAborted(f"image {image.id} is not a valid {image.disk_format}: {error}") from error


def _check_format(image: ImageRef, inspected: format_inspector.InspectWrapper) -> None:
    """The content is of the format that the image says, and asks for no other file of the host."""
    try:
        found = inspected.format
        if found is None:
            raise BuildAborted(f"image {image.id}: its format cannot be told")
        found.safety_check()
    except format_inspector.ImageFormatError as error:
        raise BuildAborted(f"image {image.id} is not a valid {image.disk_format}: {error}") from error
    except format_inspector.SafetyCheckFailed as error:
        failed = ", ".join(f"{name}: {why}" for name, why in error.failures.items())
        raise BuildAborted(f"image {image.id} is not safe to use: {failed}") from error
    # A raw disk with a partition table is still a raw disk.
    name = "raw" if str(found) == "gpt" else str(found)
    if name != image.disk_format:
        raise BuildAborted(f"image {image.id} says it is {image.disk_format}, but it is {name}")


def virtual_size(path: Path, image: ImageRef) -> int:
    """Bytes of the disk that the guest sees, of a file of the cache."""
    if BOOTABLE_FORMATS[image.disk_format] == "raw":
        return path.stat().st_size
    return int(format_inspector.QcowInspector.from_file(str(path)).virtual_size)


def _fetch_error(image: ImageRef, error: OSError) -> KilonovaError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BuildFailed(f"image {image.id}: no space left for it on this host")
    if isinstance(error, ConnectionError | TimeoutError):
        return Unavailable(f"image {image.id}: {error}")
    return BuildFailed(f"image {image.id} could not be fetched: {error}")


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
