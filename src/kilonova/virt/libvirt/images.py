"""The host's cache of images: each is fetched exactly once, however many builds wait for it.

A file in ``_base`` is complete and verified, or it is not there: it is written beside, hashed and inspected
on the way, synced, and renamed. What broke or was killed goes on where it was. One at a time fetches it
(turns.py), of this process or another one over the same folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Set
from contextlib import suppress
from pathlib import Path

from oslo_utils.imageutils import format_inspector

from kilonova import log, metrics
from kilonova.cancel import Cancel
from kilonova.disk_image.durable import sync_folder
from kilonova.disk_image.transfer import ImageSource, NoSpace, transfer
from kilonova.domain.errors import BuildAborted, BuildFailed, KilonovaError
from kilonova.domain.servers import ImageRef
from kilonova.virt.libvirt import cached
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.turns import Turn

__all__ = ["BOOTABLE_FORMATS", "ImageCache", "ImageSource", "virtual_size"]

BOOTABLE_FORMATS = {"qcow2": "qcow2", "raw": "raw", "iso": "raw"}
"""Image format → what QEMU calls it. Others must be converted before they are uploaded."""
_GRACE = 900.0
"""Seconds for which what a build asked for is never removed: longer than a build may take."""
_LEAST_FREE = 256 << 20
"""Bytes of a large disk that nothing but guests may take: at none left they stand still."""
_log = log.get("virt.images")
_asked = metrics.Counter("image_cache", "Images that were asked for of the host's cache.", ("result",))


class ImageCache:
    """``in_use``: names of the files in ``_base`` that a disk is based on. It raises if it can't tell."""

    def __init__(
        self,
        folder: Folder,
        source: ImageSource,
        in_use: Callable[[], Set[str]] | None = None,
        grace: float = _GRACE,
        reserve: int = 0,
    ) -> None:
        """``reserve``: bytes of the disk that stay free for what guests write; never less than a little."""
        self._folder = folder
        self._source = source
        self._in_use = in_use
        self._grace = grace
        self._reserve = max(reserve, min(_LEAST_FREE, cached.size_bytes(folder.root) // 100))
        self._turns: dict[str, Turn] = {}
        self.fetches = 0
        """Images really fetched since the start."""

    def path(self, image: ImageRef) -> Path:
        return self._folder.image(image.id, image.os_hash_value)

    def ensure(self, image: ImageRef, cancel: Cancel) -> Path:
        """The verified file of the image, which stays for the time of a build at least. StaleEpoch as soon as
        ``cancel`` is set.

        BuildAborted if the image is bad; BuildFailed if this host could not get it; Unavailable if the
        image service does not answer.
        """
        if image.disk_format not in BOOTABLE_FORMATS:
            raise BuildAborted(f"image {image.id}: a guest cannot boot the format {image.disk_format!r} here")
        path = self.path(image)
        turn = self._turns.setdefault(path.name, Turn(path.with_suffix(".lock")))
        with turn.taken(cancel):
            if cached.touch(path):
                _asked.add("there")
            else:
                self._fetch(image, path, cancel)
            try:
                cached.remember(path, image)
            except OSError as error:  # for people alone
                _log.warning("image_not_noted", image=image.id, reason=str(error))
        return path

    def remove_unused(self, older_than: float) -> list[str]:
        """Of what no disk is based on, what nobody asked for in so many seconds goes: the names."""
        if self._in_use is None:
            return []
        return cached.remove_unused(self._folder.base, self._in_use, max(older_than, self._grace))

    def _fetch(self, image: ImageRef, path: Path, cancel: Cancel) -> None:
        part = path.with_suffix(".part")
        self.fetches += 1
        try:
            come = part.stat().st_size if part.exists() else 0
            self.make_room(image.size - come, f"image {image.id}")
            self._transfer(image, part, cancel)
            part.rename(path)
        except (BuildAborted, NoSpace):
            part.unlink(missing_ok=True)
            _asked.add("refused")
            raise
        except KilonovaError:
            _asked.add("broken")
            raise  # what came so far is kept: the next one goes on there
        except OSError as error:
            raise BuildFailed(f"image {image.id} could not be fetched: {error}") from error
        sync_folder(path.parent)
        _asked.add("fetched")
        _log.info("image_fetched", image=image.id, size=image.size)

    def _transfer(self, image: ImageRef, part: Path, cancel: Cancel) -> None:
        with suppress(FileNotFoundError):
            part.chmod(0o600)  # a kill may have come between the last two lines and the rename
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "r+b", buffering=0) as target:
            transfer(image, self._source, target, cancel)
            os.fchmod(target.fileno(), 0o444)

    @property
    def is_short(self) -> bool:
        """Whether the disk has no more than what stays free."""
        return cached.free_bytes(self._folder.base) < self._reserve

    def make_room(self, size: int, what: str) -> None:
        """NoSpace if the host has none for so many bytes, beside what stays free, though it gave up the
        images that nobody uses."""
        needed = size + self._reserve
        if cached.free_bytes(self._folder.base) < needed:
            try:
                self.remove_unused(0)
            except (KilonovaError, OSError) as error:
                _log.warning("unused_images_unknown", reason=str(error))
        if (free := cached.free_bytes(self._folder.base)) < needed:
            raise NoSpace(
                f"{what}: no space left for it on this host: it needs {size >> 20} MiB, and of the "
                f"{free >> 20} MiB that are free {self._reserve >> 20} stay so"
            )


def virtual_size(path: Path, image: ImageRef) -> int:
    """Bytes of the disk that the guest sees, of a file of the cache."""
    if BOOTABLE_FORMATS[image.disk_format] == "raw":
        return path.stat().st_size
    return int(format_inspector.QcowInspector.from_file(str(path)).virtual_size)
