"""A volume backend that is killed (SIGKILL) before its first step, before its second, and so on, until it
comes to its end. A process of its own: ``python -m tests.killed_backend <json>`` prints what it began, one id
a line.

A step is a call of Ceph's bindings, or what Python's audit sees of files, programs and sockets.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

from tests.tgt import Tgtd
from tests.volume_backends import HOST, Images, Place, opened, qemu_io

from kilonova.cancel import Cancel
from kilonova.domain.volumes import Blank, Connection, FromVolume
from kilonova.image.base import ImageStore
from kilonova.image.file import FileStore
from kilonova.image.rbd import RbdStore
from kilonova.rbd import bindings
from kilonova.volume.backends.fetch import GIB
from kilonova.volume.backends.file import FileBackend
from kilonova.volume.backends.rbd import RbdBackend
from kilonova.volume.base import Backend

_STEPS = {
    *("open", "os.rename", "os.remove", "os.truncate", "os.mkdir"),
    *("fcntl.flock", "fcntl.fcntl", "fcntl.ioctl", "socket.connect", "subprocess.Popen"),
}
_CALLS = {
    *("create", "clone", "remove", "trash_move", "trash_remove", "resize", "create_snap", "remove_snap"),
    *(
        "metadata_set",
        "metadata_remove",
        "rollback_to_snap",
        "protect_snap",
        "unprotect_snap",
        "write",
        "flush",
    ),
}


class Fuse:
    def __init__(self) -> None:
        self.left: int | None = None

    def step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


class Counted:
    """An object of the bindings, whose calls are steps."""

    def __init__(self, real: Any, fuse: Fuse) -> None:
        self._real, self._fuse = real, fuse

    def __getattr__(self, name: str) -> Any:
        if name in _CALLS:
            self._fuse.step()
        return getattr(self._real, name)

    def __enter__(self) -> Counted:
        self._real.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._real.__exit__(*error)


def main(place: Place, what: str, source: str) -> None:
    number = 0
    while True:
        number += 1
        ident = str(uuid4())
        print(ident, flush=True)
        child = os.fork()
        if child == 0:
            _attempt(place, what, source, ident, number)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))


def _attempt(place: Place, what: str, source: str, ident: str, number: int) -> None:
    status = 1
    try:
        fuse = Fuse()
        rbd, image = bindings.rbd, bindings.image
        bindings.rbd = lambda: Counted(rbd(), fuse)  # type: ignore[assignment]
        bindings.image = lambda *args, **more: Counted(image(*args, **more), fuse)  # type: ignore[assignment]

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in _STEPS and _is_of(place.folder, event, arguments):
                fuse.step()

        sys.addaudithook(hook)
        with opened(place) as backend:
            work = WORK[what](backend, place, source, ident)
            fuse.left = number
            work()
            fuse.left = None
        status = 0
    finally:
        os._exit(status)


def _is_of(folder: Path, event: str, arguments: tuple[Any, ...]) -> bool:
    """Not of Python's own modules."""
    return event != "open" or str(arguments[0]).startswith(str(folder))


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


Work = Callable[[], object]


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

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    tgt = None
    if asked["tgt"]:
        tgt = Tgtd(Path(asked["folder"]))
        tgt.portal = asked["tgt"]
    conf = Path(asked["conf"]) if asked["conf"] else None
    main(Place(asked["kind"], Path(asked["folder"]), conf, tgt), asked["what"], asked["source"])
