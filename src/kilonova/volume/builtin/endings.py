"""How operations of volumes end in the records, well or badly: by who owns the operation, in the transaction
that closes it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.volumes import SnapshotStatus, VolumeStatus, VolumeWork
from kilonova.store import (
    images,
    operations,
    volume_attachments,
    volume_messages,
    volume_snapshots,
    volumes,
)
from kilonova.store.database import Row
from kilonova.volume.builtin import attachments, copies
from kilonova.volume.builtin.parts import Parts

KINDS = frozenset(VolumeWork)
_OF_NOTHING = frozenset({VolumeWork.DISCONNECT, VolumeWork.CLEAR})
"""That there is a record of."""
_W, _V, _S = VolumeWork, VolumeStatus, SnapshotStatus


def done(conn: sa.Connection, parts: Parts, work: Row) -> str:
    """It went well: the status that the volume or the snapshot has now; empty: it has none."""
    of, payload = work.server_id, payload_of(conn, work)
    match work.kind:
        case _W.CREATE:
            volumes.change(conn, of, status=_V.AVAILABLE, launched_at=now(), message=None)
            return _V.AVAILABLE
        case _W.DELETE:
            volumes.get(conn, of, for_update=True)  # before its snapshots, as everywhere
            for snapshot_id in payload.get("snapshots", ()):
                volume_snapshots.delete(conn, snapshot_id)
            volumes.delete(conn, of)
        case _W.EXTEND | _W.REIMAGE | _W.UPLOAD | _W.REVERT | _W.MOVE:
            return _back(conn, of, **_changed(conn, parts, work, payload))
        case _W.SNAPSHOT_CREATE:
            volume_snapshots.change(conn, of, status=_S.AVAILABLE)
            return _S.AVAILABLE
        case _W.SNAPSHOT_DELETE:
            volume_snapshots.delete(conn, of)
    return ""


def _changed(conn: sa.Connection, parts: Parts, work: Row, payload: dict[str, Any]) -> dict[str, Any]:
    """What is new of the volume, beside its status."""
    match work.kind:
        case _W.EXTEND:
            return {"size": payload["size"], "new_size": None}
        case _W.REIMAGE:
            return {"bootable": True}
        case _W.MOVE:
            volume = volumes.get(conn, work.server_id, for_update=True)
            return {} if volume is None else copies.arrived(conn, parts, volume)
    return {}


def _back(conn: sa.Connection, volume_id: str, **values: Any) -> str:
    """The volume is what it was before; what was in an error is what its attachments say."""
    volume = volumes.get(conn, volume_id, for_update=True)
    if volume is None:
        return ""
    before = volume.previous_status
    status: str = before
    if before in (None, _V.ERROR):
        status = attachments.status_of(volume_attachments.of_volume(conn, volume_id))
    volumes.change(conn, volume_id, status=status, previous_status=None, **values)
    return status


_FAILED: dict[VolumeWork, tuple[VolumeStatus | None, str]] = {
    _W.CREATE: (_V.ERROR, "008_001"),
    _W.DELETE: (_V.ERROR_DELETING, "021_001"),
    _W.EXTEND: (_V.ERROR_EXTENDING, "007_001"),
    _W.REVERT: (_V.ERROR, "016_001"),
    _W.REIMAGE: (_V.ERROR, "020_001"),
    _W.MOVE: (None, "022_001"),
    _W.UPLOAD: (None, "003_001"),
}
"""What it is then, None: what it was before; and the end of the message's event id (action and detail)."""
_FAILED_OF_SNAPSHOTS = {
    _W.SNAPSHOT_CREATE: (_S.ERROR, "009_001"),
    _W.SNAPSHOT_DELETE: (_S.ERROR_DELETING, "010_001"),
}


def failed(conn: sa.Connection, parts: Parts, work: Row, message: str) -> str:
    """The status that it has now. The project gets a message that says why."""
    of, kind = work.server_id, VolumeWork(work.kind)
    if kind in _OF_NOTHING:
        return ""
    if kind in _FAILED_OF_SNAPSHOTS:
        snapshot = volume_snapshots.get(conn, of)
        if snapshot is None:
            return ""
        ended, event = _FAILED_OF_SNAPSHOTS[kind]
        volume_snapshots.change(conn, of, status=ended, message=message)
        _tell(conn, "VOLUME_SNAPSHOT", snapshot, work, event, message)
        return ended
    volume = volumes.get(conn, of, for_update=True)
    if volume is None:
        return ""
    status, event = _FAILED[kind]
    _tell(conn, "VOLUME", volume, work, event, message)
    left = copies.stayed(conn, parts, volume)
    if kind is _W.UPLOAD:
        payload = payload_of(conn, work)
        images.give_up(conn, payload["image_id"])
        copies.clear_snapshot(conn, parts, volume, payload.get("snapshot_id"))
    if status is None:
        return _back(conn, of, **left, message=message)
    for snapshot_id in payload_of(conn, work).get("snapshots", ()):
        volume_snapshots.change(conn, snapshot_id, status=_S.ERROR_DELETING, message=message)
    volumes.change(conn, of, status=status, previous_status=None, new_size=None, message=message)
    return status


def _tell(conn: sa.Connection, what: str, of: Row, work: Row, event: str, message: str) -> None:
    request_id = getattr(work, "request_id", "") or ""
    volume_messages.insert(conn, what, of, request_id, f"VOLUME_{what}_{event}", message)


def payload_of(conn: sa.Connection, work: Row) -> dict[str, Any]:
    """Asked before the operation is closed: its end forgets it."""
    found = operations.get(conn, work.id)
    return dict(found.payload) if found is not None else {}


_LIMBO = "It was in a transitional state that no operation explains."


def in_limbo(conn: sa.Connection, before: float) -> bool:
    """Whether repair() would find anything."""
    return bool(volumes.in_limbo(conn, before) or volume_snapshots.in_limbo(conn, before))


def repair(conn: sa.Connection, parts: Parts, before: float) -> list[str]:
    """Volumes and snapshots on their way to another state that no operation takes them to: in error now.
    Their ids."""
    found = volumes.in_limbo(conn, before)
    for volume in found:
        values = copies.stayed(conn, parts, volume) | {"status": _V.ERROR, "new_size": None}
        volumes.change_if(conn, volume.id, [volume.status], **values, message=_LIMBO)
    lost = volume_snapshots.in_limbo(conn, before)
    for snapshot in lost:
        status = _S.ERROR if snapshot.status == _S.CREATING else _S.ERROR_DELETING
        volume_snapshots.change_if(conn, snapshot.id, [snapshot.status], status=status, message=_LIMBO)
    return [one.id for one in [*found, *lost]]
