"""What SQLite and PostgreSQL say differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

import sqlalchemy as sa

from kilonova.store.schema.base import Json

Made = TypeVar("Made")


def is_postgresql(conn: sa.Connection) -> bool:
    return conn.dialect.name == "postgresql"


def hurry(conn: sa.Connection) -> None:
    """Until this transaction ends: RolledBack rather than to wait long for a row that another has locked."""
    if is_postgresql(conn):
        conn.exec_driver_sql("SET LOCAL lock_timeout = 200")


def insert(conn: sa.Connection, table: sa.Table) -> Any:
    """An INSERT that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    if is_postgresql(conn):
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


def once(make: Callable[[sa.Connection], Made]) -> Callable[[sa.Connection], Made]:
    """A decorator: a statement with parameters, made once for each kind of database.

    Where it runs with every request, making it costs more than running it.
    """
    made: dict[str, Made] = {}

    @wraps(make)
    def statement(conn: sa.Connection) -> Made:
        found = made.get(conn.dialect.name)
        if found is None:
            found = made[conn.dialect.name] = make(conn)
        return found

    return statement


def among(conn: sa.Connection, column: sa.Column[str], parameter: str) -> sa.ColumnElement[bool]:
    """``column IN (…)`` where one parameter is the whole list: IN itself is written anew for each length."""
    if is_postgresql(conn):
        return column == sa.any_(sa.bindparam(parameter, type_=sa.ARRAY(sa.Text)))
    listed = sa.func.json_each(sa.bindparam(parameter, type_=Json())).table_valued("value")
    return column.in_(sa.select(listed.c.value))


def by_key(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """The same value, for a condition beside a key: no index of this column is looked at.

    PostgreSQL plans with what it knew of the tables a minute ago. It would read all that is open, as there
    was nothing then, and look for the key among that.
    """
    return column + sa.literal_column("0") if isinstance(column.type, sa.Float) else column.concat("")


def given_rows(columns: Mapping[str, sa.Column[Any]], name: str = "told") -> sa.TableValuedAlias:
    """Rows that come as one parameter a column, each a list: unnest(…) AS told(…). PostgreSQL's alone.

    ``columns``: the parameters' names, which are the columns' too, and where their types are from. JSON comes
    encoded: a list of lists would be taken for a table.
    """
    types = {
        key: sa.Text() if isinstance(column.type, Json) else column.type for key, column in columns.items()
    }
    lists = [sa.bindparam(key, type_=sa.ARRAY(kind)) for key, kind in types.items()]
    named = [sa.column(key, kind) for key, kind in types.items()]
    return sa.func.unnest(*lists).table_valued(*named).render_derived(name=name)


def insert_new(conn: sa.Connection, table: sa.Table, row: dict[str, Any]) -> bool:
    """INSERT … ON CONFLICT DO NOTHING RETURNING …; False if a row with the same key is there already.

    It waits for another transaction that is about to write the same key.
    """
    query = insert(conn, table).on_conflict_do_nothing().returning(*table.primary_key)
    return conn.execute(query, row).first() is not None


def is_duplicate(error: sa.exc.IntegrityError) -> bool:
    """Whether it was a key that is taken, and not a foreign key that points to nothing."""
    state = getattr(error.orig, "sqlstate", None)
    return state == "23505" if state is not None else "UNIQUE" in str(error.orig)


_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")


def lock(conn: sa.Connection, *name: str) -> None:
    """Until the transaction ends, it is the only one to hold the lock of that name.

    For what no row stands for: a count that must not grow past a limit, a row that must be made only once.
    Statements after it see what others committed before. SQLite has one writer anyway.
    """
    if is_postgresql(conn):
        conn.execute(_LOCK, {"name": "/".join(name)})


_TRY_LOCK = sa.text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")


def try_lock(conn: sa.Connection, *name: str) -> bool:
    """lock() without waiting: False if another transaction holds it."""
    if not is_postgresql(conn):
        return True
    return bool(conn.execute(_TRY_LOCK, {"name": "/".join(name)}).scalar_one())


def without_timeout(conn: sa.Connection) -> None:
    """The rest of this transaction may take as long as it takes."""
    if is_postgresql(conn):
        conn.execute(sa.text("SET LOCAL statement_timeout = 0"))
