"""Attachments of volumes: promises, and what hosts have. One that ended has no row."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.domain import codec
from kilonova.domain.volumes import AttachStatus, Connector
from kilonova.store import dialect
from kilonova.store.database import Row
from kilonova.store.schema.block_devices import block_device_mappings as devices
from kilonova.store.schema.operations import operations
from kilonova.store.schema.servers import servers
from kilonova.store.schema.volumes import volume_attachments as table
from kilonova.store.schema.volumes import volumes

KEYS = {name: table.c[name] for name in ("id", "volume_id", "status", "created_at", "project_id")} | {
    "attach_status": table.c.status,
    "instance_id": table.c.server_id,
}
"""What a list may be ordered by."""


def insert(conn: sa.Connection, row: dict[str, Any]) -> bool:
    """False if there is one of that id."""
    return dialect.insert_new(conn, table, row)


def get(
    conn: sa.Connection, attachment_id: str, project_id: str | None = None, for_update: bool = False
) -> Row | None:
    query = sa.select(table).where(table.c.id == attachment_id)
    if project_id is not None:
        query = query.where(table.c.project_id == project_id)
    if for_update:
        query = query.with_for_update(key_share=True)
    return conn.execute(query).first()


def of_volume(conn: sa.Connection, volume_id: str) -> Sequence[Row]:
    """The oldest first."""
    query = sa.select(table).where(table.c.volume_id == volume_id)
    return conn.execute(query.order_by(table.c.created_at, table.c.id)).all()


def of_volumes(conn: sa.Connection, volume_ids: Collection[str]) -> dict[str, list[Row]]:
    """One query for all."""
    return _grouped(conn, table.c.volume_id, volume_ids)


def of_servers(conn: sa.Connection, server_ids: Collection[str]) -> dict[str, list[Row]]:
    """One query for all."""
    return _grouped(conn, table.c.server_id, server_ids)


def with_volumes(conn: sa.Connection, server_id: str) -> Sequence[Row]:
    """id, volume_id and attach_mode of a server's attachments, size and multiattach of their volumes; the
    oldest first."""
    query = (
        sa.select(table.c.id, table.c.volume_id, table.c.attach_mode, volumes.c.size, volumes.c.multiattach)
        .join(volumes, volumes.c.id == table.c.volume_id)
        .where(table.c.server_id == server_id)
        .order_by(table.c.created_at, table.c.id)
    )
    return conn.execute(query).all()


def _grouped(conn: sa.Connection, column: sa.Column[str], ids: Collection[str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {one: [] for one in ids}
    if found:
        query = sa.select(table).where(dialect.among(conn, column, "ids"))
        query = query.order_by(table.c.created_at, table.c.id)
        for row in conn.execute(query, {"ids": sorted(found)}):
            found[row._mapping[column.name]].append(row)
    return found


def astray(conn: sa.Connection, before: float = math.inf, attachment_id: str | None = None) -> Sequence[Row]:
    """id, volume_id, server_id, host, gone: what a server that is ``gone`` still has, and what is on its way
    to a server, or from it, and no operation of that server takes it there. Of volumes that are unchanged
    since ``before``; ``attachment_id``: this one alone.

    Another Nova's servers, and hosts by themselves, end theirs in their own time: they are not in our table.
    """
    is_busy = sa.exists().where(operations.c.server_id == table.c.server_id, operations.c.state == "open")
    is_disk = sa.exists().where(
        devices.c.server_id == table.c.server_id, devices.c.attachment_id == table.c.id
    )
    stuck = sa.and_(table.c.status.in_([AttachStatus.ATTACHING, AttachStatus.DETACHING]), is_disk)
    gone = servers.c.deleted_at.is_not(None)
    changed = sa.func.coalesce(volumes.c.updated_at, volumes.c.created_at)
    query = (
        sa.select(table.c.id, table.c.volume_id, table.c.server_id, servers.c.host, gone.label("gone"))
        .join(servers, servers.c.id == table.c.server_id)
        .join(volumes, volumes.c.id == table.c.volume_id)
        .where(sa.or_(gone, stuck), ~is_busy, changed < before)
        .order_by(table.c.created_at, table.c.id)
    )
    if attachment_id is not None:
        query = query.where(table.c.id == attachment_id)
    return conn.execute(query).all()


def is_there(conn: sa.Connection, volume_id: str, connector: Connector) -> bool:
    """Whether an attachment has the volume by that way, or is about to."""
    query = sa.select(table.c.connector).where(
        table.c.volume_id == volume_id,
        table.c.host == connector.host,
        table.c.connector.is_not(None),
    )
    found = conn.execute(query).scalars()
    return any(codec.convert(one, Connector).is_same_way(connector) for one in found)


def change(conn: sa.Connection, attachment_id: str, /, **values: Any) -> bool:
    """False if there is no such attachment any more."""
    query = sa.update(table).where(table.c.id == attachment_id).values(**values)
    return conn.execute(query).rowcount == 1


def delete(conn: sa.Connection, attachment_id: str) -> bool:
    return conn.execute(sa.delete(table).where(table.c.id == attachment_id)).rowcount == 1
