"""What is done to volumes that there are: found, changed, deleted, extended, copied into images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.domain.context import RequestContext
from kilonova.domain.servers import ImageRef
from kilonova.domain.volumes import FromImage, SnapshotStatus, VolumeStatus, VolumeWork
from kilonova.store import (
    images,
    operations,
    volume_attachments,
    volume_messages,
    volume_snapshots,
    volume_transfers,
    volume_types,
)
from kilonova.store import volumes as store
from kilonova.store.database import Row
from kilonova.store.schema.volumes import volume_snapshots as snapshots_table
from kilonova.store.schema.volumes import volumes as table
from kilonova.volume.builtin import copies, create, quotas
from kilonova.volume.builtin.errors import (
    invalid_input,
    invalid_snapshot,
    invalid_volume,
    volume_not_found,
    wrong_status,
)
from kilonova.volume.builtin.parts import Parts, begin


def owner(context: RequestContext) -> str | None:
    """Whose things are found by their ids; None: an admin, who finds all."""
    return None if context.is_admin else context.project_id or ""


def find(conn: sa.Connection, context: RequestContext, volume_id: str, for_update: bool = False) -> Row:
    found = store.get(conn, volume_id, owner(context), for_update)
    if found is None:
        raise volume_not_found(volume_id)
    return found


_DELETED_IN = (VolumeStatus.AVAILABLE, VolumeStatus.ERROR, VolumeStatus.ERROR_EXTENDING)


def delete(
    conn: sa.Connection,
    parts: Parts,
    context: RequestContext,
    volume_id: str,
    *,
    force: bool = False,
    cascade: bool = False,
) -> None:
    """Begin to. BadRequest in Cinder's words if it cannot go now; nothing if it is going already.

    ``force``: whatever its status; ``cascade``: with its snapshots.
    """
    operations.lock_open(conn, volume_id)
    volume = find(conn, context, volume_id, for_update=True)
    attached = bool(volume_attachments.of_volume(conn, volume_id))
    snapshots = volume_snapshots.of_volume(conn, volume_id)
    if volume.status == VolumeStatus.DELETING and not force:
        return
    stuck = any(one.status not in _SNAPSHOT_DELETED_IN for one in snapshots) if cascade else bool(snapshots)
    if attached or stuck or is_read(conn, volume_id) or (not force and volume.status not in _DELETED_IN):
        raise invalid_volume(
            "Volume status must be available or error or error_restoring or error_extending or "
            "error_managing and must not be migrating, attached, belong to a group, have snapshots, "
            "awaiting a transfer, or be disassociated from snapshots after volume transfer."
        )
    begin_delete(conn, parts, context, volume, snapshots)


_SNAPSHOT_DELETED_IN = (SnapshotStatus.AVAILABLE, SnapshotStatus.ERROR, SnapshotStatus.ERROR_DELETING)


def is_read(conn: sa.Connection, volume_id: str) -> bool:
    """Whether another volume is being made of it, or of a snapshot of it."""
    snapshots = sa.select(snapshots_table.c.id).where(snapshots_table.c.volume_id == volume_id)
    of_it = sa.or_(table.c.source_volid == volume_id, table.c.snapshot_id.in_(snapshots))
    query = sa.select(table.c.id).where(of_it, table.c.status == VolumeStatus.CREATING).limit(1)
    return conn.execute(query).first() is not None


def delete_unless_needed(conn: sa.Connection, parts: Parts, context: RequestContext, volume: Row) -> bool:
    """Whether it goes: a volume that is locked, that nobody has, and that was to go with its server.

    One that has snapshots, which would go along, or that is being copied, stays, as Cinder refuses its
    delete; its project is told so.
    """
    if not volume_snapshots.of_volume(conn, volume.id) and not is_read(conn, volume.id):
        begin_delete(conn, parts, context, volume)
        return True
    why = "The volume was not deleted with its server: it has snapshots, or another volume is made of it."
    volume_messages.insert(conn, "VOLUME", volume, context.request_id, "VOLUME_VOLUME_021_001", why)
    return False


def begin_delete(
    conn: sa.Connection, parts: Parts, context: RequestContext, volume: Row, snapshots: Sequence[Row] = ()
) -> None:
    """Of a volume that is locked, and of these snapshots of it."""
    left = _abandon(conn, parts, volume, "The volume is being deleted")
    volume_transfers.delete_of_volume(conn, volume.id)
    if volume.host is None:  # nothing was ever made of it
        store.delete(conn, volume.id)
        return
    for snapshot in snapshots:
        volume_snapshots.change(conn, snapshot.id, status=SnapshotStatus.DELETING)
    store.change(conn, volume.id, **left | {"status": VolumeStatus.DELETING, "message": None})
    payload = {"snapshots": [snapshot.id for snapshot in snapshots]}
    begin(conn, parts, context, VolumeWork.DELETE, volume.id, volume.project_id, volume.host, payload)


def _abandon(conn: sa.Connection, parts: Parts, volume: Row, why: str) -> dict[str, Any]:
    """What is open for it, which is locked, is over: neither the image nor the copy that it was to become
    will be. What is new of it."""
    work = operations.open_of_server(conn, volume.id)
    if work is not None and work.kind == VolumeWork.UPLOAD:
        images.give_up(conn, work.payload["image_id"])
        copies.clear_snapshot(conn, parts, volume, work.payload.get("snapshot_id"))
    operations.supersede(conn, volume.id, why)
    return copies.stayed(conn, parts, volume)


def reset_status(
    conn: sa.Connection, parts: Parts, context: RequestContext, volume_id: str, status: str
) -> None:
    """As an admin says, who has looked: what was under way for it is over, and nobody is offered it."""
    operations.lock_open(conn, volume_id)
    volume = find(conn, context, volume_id, for_update=True)
    if volume.status == VolumeStatus.DELETING and operations.open_of_server(conn, volume_id) is not None:
        raise invalid_volume(f"Volume {volume_id} is being deleted: there may be nothing of it any more.")
    left = _abandon(conn, parts, volume, f"An admin set the volume's status to {status}")
    volume_transfers.withdraw(conn, volume_id)
    store.change(conn, volume_id, **left | {"status": status, "previous_status": None, "new_size": None})


def extend(
    conn: sa.Connection, parts: Parts, context: RequestContext, volume_id: str, size_gb: int, online: bool
) -> None:
    """Begin to make it larger. ``online``: one in use too."""
    volume = find(conn, context, volume_id, for_update=True)
    allowed = [VolumeStatus.AVAILABLE, *([VolumeStatus.IN_USE] if online else [])]
    if volume.status not in allowed or volume.host is None:
        raise wrong_status("extend", volume_id, " or ".join(allowed), volume.status)
    if size_gb <= volume.size:
        raise invalid_input(
            f"New size for extend must be greater than current size. "
            f"(current: {volume.size}, extended: {size_gb})."
        )
    if is_read(conn, volume_id):
        raise invalid_volume(f"Volume {volume_id} cannot grow while another volume is being made of it.")
    quotas.lock(conn, volume.project_id)
    kind = volume_types.get(conn, volume.volume_type_id)
    assert kind is not None
    more = quotas.amounts(kind.name, gigabytes=size_gb - volume.size)
    quotas.check(conn, parts.config, volume.project_id, more, size_gb)
    set_off(
        conn,
        parts,
        context,
        volume,
        VolumeWork.EXTEND,
        VolumeStatus.EXTENDING,
        {"size": size_gb},
        new_size=size_gb,
    )


def upload(
    conn: sa.Connection, parts: Parts, context: RequestContext, volume_id: str, image_id: str, force: bool
) -> Row:
    """Begin to copy it into that image, which is there and holds nothing yet. The volume."""
    volume = find(conn, context, volume_id, for_update=True)
    allowed = [VolumeStatus.AVAILABLE, *([VolumeStatus.IN_USE] if force else [])]
    if volume.status not in allowed or volume.host is None:
        raise wrong_status("upload as image", volume_id, " or ".join(allowed), volume.status)
    payload = {"image_id": image_id}
    if volume.status == VolumeStatus.IN_USE:
        payload["snapshot_id"] = image_id  # that it is made of, so that it is of one moment
    set_off(conn, parts, context, volume, VolumeWork.UPLOAD, VolumeStatus.UPLOADING, payload)
    return find(conn, context, volume_id)


def revert(
    conn: sa.Connection, parts: Parts, context: RequestContext, volume_id: str, snapshot_id: str
) -> None:
    """Begin to make it what its newest snapshot is."""
    volume = find(conn, context, volume_id, for_update=True)
    snapshots = volume_snapshots.of_volume(conn, volume_id)
    wanted = next((one for one in snapshots if one.id == snapshot_id), None)
    if wanted is None:
        raise invalid_input(f"Snapshot {snapshot_id} is not of volume {volume_id}.")
    if snapshots[0].id != snapshot_id:
        raise invalid_snapshot(
            f"Specified snapshot {snapshot_id} is not the latest one of volume {volume_id}."
        )
    if wanted.status != SnapshotStatus.AVAILABLE:
        raise invalid_snapshot(f"Can't revert to snapshot {snapshot_id} in status {wanted.status}.")
    if volume.size != wanted.size:
        raise invalid_input(
            f"Can't revert volume {volume_id} to its latest snapshot {snapshot_id}. The volume size must be "
            "equal to the snapshot size."
        )
    if volume.status != VolumeStatus.AVAILABLE:
        raise wrong_status("revert to a snapshot", volume_id, "available", volume.status)
    _refuse_read(conn, volume_id)
    payload = {"snapshot_id": snapshot_id}
    set_off(conn, parts, context, volume, VolumeWork.REVERT, VolumeStatus.REVERTING, payload)


_REIMAGED_IN = (VolumeStatus.AVAILABLE, VolumeStatus.ERROR, VolumeStatus.RESERVED)


def reimage(
    conn: sa.Connection,
    parts: Parts,
    context: RequestContext,
    volume_id: str,
    image: ImageRef,
    also_in: Sequence[VolumeStatus] = (),
) -> None:
    """Begin to replace what it holds by the image; ``also_in``: for who knows that no guest runs on it."""
    volume = find(conn, context, volume_id, for_update=True)
    source, remembered = check_reimage(conn, volume, image, also_in)
    set_off(
        conn,
        parts,
        context,
        volume,
        VolumeWork.REIMAGE,
        VolumeStatus.DOWNLOADING,
        {"source": source},
        image_metadata=remembered,
        image_id=image.id,
    )


def check_reimage(
    conn: sa.Connection, volume: Row, image: ImageRef, also_in: Sequence[VolumeStatus] = ()
) -> tuple[FromImage, dict[str, str]]:
    """What it is made of then, and what it remembers of that. BadRequest."""
    allowed = (*_REIMAGED_IN, *also_in)
    if volume.status not in allowed or volume.host is None:
        raise wrong_status("reimage", volume.id, " or ".join(allowed), volume.status)
    if volume_snapshots.of_volume(conn, volume.id):
        raise invalid_volume(f"Volume {volume.id} has snapshots, which hold what would be replaced.")
    if len(volume_attachments.of_volume(conn, volume.id)) > 1:
        raise invalid_volume(f"Volume {volume.id} is attached to more than one server.")
    _refuse_read(conn, volume.id)
    return create.from_image(image, volume.size)


def _refuse_read(conn: sa.Connection, volume_id: str) -> None:
    """A copy would hold some of what was there before, and some of what came."""
    if is_read(conn, volume_id):
        raise invalid_volume(f"Volume {volume_id} holds what another volume is being made of.")


def set_off(
    conn: sa.Connection,
    parts: Parts,
    context: RequestContext,
    volume: Row,
    kind: VolumeWork,
    status: VolumeStatus,
    payload: dict[str, Any],
    **values: Any,
) -> None:
    """An operation of a volume, which is locked; it is back in its status when that ended."""
    store.change(conn, volume.id, status=status, previous_status=volume.status, message=None, **values)
    begin(conn, parts, context, kind, volume.id, volume.project_id, volume.host, payload)


def set_metadata(
    conn: sa.Connection, context: RequestContext, volume_id: str, change: Any, column: str = "metadata"
) -> dict[str, str]:
    """``change``: from what it is to what it is to be. ``column``: metadata or image_metadata."""
    volume = find(conn, context, volume_id, for_update=True)
    if volume.status in (VolumeStatus.CREATING, VolumeStatus.DELETING):
        raise invalid_volume(f"Volume {volume_id} is {volume.status}: its metadata cannot change now.")
    after: dict[str, str] = change(dict(volume._mapping[column]))
    store.change(conn, volume_id, **{column: after})
    return after
