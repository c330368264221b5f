"""Volumes as sparse files of raw bytes, in a folder of one machine or of a file system that all hosts share.

    volume-<id>                     a volume
    volume-<id>.snapshot-<id>       a snapshot of it
    ….part, ….image                 what is being made, and the image that it is made of

What is new reads as zeros: it is a hole. Copies share blocks where the file system can (XFS, Btrfs): then a
snapshot is of one moment although a guest writes. Elsewhere the guest's hypervisor writes the snapshot; a new
volume cannot be made of one that a guest has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from kilonova.cancel import Cancel
from kilonova.disk_image import qemu_img
from kilonova.disk_image.transfer import ImageSource
from kilonova.domain.errors import BuildFailed, Unavailable, VolumeFailed
from kilonova.domain.machine import this_machine
from kilonova.domain.servers import ImageRef
from kilonova.domain.volumes import (
    Blank,
    Connection,
    Connector,
    FileConnection,
    FromImage,
    FromSnapshot,
    FromVolume,
    Source,
)
from kilonova.volume.backends import copying, names, parts
from kilonova.volume.backends.fetch import GIB, RAW, fetch
from kilonova.volume.base import ByGuest, Capacity, Still

_SNAPSHOT = ".snapshot-"
_IMAGE = ".image"


class FileBackend:
    """A volume.base.Backend in ``folder``, which is made if it is missing."""

    multiattach = True

    def __init__(self, folder: Path, images: ImageSource, *, shared: bool = False) -> None:
        """``shared``: the folder is the same one on every host."""
        self.shared = shared
        self._folder = folder.absolute()
        self._images = images

    def place(self) -> str:
        self._check_folder()
        with parts.storage_errors():
            folder = self._folder.stat()
        return f"folder {folder.st_dev}:{folder.st_ino}"

    def check(self) -> None:
        self._check_folder()

    def _check_folder(self) -> None:
        with parts.storage_errors():
            # QEMU has a user of its own, and is let into the one file by libvirt.
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o711)
            if not os.access(self._folder, os.W_OK | os.X_OK):
                raise Unavailable(f"{self._folder} cannot be written")

    def capacity(self) -> Capacity:
        self._check_folder()
        with parts.storage_errors():
            stat = os.statvfs(self._folder)
        return Capacity(stat.f_blocks * stat.f_frsize / GIB, stat.f_bavail * stat.f_frsize / GIB)

    def ensure_volume(self, volume_id: str, size_gb: int, source: Source, cancel: Cancel) -> str:
        self._check_folder()
        path = self.path(volume_id)
        how = "blank" if isinstance(source, Blank) else "copy"
        if not path.exists():
            with parts.being_made(path) as part:
                if path.exists():  # another one was faster
                    return how
                how = self._fill(part, path, size_gb, source, cancel)
                part.truncate(size_gb * GIB)
                copying.stop_if(cancel)
                parts.put(part, path)
        else:
            self.extend(volume_id, size_gb, cancel)
        return how

    def address(self, volume_id: str) -> str:
        path = self.path(volume_id)
        with self._open(path) as file, self.unwritten(path, file):
            return str(path)

    def take_over(self, volume_id: str, size_gb: int, address: str, cancel: Cancel) -> None:
        self._check_folder()
        path = self.path(volume_id)
        with parts.being_made(path) as part:
            part.truncate(size_gb * GIB)
            convert(address, "raw", str(parts.part_of(path)), cancel)
            copying.stop_if(cancel)
            parts.put(part, path)

    def extend(self, volume_id: str, size_gb: int, cancel: Cancel) -> None:
        with self._open(self.path(volume_id), "r+b") as file, parts.storage_errors():
            if os.fstat(file.fileno()).st_size < size_gb * GIB:
                file.truncate(size_gb * GIB)
                os.fsync(file.fileno())

    def delete(self, volume_id: str) -> None:
        name = self.path(volume_id).name
        found = [self._folder / one for one in self._names() if one == name or one.startswith(f"{name}.")]
        with parts.storage_errors():
            for path in sorted(found, key=lambda path: path.suffix != parts.SUFFIX):
                if path.suffix == parts.SUFFIX:
                    parts.remove_left(path)
                path.unlink(missing_ok=True)
            if found:
                parts.sync_folder(self._folder)

    def ensure_snapshot(
        self,
        volume_id: str,
        snapshot_id: str,
        cancel: Cancel,
        by_guest: ByGuest | None = None,
        still: Still = nullcontext,
    ) -> None:
        target = self._snapshot_path(volume_id, snapshot_id)
        if not target.exists():
            with parts.being_made(target) as part:
                if not target.exists():
                    try:
                        self._copy(self.path(volume_id), part, cancel, still=still)
                    except copying.GuestWrites:
                        if by_guest is None:
                            raise
                        self._copy_by_guest(volume_id, snapshot_id, part, by_guest)
                    copying.stop_if(cancel)
                    parts.put(part, target)

    def _copy_by_guest(self, volume_id: str, snapshot_id: str, part: BinaryIO, by_guest: ByGuest) -> None:
        with parts.storage_errors():
            part.truncate(self.path(volume_id).stat().st_size)
        path = parts.part_of(self._snapshot_path(volume_id, snapshot_id))
        with self.offered(path, volume_id, snapshot_id) as way:
            by_guest(way)

    @contextmanager
    def offered(self, path: Path, volume_id: str, snapshot_id: str) -> Iterator[Connection]:
        """The way to a file, in the block, for the host that has the volume."""
        yield FileConnection(path=str(path))

    def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        path = self._snapshot_path(volume_id, snapshot_id)
        with parts.storage_errors():
            parts.remove_left(parts.part_of(path))
            path.unlink(missing_ok=True)

    def revert(self, volume_id: str, snapshot_id: str, cancel: Cancel) -> None:
        path = self.path(volume_id)
        with parts.being_made(path) as part:
            with self._open(path) as volume, self.unwritten(path, volume):
                size = os.fstat(volume.fileno()).st_size
            self._copy(self._snapshot_path(volume_id, snapshot_id), part, cancel)
            part.truncate(size)
            copying.stop_if(cancel)
            parts.put(part, path)

    def connect(self, volume_id: str, connector: Connector) -> Connection:
        """VolumeFailed, too: the host is on another machine, and the folder is of this one alone. A host that
        does not say where it is, as a client of the Block Storage API, knows itself what it has there."""
        path = self.path(volume_id)
        if not self.shared and connector.machine not in ("", this_machine()):
            raise VolumeFailed(
                f"volume {volume_id} is in a folder of another machine than host {connector.host} is on, and "
                "that folder is not shared"
            )
        with self._open(path):
            return FileConnection(path=str(path))

    def disconnect(self, volume_id: str, connector: Connector) -> None:
        """Nothing was made for it."""

    def open(self, volume_id: str, snapshot_id: str | None = None) -> BinaryIO:
        if snapshot_id is not None:
            return self._open(self._snapshot_path(volume_id, snapshot_id))
        return self._open(self.path(volume_id))

    @contextmanager
    def unwritten(self, path: Path, file: BinaryIO) -> Iterator[None]:
        """In the block no guest writes to it. GuestWrites: one may be writing now."""
        with copying.unwritten(file):
            yield

    def volumes(self) -> set[str]:
        return {found for name in self._names() if (found := names.volume_of(name)) and _SNAPSHOT not in name}

    def snapshots(self) -> dict[str, str]:
        found = {}
        for name in self._names():
            volume_id, _, rest = name.partition(_SNAPSHOT)
            if rest and (owner := names.volume_of(volume_id)):
                found[rest.removesuffix(parts.SUFFIX)] = owner
        return found

    def exports(self) -> set[str]:
        return set()

    def path(self, volume_id: str) -> Path:
        """Where the bytes of a volume are."""
        return self._folder / names.volume_name(volume_id)

    def _snapshot_path(self, volume_id: str, snapshot_id: str) -> Path:
        return self._folder / f"{names.volume_name(volume_id)}.{names.snapshot_name(snapshot_id)}"

    def _names(self) -> list[str]:
        with parts.storage_errors():
            return os.listdir(self._folder) if self._folder.exists() else []

    def _fill(self, part: BinaryIO, path: Path, size_gb: int, source: Source, cancel: Cancel) -> str:
        match source:
            case Blank():
                return "blank"
            case FromImage(image=image):
                self._from_image(part, path, image, size_gb, cancel)
                return "copy"
            case FromVolume(volume_id=other):
                return self._copy(self.path(other), part, cancel, size_gb)
            case FromSnapshot(volume_id=other, snapshot_id=snapshot):
                return self._copy(self._snapshot_path(other, snapshot), part, cancel, size_gb)

    def _from_image(self, part: BinaryIO, path: Path, image: ImageRef, size_gb: int, cancel: Cancel) -> None:
        if image.disk_format in RAW:
            fetch(image, self._images, size_gb, part, cancel)
            return
        spool = path.with_name(path.name + _IMAGE)
        with parts.being_made(spool) as fetched:
            fetch(image, self._images, size_gb, fetched, cancel)
            part.truncate(size_gb * GIB)
            convert(parts.part_of(spool), image.disk_format, str(parts.part_of(path)), cancel)

    def _copy(
        self,
        source: Path,
        part: BinaryIO,
        cancel: Cancel,
        size_gb: int | None = None,
        still: Still = nullcontext,
    ) -> str:
        """``clone`` or ``copy``. VolumeFailed: it is larger than ``size_gb``, or a guest writes to it."""
        with self._open(source) as file:
            size = os.fstat(file.fileno()).st_size
            if size_gb is not None and size > size_gb * GIB:
                raise VolumeFailed(
                    f"the source has {size // GIB} GiB, more than the {size_gb} GiB of the volume"
                )
            with parts.storage_errors():
                if copying.clone(file, part):  # it can: only then is a guest held
                    with still():
                        if copying.clone(file, part):
                            return "clone"
                    part.truncate(0)  # what it was before
                with self.unwritten(source, file):
                    copying.copy(file, part, cancel)
        return "copy"

    def _open(self, path: Path, mode: str = "rb") -> BinaryIO:
        """VolumeFailed: it is not there."""
        with parts.storage_errors():
            try:
                return open(path, mode, opener=_no_follow)  # type: ignore[return-value]
            except FileNotFoundError as error:
                raise VolumeFailed(f"{path.name} is not there") from error


def convert(source: Path | str, source_format: str, target: str, cancel: Cancel) -> None:
    """As qemu_img.convert. VolumeFailed."""
    try:
        qemu_img.convert(source, source_format, target, cancel=cancel)
    except BuildFailed as error:
        raise VolumeFailed(error.message) from error


def _no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)
