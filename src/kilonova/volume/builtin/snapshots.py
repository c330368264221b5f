"""Snapshots of volumes: begun, changed, deleted."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.volumes import SnapshotStatus, VolumeStatus, VolumeWork
from kilonova.store import operations, volume_types, volumes
from kilonova.store import volume_snapshots as store
from kilonova.store.database import Row
from kilonova.store.schema.volumes import volumes as volumes_table
from kilonova.volume.builtin import quotas
from kilonova.volume.builtin.errors import invalid_snapshot, snapshot_not_found, wrong_status
from kilonova.volume.builtin.parts import Parts, begin
from kilonova.volume.builtin.volumes import find as find_volume
from kilonova.volume.builtin.volumes import owner

_ANY_USE = (
    VolumeStatus.IN_USE,
    VolumeStatus.RESERVED,
    VolumeStatus.ATTACHING,
    VolumeStatus.DETACHING,
)


def find(conn: sa.Connection, context: RequestContext, snapshot_id: str, for_update: bool = False) -> Row:
    found = store.get(conn, snapshot_id, owner(context), for_update)
    if found is None:
        raise snapshot_not_found(snapshot_id)
    return found


def create(
    conn: sa.Connection,
    parts: Parts,
    context: RequestContext,
    snapshot_id: str,
    volume_id: str,
    name: str | None,
    description: str | None = None,
    metadata: dict[str, str] | None = None,
    *,
    force: bool = False,
    in_order: bool = False,
) -> None:
    """Begin one, its volume's project's. ``force``: of a volume in use too. Nothing if it is there."""
    if store.get(conn, snapshot_id) is not None:
        return
    volume = find_volume(conn, context, volume_id, for_update=True)
    allowed = (VolumeStatus.AVAILABLE, *(_ANY_USE if force else ()))
    if volume.status not in allowed or volume.host is None:
        raise wrong_status("create a snapshot", volume_id, " or ".join(allowed), volume.status)
    kind = volume_types.get(conn, volume.volume_type_id)
    assert kind is not None
    quotas.lock(conn, volume.project_id)
    more = quotas.amounts(kind.name, snapshots=1, gigabytes=volume.size)
    quotas.check(conn, parts.config, volume.project_id, more)
    row = {
        "id": snapshot_id,
        "volume_id": volume_id,
        "project_id": volume.project_id,
        "user_id": context.user_id,
        "name": name,
        "description": description,
        "status": SnapshotStatus.CREATING,
        "size": volume.size,
        "volume_type_id": volume.volume_type_id,
        "bootable": volume.bootable,
        "metadata": metadata or {},
        "image_metadata": volume.image_metadata,
        "created_at": now(),
    }
    if store.insert(conn, row):
        kind_of = VolumeWork.SNAPSHOT_CREATE
        payload = {"volume_id": volume_id, **({"in_order": True} if in_order else {})}
        begin(conn, parts, context, kind_of, snapshot_id, volume.project_id, volume.host, payload)


_DELETED_IN = (SnapshotStatus.AVAILABLE, SnapshotStatus.ERROR)


def delete(
    conn: sa.Connection, parts: Parts, context: RequestContext, snapshot_id: str, *, force: bool = False
) -> None:
    """Begin to. BadRequest if it cannot go now; nothing if it is going already. ``force``: also if it says
    that it is going, and nothing takes it there."""
    operations.lock_open(conn, snapshot_id)
    volume = volumes.get(conn, find(conn, context, snapshot_id).volume_id, for_update=True)
    snapshot = find(conn, context, snapshot_id, for_update=True)
    is_going = not force or operations.open_of_server(conn, snapshot_id) is not None
    if snapshot.status == SnapshotStatus.DELETING and is_going:
        return
    if not force and snapshot.status not in _DELETED_IN:
        raise invalid_snapshot(
            f"Snapshot status must be 'available' or 'error' to delete, but it is {snapshot.status}."
        )
    being_read = sa.select(volumes_table.c.id).where(
        volumes_table.c.snapshot_id == snapshot_id, volumes_table.c.status == VolumeStatus.CREATING
    )
    if conn.execute(being_read.limit(1)).first() is not None:
        raise invalid_snapshot("A volume is being made of it.")
    if volume is not None and volume.status == VolumeStatus.REVERTING:
        raise invalid_snapshot(f"Volume {volume.id} is being reverted to it, or to another one.")
    operations.supersede(conn, snapshot_id, "The snapshot is being deleted")
    if volume is None or volume.host is None:
        store.delete(conn, snapshot_id)
        return
    store.change(conn, snapshot_id, status=SnapshotStatus.DELETING, message=None)
    kind, payload = VolumeWork.SNAPSHOT_DELETE, {"volume_id": snapshot.volume_id}
    begin(conn, parts, context, kind, snapshot_id, snapshot.project_id, volume.host, payload)
