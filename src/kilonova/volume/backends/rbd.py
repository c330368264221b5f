"""Volumes as images of a Ceph pool: ``volume-<id>`` with snapshots ``snapshot-<id>``, as Cinder names them.

What comes of something in the same cluster is a clone. An image is whole when it has its mark (rbd.pool): a
clone or a copy that a kill cut short has none, and is begun anew. Ceph itself never shows old data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from kilonova.cancel import Cancel
from kilonova.disk_image.transfer import ImageSource
from kilonova.domain.errors import Conflict, NotFound, TooLarge, Unavailable, VolumeFailed
from kilonova.domain.servers import ImageRef
from kilonova.domain.volumes import (
    Blank,
    Connection,
    Connector,
    FromImage,
    FromSnapshot,
    FromVolume,
    RbdConnection,
    Source,
)
from kilonova.rbd import Pool, Snapshot
from kilonova.volume.backends import copying, names, parts
from kilonova.volume.backends.fetch import GIB, fetch
from kilonova.volume.backends.file import convert
from kilonova.volume.base import ByGuest, Capacity, Still

_CLONE = "clone-"
"""A snapshot that lives while a volume is cloned of its volume, with the id of the new one."""


class RbdBackend:
    """A volume.base.Backend in ``pool``."""

    shared = True
    multiattach = True

    def __init__(self, pool: Pool, images: ImageSource, spool: Path) -> None:
        """``spool``: a folder for images on their way into the pool."""
        self._pool = pool
        self._images = images
        self._spool = spool

    def place(self) -> str:
        with _refusals():
            return f"Ceph {self._pool.cluster.fsid}/{self._pool.name}"

    def check(self) -> None:
        with _refusals():
            self._pool.exists("none")  # an OSD answers, too

    def capacity(self) -> Capacity:
        with _refusals():
            total, free = self._pool.capacity()
        return Capacity(total / GIB, free / GIB)

    def ensure_volume(self, volume_id: str, size_gb: int, source: Source, cancel: Cancel) -> str:
        name = names.volume_name(volume_id)
        how = self._how(source)
        with _refusals():
            if self._pool.marked(name):
                self._pool.resize(name, size_gb * GIB)
            else:
                if self._pool.exists(name):
                    self._pool.remove(name)
                copying.stop_if(cancel)
                self._try_to_make(name, volume_id, size_gb, source, cancel)
                copying.stop_if(cancel)
                with _still_there():
                    self._pool.mark(name)
            if isinstance(source, FromVolume):
                self._pool.remove_snapshot(names.volume_name(source.volume_id), _CLONE + volume_id)
        return how

    def address(self, volume_id: str) -> str:
        name = names.volume_name(volume_id)
        with _refusals():
            if not self._pool.marked(name):
                raise VolumeFailed(f"{name} is not there")
            return self._pool.qemu_name(name)

    def take_over(self, volume_id: str, size_gb: int, address: str, cancel: Cancel) -> None:
        name = names.volume_name(volume_id)
        with _refusals():
            self._pool.remove(name)
            copying.stop_if(cancel)
            self._pool.create(name, size_gb * GIB)
            self._write(address, "raw", name, cancel)
            copying.stop_if(cancel)
            with _still_there():
                self._pool.mark(name)

    def extend(self, volume_id: str, size_gb: int, cancel: Cancel) -> None:
        with _refusals():
            self._pool.resize(names.volume_name(volume_id), size_gb * GIB)

    def delete(self, volume_id: str) -> None:
        name = names.volume_name(volume_id)
        with _refusals():
            whole = self._pool.marked(name)
            self._pool.remove(name)
            if not whole:
                self._remove_clone_snapshot(volume_id)
        with parts.storage_errors():
            parts.remove_left(parts.part_of(self._spooled(name)))

    def ensure_snapshot(
        self,
        volume_id: str,
        snapshot_id: str,
        cancel: Cancel,
        by_guest: ByGuest | None = None,
        still: Still = nullcontext,
    ) -> None:
        name, snapshot = names.volume_name(volume_id), names.snapshot_name(snapshot_id)
        with _refusals():
            if snapshot in self._pool.snapshots(name):
                return
        with still(), _refusals():
            self._pool.snapshot(name, snapshot)

    def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        with _refusals():
            self._pool.remove_snapshot(names.volume_name(volume_id), names.snapshot_name(snapshot_id))

    def revert(self, volume_id: str, snapshot_id: str, cancel: Cancel) -> None:
        with _refusals():
            self._pool.rollback(names.volume_name(volume_id), names.snapshot_name(snapshot_id))

    def connect(self, volume_id: str, connector: Connector) -> Connection:
        name = names.volume_name(volume_id)
        with _refusals():
            if not self._pool.marked(name):
                raise VolumeFailed(f"{name} is not there")
            cluster = self._pool.cluster
            return RbdConnection(
                pool=self._pool.name,
                image=name,
                monitors=cluster.monitors,
                user=cluster.user,
                fsid=cluster.fsid,
            )

    def disconnect(self, volume_id: str, connector: Connector) -> None:
        """Nothing was made for it: the host's own key opens the pool."""

    def open(self, volume_id: str, snapshot_id: str | None = None) -> BinaryIO:
        snapshot = None if snapshot_id is None else names.snapshot_name(snapshot_id)
        with _refusals():
            return self._pool.open(names.volume_name(volume_id), snapshot)

    def volumes(self) -> set[str]:
        with _refusals():
            found = {names.volume_of(name) for name in self._pool.names() | self._pool.trashed()}
            half = {
                snapshot.removeprefix(_CLONE)
                for _, snapshot in self._all_snapshots()
                if snapshot.startswith(_CLONE)
            }
        spooled = {names.volume_of(path.name) for path in self._spool.glob("*")}
        return {ident for ident in found | half | spooled if ident is not None}

    def snapshots(self) -> dict[str, str]:
        with _refusals():
            pairs = [
                (names.snapshot_of(snapshot), names.volume_of(name))
                for name, snapshot in self._all_snapshots()
            ]
        return {snapshot: volume for snapshot, volume in pairs if snapshot and volume}

    def exports(self) -> set[str]:
        return set()

    def _try_to_make(self, name: str, volume_id: str, size_gb: int, source: Source, cancel: Cancel) -> None:
        try:
            with _refusals():
                self._make(name, volume_id, size_gb, source, cancel)
        except VolumeFailed:  # for good: nobody makes it again
            if not self._pool.marked(name):
                self._pool.remove(name)
                self._remove_clone_snapshot(volume_id)
            raise
        except Unavailable:
            if not self._pool.exists(name):
                self._pool.remove(name)  # what cannot be opened, and had its name, was in the way
            raise

    def _make(self, name: str, volume_id: str, size_gb: int, source: Source, cancel: Cancel) -> None:
        parent = self._parent(source, volume_id)
        if parent is not None:
            self._clone(parent, name, size_gb, cancel)
            return
        if isinstance(source, FromImage):
            self._copy(source.image, name, size_gb, cancel)
        else:
            self._pool.create(name, size_gb * GIB)

    def _clone(self, parent: Snapshot, name: str, size_gb: int, cancel: Cancel) -> None:
        if parent.pool == self._pool.name and parent.snapshot.startswith(_CLONE):
            self._pool.snapshot(parent.image, parent.snapshot)
        copying.stop_if(cancel)
        self._pool.clone(parent, name)
        with _still_there():
            size = self._pool.size(name)
        if size > size_gb * GIB:
            raise VolumeFailed(
                f"the source has {size / GIB:.2f} GiB, more than the {size_gb} GiB of the volume"
            )
        with _still_there():
            self._pool.resize(name, size_gb * GIB)

    def _copy(self, image: ImageRef, name: str, size_gb: int, cancel: Cancel) -> None:
        self._spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        spooled = self._spooled(name)
        with parts.being_made(spooled) as fetched:
            fetch(image, self._images, size_gb, fetched, cancel)
            self._pool.create(name, size_gb * GIB)
            source_format = "qcow2" if image.disk_format == "qcow2" else "raw"
            self._write(str(parts.part_of(spooled)), source_format, name, cancel)

    def _write(self, source: str, source_format: str, name: str, cancel: Cancel) -> None:
        """Into an image that was just made."""
        with self._pool.held(name) as check:
            copying.stop_if(cancel)
            check()
            try:
                convert(source, source_format, self._pool.qemu_name(name), cancel)
            except VolumeFailed:
                self._pool.exists(name)  # Unavailable, if that is why
                raise

    def _spooled(self, name: str) -> Path:
        return self._spool / f"{name}.image"

    def _parent(self, source: Source, volume_id: str) -> Snapshot | None:
        """What a clone can be made of."""
        match source:
            case FromSnapshot(volume_id=other, snapshot_id=snapshot):
                return Snapshot(self._pool.name, names.volume_name(other), names.snapshot_name(snapshot))
            case FromVolume(volume_id=other):
                return Snapshot(self._pool.name, names.volume_name(other), _CLONE + names.checked(volume_id))
            case FromImage(image=image):
                return self._in_cluster(image)
            case Blank():
                return None

    def _how(self, source: Source) -> str:
        if isinstance(source, Blank):
            return "blank"
        if isinstance(source, FromImage):
            return "copy" if self._in_cluster(source.image) is None else "clone"
        return "clone"

    def _in_cluster(self, image: ImageRef) -> Snapshot | None:
        """The image's snapshot, which is raw, if the same cluster has it."""
        there = image.location
        if there is None or there.fsid != self._pool.cluster.fsid:
            return None
        return Snapshot(there.pool, there.image, there.snapshot)

    def _remove_clone_snapshot(self, volume_id: str) -> None:
        """Of a clone that was begun, and never was: which volume it was of is not known any more."""
        for name, snapshot in self._all_snapshots():
            if snapshot == _CLONE + volume_id:
                self._pool.remove_snapshot(name, snapshot)

    def _all_snapshots(self) -> Iterator[tuple[str, str]]:
        for name in self._pool.names():
            try:
                found = self._pool.snapshots(name) if names.volume_of(name) else set()
            except NotFound:
                continue  # it is gone by now, or half-made
            for snapshot in found:
                yield name, snapshot


@contextmanager
def _still_there() -> Iterator[None]:
    """Unavailable: somebody else, who began the same, has removed it as half-made."""
    try:
        yield
    except NotFound as error:
        raise Unavailable(error.message) from error


@contextmanager
def _refusals() -> Iterator[None]:
    """The pool's words as a backend's."""
    try:
        yield
    except (NotFound, TooLarge) as error:
        raise VolumeFailed(error.message) from error
    except Conflict as error:
        if type(error) is not Conflict:
            raise  # StaleEpoch
        raise Unavailable(error.message) from error
