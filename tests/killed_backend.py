"""A volume backend that is killed before each of its steps (kill_steps.py). A process of its own:
``python -m tests.killed_backend <json>`` prints what it began, one id a line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4, uuid5

from tests.kill_steps import Work, killed_before_each_step
from tests.tgt import Tgtd
from tests.volume_backends import HOST, Images, Place, opened, qemu_io

from kilonova.cancel import Cancel
from kilonova.domain.volumes import Blank, Connection, FromVolume
from kilonova.image.base import ImageStore
from kilonova.image.file import FileStore
from kilonova.image.rbd import RbdStore
from kilonova.volume.backends.fetch import GIB
from kilonova.volume.backends.file import FileBackend
from kilonova.volume.backends.rbd import RbdBackend
from kilonova.volume.base import Backend


def elsewhere(place: Place) -> FileBackend:
    """Where volumes come from, and go to."""
    return FileBackend(place.folder / "elsewhere", Images())


def source_of(ident: str) -> str:
    """A volume of its own: Ceph lets nobody at what a dead client had, for seconds."""
    return str(uuid5(UUID(ident), "source"))


def image_store(place: Place, backend: Backend) -> ImageStore:
    """In the volumes' own cluster, or beside their files."""
    if isinstance(backend, RbdBackend):
        return RbdStore(backend._pool.cluster.pool("images"))
    return FileStore(place.folder / "images")


def chunks(backend: Backend, volume_id: str) -> Iterator[bytes]:
    """What a volume's first bytes are uploaded as."""
    with backend.open(volume_id) as file:
        for _ in range(2):
            yield file.read(4096)


def _create(backend: Backend, _place: Place, source: str, ident: str) -> Work:
    backend.ensure_volume(source_of(ident), 1, FromVolume(volume_id=source), Cancel())
    return lambda: backend.ensure_volume(ident, 2, FromVolume(volume_id=source_of(ident)), Cancel())


def _delete(backend: Backend, _place: Place, source: str, ident: str) -> Work:
    """Of one with a snapshot, and a way to it."""
    backend.ensure_volume(ident, 1, Blank(), Cancel())
    backend.ensure_snapshot(ident, str(uuid4()), Cancel())
    backend.connect(ident, HOST)
    return lambda: backend.delete(ident)


def _snapshot(backend: Backend, _place: Place, source: str, ident: str) -> Work:
    return lambda: backend.ensure_snapshot(source, ident, Cancel())


def _by_guest(backend: Backend, place: Place, source: str, ident: str) -> Work:
    """A guest has the volume."""

    def copied(to: Connection) -> None:
        qemu_io(to, "write -P 7 0 4k", place=place)

    return lambda: backend.ensure_snapshot(source, ident, Cancel(), copied)


def _delete_snapshot(backend: Backend, _place: Place, source: str, ident: str) -> Work:
    backend.ensure_volume(ident, 1, Blank(), Cancel())
    backend.ensure_snapshot(ident, ident, Cancel())
    return lambda: backend.delete_snapshot(ident, ident)


def _revert(backend: Backend, _place: Place, source: str, ident: str) -> Work:
    backend.ensure_volume(ident, 1, FromVolume(volume_id=source), Cancel())
    backend.ensure_snapshot(ident, ident, Cancel())
    backend.extend(ident, 2, Cancel())
    return lambda: backend.revert(ident, ident, Cancel())


def _extend(backend: Backend, _place: Place, source: str, ident: str) -> Work:
    """Of one that a host has."""
    backend.ensure_volume(ident, 1, FromVolume(volume_id=source), Cancel())
    backend.connect(ident, HOST)
    return lambda: backend.extend(ident, 2, Cancel())


def _connect(backend: Backend, _place: Place, source: str, ident: str) -> Work:
    backend.ensure_volume(ident, 1, FromVolume(volume_id=source), Cancel())
    return lambda: backend.connect(ident, HOST)


def _disconnect(backend: Backend, _place: Place, source: str, ident: str) -> Work:
    backend.ensure_volume(ident, 1, FromVolume(volume_id=source), Cancel())
    backend.connect(ident, HOST)
    return lambda: backend.disconnect(ident, HOST)


def _arrive(backend: Backend, place: Place, source: str, ident: str) -> Work:
    return lambda: backend.take_over(ident, 1, elsewhere(place).address(source), Cancel())


def _leave(backend: Backend, place: Place, source: str, ident: str) -> Work:
    return lambda: elsewhere(place).take_over(ident, 1, backend.address(source), Cancel())


def _upload(backend: Backend, place: Place, source: str, ident: str) -> Work:
    store = image_store(place, backend)
    return lambda: store.put(ident, chunks(backend, source), GIB)


def _delete_image(backend: Backend, place: Place, source: str, ident: str) -> Work:
    store = image_store(place, backend)
    store.put(ident, chunks(backend, source), GIB)
    return lambda: store.delete(ident)


WORK: dict[str, Callable[[Backend, Place, str, str], Work]] = {
    "create": _create,
    "delete": _delete,
    "snapshot": _snapshot,
    "by_guest": _by_guest,
    "delete_snapshot": _delete_snapshot,
    "revert": _revert,
    "extend": _extend,
    "connect": _connect,
    "disconnect": _disconnect,
    "arrive": _arrive,
    "leave": _leave,
    "upload": _upload,
    "delete_image": _delete_image,
}


def main(place: Place, what: str, source: str) -> None:
    @contextmanager
    def begin(ident: str) -> Iterator[Work]:
        with opened(place) as backend:
            yield WORK[what](backend, place, source, ident)

    killed_before_each_step(place.folder, begin)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    tgt = None
    if asked["tgt"]:
        tgt = Tgtd(Path(asked["folder"]))
        tgt.portal = asked["tgt"]
    conf = Path(asked["conf"]) if asked["conf"] else None
    main(Place(asked["kind"], Path(asked["folder"]), conf, tgt), asked["what"], asked["source"])
