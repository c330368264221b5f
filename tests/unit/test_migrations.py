"""The revisions and the tables say the same."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from kilonova.store import migrate
from kilonova.store.database import Database
from kilonova.store.migrations import HEAD
from kilonova.store.schema import metadata

FOLDER = Path(migrate.__file__).parent / "migrations"


def test_head_is_the_newest_revision() -> None:
    assert ScriptDirectory(str(FOLDER)).get_current_head() == HEAD


def test_an_upgraded_database_has_every_table_column_and_index(new_database: Callable[..., Database]) -> None:
    db = new_database(None)
    assert migrate.current(db) is None
    migrate.upgrade(db)
    assert migrate.current(db) == HEAD
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, metadata) == []


def test_partial_indexes_are_in_the_revisions(new_database: Callable[..., Database]) -> None:
    """compare_metadata does not look at WHERE; the engine's one-open-operation rule hangs on it."""
    db = new_database(None)
    migrate.upgrade(db)
    view, name = ("sqlite_master", "name") if db.engine.name == "sqlite" else ("pg_indexes", "indexname")
    column = "sql" if db.engine.name == "sqlite" else "indexdef"
    with db.read() as conn:
        query = sa.text(f"SELECT {column} FROM {view} WHERE {name} = 'uq_operations_open_server'")
        made = str(conn.execute(query).scalar_one())
    assert "UNIQUE" in made
    assert re.search(r"WHERE \(*state(\)::text)? = 'open'", made)


def test_upgrading_twice_changes_nothing(new_database: Callable[..., Database]) -> None:
    db = new_database(None)
    migrate.upgrade(db)
    migrate.upgrade(db)
    assert migrate.current(db) == HEAD


def test_services_that_start_at_once_upgrade_once(new_url: Callable[..., str]) -> None:
    url = new_url(None)
    at_once = threading.Barrier(4)

    def start(_number: int) -> str | None:
        db = Database(url)
        at_once.wait()
        migrate.upgrade(db)
        found = migrate.current(db)
        db.close()
        return found

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(start, range(4))) == [HEAD] * 4
