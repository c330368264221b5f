"""Bring a database to the schema of this program. Alembic is loaded only when there is something to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kilonova import log
from kilonova.store import dialect
from kilonova.store.database import Database
from kilonova.store.migrations import HEAD
from kilonova.store.repeat import repeat

_log = log.get("database")


def current(db: Database) -> str | None:
    """The revision that the database is at; None for an empty one."""
    with db.read() as conn:
        if not sa.inspect(conn).has_table("alembic_version"):
            return None
        return conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def upgrade(db: Database, revision: str = "head") -> None:
    """Run every revision that is missing, in one transaction. Of several at once the first one does it.

    A database that is ahead is left as it is: in a rolling upgrade, services of the last release go on until
    they are replaced, and start again too. Revisions only add to what those know.
    """
    if revision == "head":
        found = current(db)
        if found == HEAD:
            return
        if found is not None and found > HEAD:
            _log.warning("database_is_newer", found=found, known=HEAD)
            return
    repeat(_alembic, db, "upgrade", revision)  # services at work may lock what it changes in another order


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
