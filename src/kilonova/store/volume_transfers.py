"""Offers of volumes from one project to another."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from kilonova.store.database import Row
from kilonova.store.schema.volumes import volume_transfers as table

KEYS = {name: table.c[name] for name in ("id", "name", "volume_id", "created_at")}
"""What a list may be ordered by."""


def insert(conn: sa.Connection, row: dict[str, Any]) -> None:
    conn.execute(sa.insert(table), row)


def get(conn: sa.Connection, transfer_id: str, for_update: bool = False) -> Row | None:
    """One that was not accepted yet."""
    query = sa.select(table).where(table.c.id == transfer_id, sa.not_(table.c.accepted))
    if for_update:
        query = query.with_for_update(key_share=True)
    return conn.execute(query).first()


def accept(conn: sa.Connection, transfer_id: str, project_id: str) -> None:
    query = sa.update(table).where(table.c.id == transfer_id)
    conn.execute(query.values(accepted=True, destination_project_id=project_id))


def delete(conn: sa.Connection, transfer_id: str) -> None:
    conn.execute(sa.delete(table).where(table.c.id == transfer_id))


def withdraw(conn: sa.Connection, volume_id: str) -> None:
    """What is offered and was not accepted yet."""
    conn.execute(sa.delete(table).where(table.c.volume_id == volume_id, sa.not_(table.c.accepted)))


def delete_of_volume(conn: sa.Connection, volume_id: str) -> None:
    conn.execute(sa.delete(table).where(table.c.volume_id == volume_id))
