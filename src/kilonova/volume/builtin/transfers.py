"""Offers of volumes to another project: whoever knows the key takes the volume."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest
from kilonova.domain.volumes import SnapshotStatus, VolumeStatus
from kilonova.store import volume_snapshots, volume_types, volumes
from kilonova.store import volume_transfers as store
from kilonova.store.database import Row
from kilonova.volume.builtin import quotas
from kilonova.volume.builtin.errors import invalid_volume, transfer_not_found
from kilonova.volume.builtin.parts import Parts
from kilonova.volume.builtin.volumes import find as find_volume
from kilonova.volume.builtin.volumes import owner


def find(conn: sa.Connection, context: RequestContext, transfer_id: str, for_update: bool = False) -> Row:
    """An open offer of the caller's."""
    found = store.get(conn, transfer_id, for_update)
    if found is None or owner(context) not in (None, found.source_project_id):
        raise transfer_not_found(transfer_id)
    return found


def create(
    conn: sa.Connection, context: RequestContext, volume_id: str, name: str | None, no_snapshots: bool
) -> tuple[Row, str]:
    """The offer, and its key, which nobody is told again."""
    volume = find_volume(conn, context, volume_id, for_update=True)
    if volume.status != VolumeStatus.AVAILABLE:
        raise invalid_volume("status must be available")
    snapshots = volume_snapshots.of_volume(conn, volume_id)
    if snapshots and no_snapshots:
        raise invalid_volume("a volume is not offered without its snapshots")
    if any(one.status != SnapshotStatus.AVAILABLE for one in snapshots):
        raise invalid_volume("snapshots must be available")
    key, salt = secrets.token_hex(8), secrets.token_hex(8)
    row = {
        "id": str(uuid.uuid4()),
        "volume_id": volume_id,
        "name": name or "",
        "source_project_id": volume.project_id,
        "accepted": False,
        "no_snapshots": no_snapshots,
        "salt": salt,
        "key_hash": _hash(salt, key),
        "created_at": now(),
    }
    volumes.change(conn, volume_id, status=VolumeStatus.AWAITING_TRANSFER)
    store.insert(conn, row)
    made = store.get(conn, row["id"])
    assert made is not None
    return made, key


def _hash(salt: str, key: str) -> str:
    return hashlib.sha256(f"{salt}{key}".encode()).hexdigest()


def delete(conn: sa.Connection, context: RequestContext, transfer_id: str) -> None:
    """The volume stays where it is."""
    offer = find(conn, context, transfer_id, for_update=True)
    waits = [VolumeStatus.AWAITING_TRANSFER]
    volumes.change_if(conn, offer.volume_id, waits, status=VolumeStatus.AVAILABLE)
    store.delete(conn, transfer_id)


def accept(conn: sa.Connection, parts: Parts, context: RequestContext, transfer_id: str, key: str) -> Row:
    """The volume and its snapshots are the caller's project's, if its quota has room for them."""
    assert context.project_id is not None
    offer = store.get(conn, transfer_id, for_update=True)
    if offer is None:
        raise transfer_not_found(transfer_id)
    if not hmac.compare_digest(_hash(offer.salt, key), offer.key_hash):
        raise BadRequest(f"Invalid auth key: Attempt to transfer {transfer_id} with invalid auth key.")
    volume = volumes.get(conn, offer.volume_id, for_update=True)
    waits = volume is not None and volume.status == VolumeStatus.AWAITING_TRANSFER
    if volume is None or not waits or volume.project_id != offer.source_project_id:
        raise invalid_volume(f"Transfer {transfer_id}: Volume id {offer.volume_id} in unexpected state")
    kind = volume_types.get(conn, volume.volume_type_id, None if context.is_admin else context.project_id)
    if kind is None:
        raise invalid_volume(f"Volume {volume.id} is of a type that this project may not use")
    snapshots = volume_snapshots.of_volume(conn, volume.id)
    quotas.lock(conn, context.project_id)
    gigabytes = volume.size + sum(one.size for one in snapshots)
    more = quotas.amounts(kind.name, volumes=1, snapshots=len(snapshots), gigabytes=gigabytes)
    quotas.check(conn, parts.config, context.project_id, more)
    volumes.change(
        conn,
        volume.id,
        project_id=context.project_id,
        user_id=context.user_id,
        status=VolumeStatus.AVAILABLE,
    )
    volume_snapshots.give(conn, volume.id, context.project_id, context.user_id)
    store.accept(conn, transfer_id, context.project_id)
    return offer
