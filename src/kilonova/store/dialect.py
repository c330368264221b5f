"""What SQLite and PostgreSQL say differently."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


def insert(conn: sa.Connection, table: sa.Table) -> Any:
    """An INSERT that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    if conn.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)
