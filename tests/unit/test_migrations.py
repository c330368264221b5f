"""The revisions and the tables say the same."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from kilonova.domain.errors import RolledBack
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


def test_an_upgraded_database_has_the_same_rows(new_database: Callable[..., Database]) -> None:
    """Those that are there before anybody writes one."""
    upgraded, made = new_database(None), new_database()
    migrate.upgrade(upgraded)
    for table in metadata.sorted_tables:
        found = []
        for db in (upgraded, made):
            with db.read() as conn:
                found.append(sorted(map(tuple, conn.execute(sa.select(table))), key=str))
        assert found[0] == found[1], table.name


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


REVISIONS = [script.revision for script in reversed(list(ScriptDirectory(str(FOLDER)).walk_revisions()))]


def test_revisions_are_numbered_in_their_order() -> None:
    """A program knows by the number whether a database is ahead of it."""
    assert sorted(REVISIONS) == REVISIONS


def one_row_each(db: Database) -> dict[str, Any]:
    """Put a row into every table, as it is now; table → the row. The same words everywhere: so they refer to
    each other."""
    with db.write() as conn:
        found = sa.MetaData()
        found.reflect(conn)
        rows = {}
        for table in found.sorted_tables:
            if table.name == "alembic_version":
                continue
            row = {column.name: value(column.type.python_type) for column in table.columns}
            conn.execute(table.delete())
            conn.execute(table.insert(), [row])
            rows[table.name] = row
    return rows


def value(kind: type) -> Any:
    return {str: "1", int: 1, float: 1.0, bool: True, bytes: b"1"}[kind]


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_data_of_every_earlier_revision_is_there_at_the_newest(
    new_database: Callable[..., Database], revision: str
) -> None:
    db = new_database(None)
    migrate.upgrade(db, revision)
    rows = one_row_each(db)
    migrate.upgrade(db)
    assert migrate.current(db) == HEAD
    with db.read() as conn:
        for name, row in rows.items():
            table = sa.table(name, *(sa.column(column) for column in row))
            (kept,) = conn.execute(sa.select(table)).mappings()
            assert dict(kept) == row, name


def test_what_was_everybodys_has_its_policies(new_database: Callable[..., Database]) -> None:
    db = new_database(None)
    migrate.upgrade(db, "0007")
    with db.write() as conn:
        found = sa.MetaData()
        found.reflect(conn, only=["networks"])
        table = found.tables["networks"]
        row = {column.name: value(column.type.python_type) for column in table.columns}
        ids = [f"{digit * 8}-aaaa-4aaa-aaaa-aaaaaaaaaaaa" for digit in "12"]
        own = [{"id": ids[0], "external": None}, {"id": ids[1], "shared": False}]
        rows = [row | one | {"segmentation_id": n} for n, one in enumerate(own)]
        conn.execute(table.insert(), rows)
    migrate.upgrade(db)
    with db.read() as conn:
        query = "SELECT id, object_id, action, target_tenant FROM network_rbac ORDER BY id"
        made = [tuple(row) for row in conn.exec_driver_sql(query)]
    assert made == [
        ("11111111-aaaa-3aaa-aaaa-aaaaaaaaaaaa", ids[0], "access_as_shared", "*"),
        ("22222222-aaaa-5aaa-aaaa-aaaaaaaaaaaa", ids[1], "access_as_external", "*"),
    ]


@pytest.mark.parametrize("revision", REVISIONS[1:])
def test_a_revision_takes_nothing_from_the_services_that_still_run(revision: str) -> None:
    """Expand now, contract a release later: what the release before writes must go on to be taken."""
    said = io.StringIO()
    config = AlembicConfig(output_buffer=said)
    config.set_main_option("script_location", str(FOLDER))
    before = REVISIONS[REVISIONS.index(revision) - 1]
    script = ScriptDirectory.from_config(config)

    def steps(_revision: Any, _context: Any) -> Any:
        return script._upgrade_revs(revision, before)

    options = {"as_sql": True, "starting_rev": before, "output_buffer": said, "fn": steps}
    context = MigrationContext.configure(dialect_name="postgresql", opts=options)
    with Operations.context(context), context.begin_transaction():
        context.run_migrations()
    ddl = said.getvalue()
    assert f"version_num='{revision}'" in ddl
    assert takes_away(ddl) == []


def takes_away(ddl: str) -> list[str]:
    """Statements that the services of the release before would trip over."""
    statements = [" ".join(statement.split()) for statement in ddl.split(";")]
    return [one for one in statements if TAKES_AWAY.search(one) and one not in WIDER]


WIDER = {'ALTER TABLE servers ALTER COLUMN vm_state TYPE VARCHAR(32) COLLATE "C"'}
"""What was taken is taken on, and what may come is not written by the release before."""
TAKES_AWAY = re.compile(
    r"\b(DROP|RENAME|SET NOT NULL|ALTER COLUMN \w+ TYPE)\b"
    r"|^ALTER TABLE .* ADD (CONSTRAINT|CHECK|UNIQUE)"
    r"|^ALTER TABLE \w+ ADD COLUMN (?!.*\bDEFAULT\b).*NOT NULL"
)


@pytest.mark.parametrize(
    ("ddl", "bad"),
    [
        ("CREATE TABLE a (b TEXT NOT NULL)", False),
        ("ALTER TABLE a ADD COLUMN b TEXT", False),
        ("ALTER TABLE a ADD COLUMN b INTEGER DEFAULT 0 NOT NULL", False),
        ("ALTER TABLE a ADD COLUMN b INTEGER NOT NULL", True),
        ("ALTER TABLE a DROP COLUMN b", True),
        ("ALTER TABLE a RENAME b TO c", True),
        ("DROP TABLE a", True),
        ("ALTER TABLE a ALTER COLUMN b SET NOT NULL", True),
    ],
)
def test_what_takes_away_is_seen(ddl: str, bad: bool) -> None:
    assert bool(takes_away(ddl)) is bad


def test_a_database_that_is_ahead_is_left_as_it_is(new_database: Callable[..., Database]) -> None:
    db = new_database(None)
    migrate.upgrade(db)
    with db.write() as conn:
        conn.execute(sa.text("ALTER TABLE servers ADD COLUMN later TEXT"))
        conn.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    migrate.upgrade(db)
    assert migrate.current(db) == "9999"


def test_an_upgrade_that_was_rolled_back_for_a_service_at_work_is_done_again(
    new_database: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade, tries = command.upgrade, []

    def deadlocks_once(*arguments: Any) -> None:
        upgrade(*arguments)
        tries.append(arguments)
        if len(tries) == 1:
            raise RolledBack("deadlock detected")

    monkeypatch.setattr(command, "upgrade", deadlocks_once)
    db = new_database(None)
    migrate.upgrade(db)
    assert migrate.current(db) == HEAD
    assert len(tries) == 2
