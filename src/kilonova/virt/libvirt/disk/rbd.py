"""``rbd``: images of a Ceph pool. The system disk is a clone of the image's snapshot, made in the same time
whatever its size, where the image is in the same cluster; elsewhere a copy of the host's cached file.

All hosts share the pool, and a disk is named after its server alone. So each is labelled with the host that
made it: no host removes another's, as one would that comes back after its server was built elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kilonova import log
from kilonova.cancel import Cancel
from kilonova.disk_image import qemu_img
from kilonova.domain.errors import (
    BuildFailed,
    Conflict,
    NotFound,
    StaleEpoch,
    TooLarge,
    Unavailable,
    VolumeFailed,
)
from kilonova.domain.servers import BuildSpec, ImageLocation, ImageRef
from kilonova.rbd import Pool, Snapshot
from kilonova.virt.ids import checked_id
from kilonova.virt.libvirt.disk.base import (
    EPHEMERALS,
    GIB,
    MIB,
    Name,
    RbdSource,
    Source,
    Space,
    blank_size,
    is_cdrom,
    rescue_size,
    system_size,
)
from kilonova.virt.libvirt.disk.files import MKSWAP, formatted, mkfs, once
from kilonova.virt.libvirt.folder import Folder
from kilonova.virt.libvirt.images import BOOTABLE_FORMATS, ImageCache, virtual_size

_TAKEN = "taken"
"""The snapshot of a disk that an image is being made of."""
_WATCHED = 90.0
"""Seconds: Ceph takes who was killed for alive for half a minute, and longer while it mends itself."""
_LOOK_AGAIN = 1.0
_log = log.get("virt.disks")


class Rbd:
    """A disk.base.Backend. ``host``: this one's name; ``secret``: libvirt's, with the pool's user's key."""

    def __init__(self, folder: Folder, images: ImageCache, pool: Pool, host: str, secret: str) -> None:
        self._folder = folder
        self._images = images
        self._pool = pool
        self._host = host
        self._secret = secret
        self._space: Space | None = None
        self._pause = threading.Event()

    def needs_file(self, image: ImageRef) -> bool:
        return self._in_cluster(image) is None

    def ensure_system(self, spec: BuildSpec, cancel: Cancel) -> str:
        if is_cdrom(spec):
            return ""
        name, image = _name(spec.server_id, Name.SYSTEM), spec.image
        if image is None:
            size = blank_size(spec)
            made = self._once(name, lambda: self._pool.create(name, size))
            return "blank" if made else ""
        size = system_size(spec, self._size_of(image))
        made = self._once(name, lambda: self._of_image(name, image, size, cancel))
        return self._how(image) if made else ""

    def ensure_rescue(self, spec: BuildSpec, image: ImageRef, cancel: Cancel) -> None:
        name = _name(spec.server_id, Name.RESCUE)
        size = rescue_size(spec, image, self._size_of(image))
        self._once(name, lambda: self._of_image(name, image, size, cancel))

    def ensure_ephemeral(self, spec: BuildSpec) -> None:
        for number, (name, size_gb) in enumerate(zip(EPHEMERALS, spec.ephemeral_disks, strict=False)):
            self._ensure_formatted(spec.server_id, name, size_gb * GIB, mkfs(number))

    def ensure_swap(self, spec: BuildSpec) -> None:
        if size := spec.swap_size_mb * MIB:
            self._ensure_formatted(spec.server_id, Name.SWAP, size, MKSWAP)

    def find(self, server_id: str, name: Name) -> Source | None:
        image = _name(server_id, name)
        with _refusals():
            return self._source(image) if self._pool.marked(image) else None

    def remove(self, server_id: str, name: Name) -> None:
        image = _name(server_id, name)
        with _refusals():
            self._remove(image)

    def remove_all(self, server_id: str) -> None:
        names = {_name(server_id, name) for name in Name}
        with _refusals():
            for name in names & (self._pool.names() | self._pool.trashed()):
                self._remove(name)
        self._folder.remove(server_id)  # last: by this it is found again

    def server_ids(self) -> set[str]:
        """What else is in the pool may be other hosts'."""
        return self._folder.server_ids()

    def hold(self, server_id: str) -> bool:
        name = _name(server_id, Name.SYSTEM)
        with _refusals():
            self._pool.remove_snapshot(name, _TAKEN)
            self._pool.snapshot(name, _TAKEN)
        return True

    def held(self, server_id: str) -> Source | None:
        name = _name(server_id, Name.SYSTEM)
        return self._source(f"{name}@{_TAKEN}") if self._is_held(name) else None

    def held_at(self, server_id: str) -> ImageLocation | None:
        name, pool = _name(server_id, Name.SYSTEM), self._pool
        if not self._is_held(name):
            return None
        return ImageLocation(fsid=pool.cluster.fsid, pool=pool.name, image=name, snapshot=_TAKEN)

    def let_go(self, server_id: str) -> None:
        name = _name(server_id, Name.SYSTEM)
        with _refusals():
            self._pool.remove_snapshot(name, _TAKEN)

    def flatten(self, source: Source, target: Path, cancel: Cancel) -> None:
        assert isinstance(source, RbdSource)
        name, at, snapshot = source.image.partition("@")
        moment = snapshot if at else None
        with _refusals():
            needed = self._pool.data_bytes(name, moment)
        self._images.make_room(needed, "what is on the server's disk")
        where = self._pool.qemu_name(name, moment)
        once(target, lambda part: qemu_img.flatten(where, "raw", part, cancel))

    def space(self) -> Space:
        """While the cluster does not answer, what it said last: the host has more to tell than that."""
        try:
            with _refusals():
                total, free = self._pool.capacity()
        except (Unavailable, BuildFailed) as error:
            if self._space is None:
                raise
            _log.warning("capacity_unknown", pool=self._pool.name, reason=error.message)
        else:
            self._space = Space(total_gb=total // GIB, free_gb=free // GIB)
        return self._space

    def close(self) -> None:
        self._pause.set()
        self._pool.cluster.close()

    # --- inside
    def _is_held(self, name: str) -> bool:
        with _refusals(), suppress(NotFound):
            return _TAKEN in self._pool.snapshots(name)
        return False

    def _once(self, name: str, make: Callable[[], None]) -> bool:
        """Whether it had to be made."""
        with _refusals():
            if self._pool.owner(name) == self._host:
                return False
            if self._pool.exists(name):  # half of it, or what the server had on another host
                self._remove(name, of_anybody=True)
            make()
            self._pool.mark(name, owner=self._host)
            return True

    def _of_image(self, name: str, image: ImageRef, size: int, cancel: Cancel) -> None:
        parent = self._in_cluster(image)
        if parent is not None:
            self._pool.clone(parent, name)
            self._pool.resize(name, size)
            return
        self._pool.create(name, size)
        source_format = BOOTABLE_FORMATS[image.disk_format]
        qemu_img.convert(self._images.path(image), source_format, self._pool.qemu_name(name), cancel=cancel)

    def _ensure_formatted(self, server_id: str, disk: Name, size: int, command: tuple[str, ...]) -> None:
        name = _name(server_id, disk)
        part = self._folder.instance(server_id).path / f"{disk}.part"

        def make() -> None:
            try:
                formatted(part, size, command)
                self._pool.create(name, size)
                qemu_img.convert(part, "raw", self._pool.qemu_name(name))
            except OSError as error:
                raise BuildFailed(f"cannot make {disk}: {error}") from error
            finally:
                part.unlink(missing_ok=True)

        self._once(name, make)

    def _remove(self, name: str, of_anybody: bool = False) -> None:
        """Ceph says of nobody that he is gone, so it is asked again."""
        end = time.monotonic() + _WATCHED
        while of_anybody or self._pool.owner(name) in (None, self._host):
            try:
                self._pool.remove(name)
            except Conflict as error:
                if time.monotonic() > end:
                    raise BuildFailed(f"cannot remove a disk: {error.message}") from error
            else:
                return
            self._pause.wait(_LOOK_AGAIN)

    def _in_cluster(self, image: ImageRef) -> Snapshot | None:
        there = image.location
        if there is None or image.disk_format != "raw" or there.fsid != self._pool.cluster.fsid:
            return None
        return Snapshot(there.pool, there.image, there.snapshot)

    def _size_of(self, image: ImageRef) -> int:
        parent = self._in_cluster(image)
        if parent is None:
            return virtual_size(self._images.path(image), image)
        with _refusals():
            return self._pool.cluster.pool(parent.pool).size(parent.image, parent.snapshot)

    def _how(self, image: ImageRef) -> str:
        return "clone" if self._in_cluster(image) else "copy: the image is not in this Ceph cluster"

    def _source(self, image: str) -> RbdSource:
        cluster = self._pool.cluster
        return RbdSource(
            pool=self._pool.name,
            image=image,
            monitors=cluster.monitors,
            user=cluster.user,
            secret=self._secret,
        )


def _name(server_id: str, name: Name) -> str:
    """Nova's."""
    return f"{checked_id(server_id)}_{name}"


@contextmanager
def _refusals() -> Iterator[None]:
    """The pool's words as a disk backend's."""
    try:
        yield
    except (NotFound, TooLarge, VolumeFailed) as error:
        raise BuildFailed(error.message) from error
    except Conflict as error:
        if isinstance(error, StaleEpoch):
            raise
        raise BuildFailed(error.message) from error
