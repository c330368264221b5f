"""What each kind of operation does to its backend, from the top each time it is taken up; and how it is
undone when it failed or moved on. Nothing here writes to the records."""

from __future__ import annotations

from collections.abc import Callable

from kilonova.domain import codec
from kilonova.domain.errors import NotFound, VolumeFailed
from kilonova.domain.volumes import Connector, Source, VolumeStatus, VolumeWork
from kilonova.store import operations, volume_attachments, volume_snapshots, volumes
from kilonova.store.database import Row
from kilonova.volume_manager import guest_copies
from kilonova.volume_manager.task import Task

GIB = 1 << 30


def create(task: Task) -> None:
    volume, source = _volume(task), _source(task)
    with task.step("make"):
        task.backend.ensure_volume(task.id, volume.size, source, task.cancel)


def undo_create(task: Task) -> None:
    task.backend.delete(task.id)


def delete(task: Task) -> None:
    for snapshot_id in task.work.payload.get("snapshots", ()):
        with task.step("delete_snapshot"):
            task.backend.delete_snapshot(task.id, snapshot_id)
    with task.step("delete"), task.parts.turns.of(task.id):
        task.backend.delete(task.id)


def extend(task: Task) -> None:
    with task.step("extend"):
        task.backend.extend(task.id, task.work.payload["size"], task.cancel)


def upload(task: Task) -> None:
    volume, image_id = _volume(task), task.work.payload["image_id"]
    with task.step("upload"), task.backend.open(task.id) as data:
        task.parts.uploads.upload(image_id, data, volume.size * GIB, task.cancel)


def revert(task: Task) -> None:
    with task.step("revert"):
        task.backend.revert(task.id, task.work.payload["snapshot_id"], task.cancel)


def reimage(task: Task) -> None:
    """What was made before a crash is made again: it cannot be told from what was there before."""
    volume, source = _volume(task), _source(task)
    with task.step("empty"):
        task.backend.delete(task.id)
    with task.step("make"):
        task.backend.ensure_volume(task.id, volume.size, source, task.cancel)


def disconnect(task: Task) -> None:
    payload = task.work.payload
    volume_id, connector = payload["volume_id"], codec.convert(payload["connector"], Connector)
    with task.step("disconnect"), task.parts.turns.of(volume_id):
        with task.parts.db.read() as conn:
            wanted = volume_attachments.is_there(conn, volume_id, connector)
        if not wanted:
            task.backend.disconnect(volume_id, connector)


def create_snapshot(task: Task) -> None:
    volume_id = task.work.payload["volume_id"]
    with task.step("make"):
        task.backend.ensure_snapshot(volume_id, task.id, task.cancel, guest_copies.by_guest(task, volume_id))


def undo_create_snapshot(task: Task) -> None:
    guest_copies.drop(task, task.work.payload["volume_id"])
    task.backend.delete_snapshot(task.work.payload["volume_id"], task.id)


def delete_snapshot(task: Task) -> None:
    guest_copies.drop(task, task.work.payload["volume_id"])
    with task.step("delete"):
        task.backend.delete_snapshot(task.work.payload["volume_id"], task.id)


PERFORM: dict[str, Callable[[Task], None]] = {
    VolumeWork.CREATE: create,
    VolumeWork.DELETE: delete,
    VolumeWork.EXTEND: extend,
    VolumeWork.UPLOAD: upload,
    VolumeWork.REVERT: revert,
    VolumeWork.REIMAGE: reimage,
    VolumeWork.DISCONNECT: disconnect,
    VolumeWork.SNAPSHOT_CREATE: create_snapshot,
    VolumeWork.SNAPSHOT_DELETE: delete_snapshot,
}

UNDO: dict[str, Callable[[Task], None]] = {
    VolumeWork.CREATE: undo_create,
    VolumeWork.SNAPSHOT_CREATE: undo_create_snapshot,
}


def is_nobodys(task: Task) -> bool:
    """After it moved on: whether what a create makes is to be, by nobody's word. What another one made of the
    same operation is somebody's, whatever became of it since."""
    with task.parts.db.read() as conn:
        work = operations.get(conn, task.work.id)
        if work is None or work.state in (operations.OPEN, operations.DONE):
            return False
        if task.work.kind == VolumeWork.CREATE:
            found = volumes.get(conn, task.id)
        elif task.work.kind == VolumeWork.SNAPSHOT_CREATE:
            found = volume_snapshots.get(conn, task.id)
        else:
            return False
    return found is None or found.status in (VolumeStatus.ERROR, VolumeStatus.DELETING)


def _volume(task: Task) -> Row:
    with task.parts.db.read() as conn:
        found = volumes.get(conn, task.id)
    if found is None:
        raise NotFound(f"Volume {task.id} could not be found.")
    return found


def _source(task: Task) -> Source:
    given = task.work.payload.get("source")
    if given is None:
        raise VolumeFailed("What the volume is to hold is not known.")
    kind: type[Source] = Source  # type: ignore[assignment]
    return codec.convert(given, kind)
