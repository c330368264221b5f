"""Snapshots of volumes in the database."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.volumes import SnapshotStatus
from kilonova.store import dialect
from kilonova.store.database import Row
from kilonova.store.schema.operations import operations
from kilonova.store.schema.volumes import volume_snapshots as table

KEYS = {
    name: table.c[name]
    for name in ("id", "name", "status", "created_at", "updated_at", "volume_id", "project_id", "description")
} | {"volume_size": table.c.size, "display_name": table.c.name}
"""What a list may be ordered by."""


def insert(conn: sa.Connection, row: dict[str, Any]) -> bool:
    """False if there is one of that id."""
    return dialect.insert_new(conn, table, row)


def get(
    conn: sa.Connection, snapshot_id: str, project_id: str | None = None, for_update: bool = False
) -> Row | None:
    query = sa.select(table).where(table.c.id == snapshot_id)
    if project_id is not None:
        query = query.where(table.c.project_id == project_id)
    if for_update:
        query = query.with_for_update(key_share=True)
    return conn.execute(query).first()


def several(conn: sa.Connection, snapshot_ids: Collection[str]) -> dict[str, Row]:
    """One query: those that are there, by id."""
    if not snapshot_ids:
        return {}
    query = sa.select(table).where(dialect.among(conn, table.c.id, "ids"))
    return {row.id: row for row in conn.execute(query, {"ids": sorted(set(snapshot_ids))})}


def of_volume(conn: sa.Connection, volume_id: str) -> list[Row]:
    """The newest first."""
    query = sa.select(table).where(table.c.volume_id == volume_id)
    return list(conn.execute(query.order_by(table.c.created_at.desc(), table.c.id)))


def change(conn: sa.Connection, snapshot_id: str, /, **values: Any) -> bool:
    """False if there is no such snapshot any more."""
    query = sa.update(table).where(table.c.id == snapshot_id)
    return conn.execute(query.values({"updated_at": now(), **values})).rowcount == 1


def give(conn: sa.Connection, volume_id: str, project_id: str, user_id: str) -> None:
    """All of a volume's are that project's from now."""
    query = sa.update(table).where(table.c.volume_id == volume_id)
    conn.execute(query.values(project_id=project_id, user_id=user_id, updated_at=now()))


def retype(conn: sa.Connection, volume_id: str, volume_type_id: str) -> None:
    """All of a volume's are of its new type."""
    query = sa.update(table).where(table.c.volume_id == volume_id)
    conn.execute(query.values(volume_type_id=volume_type_id))


def change_if(conn: sa.Connection, snapshot_id: str, statuses: Collection[str], /, **values: Any) -> bool:
    """Only if its status is one of these; whether it was."""
    query = sa.update(table).where(table.c.id == snapshot_id, table.c.status.in_(list(statuses)))
    return conn.execute(query.values({"updated_at": now(), **values})).rowcount == 1


def in_limbo(conn: sa.Connection, before: float) -> Sequence[Row]:
    """In a state on its way to another, since before that time, and nothing is open for it, nor for its
    volume, with which it may be deleted."""
    its = operations.c.server_id.in_([table.c.id, table.c.volume_id])
    is_open = sa.exists().where(its, operations.c.state == "open")
    since = sa.func.coalesce(table.c.updated_at, table.c.created_at)
    transitional = table.c.status.in_([SnapshotStatus.CREATING, SnapshotStatus.DELETING])
    return conn.execute(sa.select(table).where(transitional, since < before, ~is_open)).all()


def delete(conn: sa.Connection, snapshot_id: str) -> None:
    conn.execute(sa.delete(table).where(table.c.id == snapshot_id))
