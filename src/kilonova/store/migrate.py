"""Bring a database to the schema of this program. Alembic is loaded only when there is something to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kilonova.store import dialect
from kilonova.store.database import Database
from kilonova.store.migrations import HEAD


def current(db: Database) -> str | None:
    """The revision that the database is at; None for an empty one."""
    with db.read() as conn:
        if not sa.inspect(conn).has_table("alembic_version"):
            return None
        return conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def upgrade(db: Database, revision: str = "head") -> None:
    """Run every revision that is missing, in one transaction. Of several at once the first one does it."""
    if revision == "head" and current(db) == HEAD:
        return
    _alembic(db, "upgrade", revision)


def write_revision(db: Database, message: str, revision_id: str) -> None:
    """Write a new revision: what the tables have and the upgraded database has not."""
    _alembic(db, "revision", message=message, autogenerate=True, rev_id=revision_id)


def _alembic(db: Database, name: str, *arguments: Any, **options: Any) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with db.write(durable=True) as connection:
        dialect.without_timeout(connection)
        dialect.lock(connection, "migrations")
        config.attributes["connection"] = connection
        getattr(command, name)(config, *arguments, **options)
