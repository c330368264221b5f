"""Which of what lies in stores and on hosts has a record that explains it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import sqlalchemy as sa

from kilonova.domain.images import ImageStatus
from kilonova.domain.servers import VmState
from kilonova.domain.volumes import VolumeWork
from kilonova.store import volume_attachments as attachments
from kilonova.store.operations import OPEN
from kilonova.store.schema.block_devices import block_device_mappings as devices
from kilonova.store.schema.hosts import claims
from kilonova.store.schema.images import images
from kilonova.store.schema.networks import ports
from kilonova.store.schema.operations import operations
from kilonova.store.schema.servers import servers
from kilonova.store.schema.volumes import (
    volume_attachments,
    volume_snapshots,
    volume_transfers,
    volumes,
)

_WITH_BYTES = (
    ImageStatus.SAVING,
    ImageStatus.ACTIVE,
    ImageStatus.DEACTIVATED,
    ImageStatus.PENDING_DELETE,
)
_AT_ONCE = 500
"""Ids of one query."""


def known_volumes(conn: sa.Connection, backend: str, ids: Collection[str]) -> set[str]:
    """Volumes that are, or are to be, on a backend of that name, and what is being cleared away there."""
    found = set()
    for column in (volumes.c.host, volumes.c.new_host):
        found |= _known(conn, sa.select(volumes.c.id).where(_at(column, backend)), volumes.c.id, ids)
    leaving = sa.select(operations.c.payload).where(
        operations.c.kind == VolumeWork.CLEAR, operations.c.state == OPEN, _at(operations.c.host, backend)
    )
    return found | {payload["volume_id"] for payload in conn.execute(leaving).scalars()} & set(ids)


def _at(host: sa.Column[str], backend: str) -> sa.ColumnElement[bool]:
    """Whichever manager's: ``name@backend#pool``."""
    return host.contains(f"@{backend}#", autoescape=True)


def known_snapshots(conn: sa.Connection, ids: Collection[str]) -> set[str]:
    """Those with a record, and those that images are being made of, or that are being cleared away."""
    found = _known(conn, sa.select(volume_snapshots.c.id), volume_snapshots.c.id, ids)
    of_work = sa.select(operations.c.payload).where(
        operations.c.kind.in_([VolumeWork.UPLOAD, VolumeWork.CLEAR]), operations.c.state == OPEN
    )
    for payload in conn.execute(of_work).scalars():
        found |= {payload.get("snapshot_id"), payload.get("image_id")} & set(ids)
    return found


def known_exports(conn: sa.Connection, ids: Collection[str]) -> set[str]:
    """Volumes that some host has, or that it is to lose: an operation is open for that."""
    attached = sa.select(volume_attachments.c.volume_id).where(volume_attachments.c.connector.is_not(None))
    found = _known(conn, attached, volume_attachments.c.volume_id, ids)
    leaving = sa.select(operations.c.payload).where(
        operations.c.kind == VolumeWork.DISCONNECT, operations.c.state == OPEN
    )
    found |= {payload["volume_id"] for payload in conn.execute(leaving).scalars()}
    deleting = sa.select(operations.c.server_id).where(operations.c.state == OPEN)
    return found & set(ids) | _known(conn, deleting, operations.c.server_id, ids)


def unowned(conn: sa.Connection) -> list[tuple[str, str]]:
    """(kind, id) of records whose owner is no more, and of attachments that nothing brings to an end. Each
    query is of one moment: what is on its way is in one transaction with what it belongs to."""
    found = [(kind, str(row[0])) for kind, query in _UNOWNED.items() for row in conn.execute(query)]
    stuck = [one for one in attachments.astray(conn) if not one.gone]
    return found + [("stuck attachment", str(one.id)) for one in stuck]


_live = sa.select(servers.c.id).where(servers.c.deleted_at.is_(None))
_busy = sa.select(operations.c.server_id).where(operations.c.state == OPEN)
_devices = sa.select(devices.c.attachment_id).where(devices.c.attachment_id.is_not(None))
_ended = sa.select(servers.c.id).where(servers.c.deleted_at.is_not(None))
_a = volume_attachments.c
_UNOWNED = {
    "record of an attachment": sa.select(_a.id).where(
        sa.or_(
            _a.volume_id.not_in(sa.select(volumes.c.id)),
            _a.server_id.in_(_ended),
            # Of a server of ours that does not know it: another Nova's would not be in the table.
            sa.and_(_a.server_id.in_(_live), _a.server_id.not_in(_busy), _a.id.not_in(_devices)),
        )
    ),
    "record of a disk": sa.select(devices.c.id).where(
        sa.or_(
            devices.c.server_id.in_(_ended),
            sa.and_(
                devices.c.attachment_id.is_not(None),
                devices.c.attachment_id.not_in(sa.select(_a.id)),
            ),
        )
    ),
    "record of a snapshot": sa.select(volume_snapshots.c.id).where(
        volume_snapshots.c.volume_id.not_in(sa.select(volumes.c.id))
    ),
    "record of a transfer": sa.select(volume_transfers.c.id).where(
        volume_transfers.c.accepted.is_(False),
        volume_transfers.c.volume_id.not_in(sa.select(volumes.c.id)),
    ),
    "claim": sa.select(claims.c.server_id).where(claims.c.server_id.not_in(_live)),
    "port": sa.select(ports.c.id).where(
        ports.c.device_owner.like("compute:%"), ports.c.device_id.in_(_ended)
    ),
}


def known_images(conn: sa.Connection, ids: Collection[str]) -> set[str]:
    """Those whose bytes are, or may be, in a store."""
    query = sa.select(images.c.id).where(images.c.status.in_(_WITH_BYTES))
    return _known(conn, query, images.c.id, ids)


def known_uploads(conn: sa.Connection, ids: Collection[str]) -> set[str]:
    """Images whose bytes are coming, or going."""
    on_their_way = [ImageStatus.SAVING, ImageStatus.PENDING_DELETE]
    return _known(conn, sa.select(images.c.id).where(images.c.status.in_(on_their_way)), images.c.id, ids)


def known_servers(conn: sa.Connection, host: str | None, ids: Collection[str]) -> set[str]:
    """Those that live and are on that host, or on none yet; None: on any."""
    query = sa.select(servers.c.id).where(servers.c.deleted_at.is_(None))
    if host is not None:
        on_none_yet = sa.and_(servers.c.host.is_(None), servers.c.vm_state == VmState.BUILDING)
        query = query.where(sa.or_(servers.c.host == host, on_none_yet))
    return _known(conn, query, servers.c.id, ids)


def _known(
    conn: sa.Connection, query: sa.Select[tuple[str]], column: sa.Column[str], ids: Collection[str]
) -> set[str]:
    return {str(row[0]) for part in _parts(ids) for row in conn.execute(query.where(column.in_(part)))}


def _parts(ids: Collection[str]) -> Iterator[list[str]]:
    listed = sorted(ids)
    for start in range(0, len(listed), _AT_ONCE):
        yield listed[start : start + _AT_ONCE]
