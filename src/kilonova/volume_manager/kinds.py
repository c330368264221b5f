"""What each kind of operation does to its backend, from the top each time it is taken up; and how it is
undone when it failed or moved on. Nothing here writes to the records."""

from __future__ import annotations

from collections.abc import Callable

from kilonova.domain import codec
from kilonova.domain.errors import NotFound, VolumeFailed
from kilonova.domain.volumes import Connector, Source, VolumeStatus, VolumeWork
from kilonova.store import operations, volume_attachments, volume_snapshots, volumes
from kilonova.store.database import Row
from kilonova.volume.builtin import copies
from kilonova.volume_manager import guest_copies, guest_still
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
    """Of one in use a snapshot is copied, which is of one moment, and has no record."""
    volume, image_id = _volume(task), task.work.payload["image_id"]
    snapshot_id = task.work.payload.get("snapshot_id")
    if snapshot_id is not None:
        with task.step("snapshot"):
            by_guest = guest_copies.by_guest(task, task.id, snapshot_id)
            still = guest_still.still(task, task.id, snapshot_id)
            task.backend.ensure_snapshot(task.id, snapshot_id, task.cancel, by_guest, still)
    with task.step("upload"), task.backend.open(task.id, snapshot_id) as data:
        task.parts.uploads.upload(image_id, data, volume.size * GIB, task.cancel)
    if snapshot_id is not None:
        with task.step("delete_snapshot"):
            task.backend.delete_snapshot(task.id, snapshot_id)


def move(task: Task) -> None:
    """What was copied before a crash is copied again: it cannot be told from what an older move has left."""
    volume, to = _volume(task), task.parts.backend(task.work.payload["host"])
    if to is None:
        raise VolumeFailed(f"This manager does not work with {task.work.payload['host']}.")
    if to.place() == task.backend.place():
        return
    with task.step("empty"):
        to.delete(task.id)
    with task.step("copy"):
        to.take_over(task.id, volume.size, task.backend.address(task.id), task.cancel)


def undo_move(task: Task) -> None:
    """What came there when all that was there had been cleared away already."""
    host = task.work.payload["host"]
    with task.parts.db.write() as conn:
        volume = volumes.get(conn, task.id, for_update=True)
        if volume is None or host not in (volume.host, volume.new_host):
            copies.clear(conn, task.rules, task.id, task.work.project_id, host)


def clear(task: Task) -> None:
    """Unless the volume is there by another name of the same place."""
    payload = task.work.payload
    volume_id, snapshot_id = payload["volume_id"], payload.get("snapshot_id")
    with task.step("clear"), task.parts.turns.of(volume_id):
        if snapshot_id is not None:
            guest_copies.drop(task, volume_id, snapshot_id)
            task.backend.delete_snapshot(volume_id, snapshot_id)
        elif not _is_there(task, volume_id):
            task.backend.delete(volume_id)


def _is_there(task: Task, volume_id: str) -> bool:
    with task.parts.db.read() as conn:
        volume = volumes.get(conn, volume_id)
    if volume is None:
        return False
    backend = task.parts.backend(volume.host)
    if backend is None:
        raise VolumeFailed(f"This manager does not work with {volume.host}, where the volume is.")
    return backend.place() == task.backend.place()


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
        if guest_still.is_in_order(task):  # of what is there already nobody knows whether it is
            task.backend.delete_snapshot(volume_id, task.id)
        by_guest = guest_copies.by_guest(task, volume_id, task.id)
        still = guest_still.still(task, volume_id, task.id)
        task.backend.ensure_snapshot(volume_id, task.id, task.cancel, by_guest, still)


def undo_create_snapshot(task: Task) -> None:
    guest_copies.drop(task, task.work.payload["volume_id"], task.id)
    task.backend.delete_snapshot(task.work.payload["volume_id"], task.id)


def delete_snapshot(task: Task) -> None:
    guest_copies.drop(task, task.work.payload["volume_id"], task.id)
    with task.step("delete"):
        task.backend.delete_snapshot(task.work.payload["volume_id"], task.id)


PERFORM: dict[str, Callable[[Task], None]] = {
    VolumeWork.CREATE: create,
    VolumeWork.DELETE: delete,
    VolumeWork.EXTEND: extend,
    VolumeWork.UPLOAD: upload,
    VolumeWork.REVERT: revert,
    VolumeWork.REIMAGE: reimage,
    VolumeWork.MOVE: move,
    VolumeWork.CLEAR: clear,
    VolumeWork.DISCONNECT: disconnect,
    VolumeWork.SNAPSHOT_CREATE: create_snapshot,
    VolumeWork.SNAPSHOT_DELETE: delete_snapshot,
}

UNDO: dict[str, Callable[[Task], None]] = {
    VolumeWork.CREATE: undo_create,
    VolumeWork.MOVE: undo_move,
    VolumeWork.SNAPSHOT_CREATE: undo_create_snapshot,
}


def is_nobodys(task: Task) -> bool:
    """After it moved on: whether what a create makes is to be, by nobody's word. What another one made of the
    same operation is somebody's, whatever became of it since."""
    with task.parts.db.read() as conn:
        work = operations.get(conn, task.work.id)
        if work is None or work.state in (operations.OPEN, operations.DONE):
            return False
        if task.work.kind == VolumeWork.MOVE:
            return True
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
