"""What a guest has told as its password: once, until a user clears it."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.store import dialect
from kilonova.store.schema.server_passwords import server_passwords as table


def get(conn: sa.Connection, server_id: str) -> str:
    """Empty if there is none."""
    found = conn.scalar(sa.select(table.c.password).where(table.c.server_id == server_id))
    return str(found or "")


def put(conn: sa.Connection, server_id: str, password: str) -> bool:
    """False if there is one already."""
    row = {"server_id": server_id, "password": password, "created_at": now()}
    return bool(dialect.insert_new(conn, table, row))


def clear(conn: sa.Connection, server_id: str) -> None:
    conn.execute(sa.delete(table).where(table.c.server_id == server_id))
