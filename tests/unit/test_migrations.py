"""The revisions and the tables say the same."""

from __future__ import annotations

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


def test_an_upgraded_database_has_every_table_column_and_index(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'new.db'}")
    assert migrate.current(db) is None
    migrate.upgrade(db)
    assert migrate.current(db) == HEAD
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, metadata) == []
    db.close()


def test_partial_indexes_are_in_the_revisions(tmp_path: Path) -> None:
    """compare_metadata does not look at WHERE; the engine's one-open-operation rule hangs on it."""
    db = Database(f"sqlite:///{tmp_path / 'new.db'}")
    migrate.upgrade(db)
    with db.engine.connect() as connection:
        query = sa.text("SELECT sql FROM sqlite_master WHERE name = 'uq_operations_open_server'")
        made = str(connection.execute(query).scalar_one())
    assert "UNIQUE" in made
    assert made.endswith("WHERE state = 'open'")
    db.close()


def test_upgrading_twice_changes_nothing(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'new.db'}")
    migrate.upgrade(db)
    migrate.upgrade(db)
    assert migrate.current(db) == HEAD
    db.close()
