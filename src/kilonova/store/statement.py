"""Statements that are made once and run by the database's own driver.

SQLAlchemy writes the SQL, once for each kind of database. Its own way to run what it has compiled costs some
ten times what SQLite needs for a row that is found by its key, so the statements of a build's path go past
it: they take and give the same values, in the same transaction. What the driver raises is understood where
the transaction ends.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import sqlalchemy as sa

from kilonova.store.database import Row

Values = Mapping[str, Any]
Convert = Callable[[Any], Any]
_NONE: Values = {}
_CURSOR = "kilonova_cursor"


class _Compiled(NamedTuple):
    """Of one kind of database. ``order``: its parameters have no names but places."""

    text: str
    constants: dict[str, Any]
    binders: list[tuple[str, Convert]]
    order: list[str] | None
    types: list[Any]
    row: Any


class Statement:
    """A query with bind parameters. No IN of a list: such a query is another one for each length."""

    def __init__(self, query: Any) -> None:
        self._query = query
        self._compiled: dict[tuple[str, ...], _Compiled] = {}
        self._readers: dict[str, list[tuple[int, Convert]]] = {}

    def rows(self, conn: sa.Connection, values: Values = _NONE) -> Sequence[Row]:
        """Every row that it finds or returns."""
        compiled = self._for(conn, ())
        cursor = _cursor(conn)
        cursor.execute(compiled.text, _bound(compiled, values))
        readers = self._readers.get(conn.dialect.name)
        if readers is None:
            readers = self._readers[conn.dialect.name] = _readers(compiled, conn.dialect, cursor)
        return [_read(compiled, readers, row) for row in cursor.fetchall()]

    def row(self, conn: sa.Connection, values: Values = _NONE) -> Row | None:
        """The row, if there is one; there are never two."""
        found = self.rows(conn, values)
        assert len(found) < 2, f"{len(found)} rows: {self._query}"
        return found[0] if found else None

    def count(self, conn: sa.Connection, values: Values = _NONE) -> int:
        """Run what returns no rows: how many it changed."""
        compiled = self._for(conn, ())
        cursor = _cursor(conn)
        cursor.execute(compiled.text, _bound(compiled, values))
        return int(cursor.rowcount)

    def each(self, conn: sa.Connection, rows: Sequence[Values]) -> None:
        """Run what returns no rows once for each of these, in one go."""
        if rows:
            compiled = self._for(conn, ())
            _cursor(conn).executemany(compiled.text, [_bound(compiled, row) for row in rows])

    def insert(self, conn: sa.Connection, rows: Sequence[Values]) -> None:
        """Of an INSERT: these rows, which all have the same columns."""
        compiled = self._for(conn, tuple(rows[0]))
        bound = [_bound(compiled, row) for row in rows]
        if len(bound) == 1:
            _cursor(conn).execute(compiled.text, bound[0])
        else:
            _cursor(conn).executemany(compiled.text, bound)

    def _for(self, conn: sa.Connection, columns: tuple[str, ...]) -> _Compiled:
        key = (conn.dialect.name, *columns)
        found = self._compiled.get(key)
        if found is None:
            found = self._compiled[key] = _compile(self._query, conn.dialect, columns)
        return found


def _compile(query: Any, dialect: Any, columns: tuple[str, ...]) -> _Compiled:
    made = query.compile(dialect=dialect, column_keys=list(columns) or None, for_executemany=bool(columns))
    constants = dict(made.params)
    for column in made.insert_prefetch if columns else ():
        assert column.default.is_scalar, f"{column} has a default that is not a plain value"
        constants[column.key] = column.default.arg
    names = [entry.name for entry in made._result_columns]
    return _Compiled(
        text=made.string,
        constants=constants,
        binders=list(made._bind_processors.items()),
        order=made.positiontup,
        types=[entry.type for entry in made._result_columns],
        row=namedtuple("Found", names),
    )


def _readers(compiled: _Compiled, dialect: Any, cursor: Any) -> list[tuple[int, Convert]]:
    """Of the columns that the driver does not give as what they are: place and function."""
    codes = [column[1] for column in cursor.description]
    found = [
        kind._cached_result_processor(dialect, code) for kind, code in zip(compiled.types, codes, strict=True)
    ]
    return [(place, reader) for place, reader in enumerate(found) if reader is not None]


def _bound(compiled: _Compiled, values: Values) -> Any:
    """The values as the driver takes them."""
    bound = {**compiled.constants, **values}
    for name, process in compiled.binders:
        bound[name] = process(bound[name])
    return bound if compiled.order is None else [bound[name] for name in compiled.order]


def _read(compiled: _Compiled, readers: list[tuple[int, Convert]], found: tuple[Any, ...]) -> Row:
    if readers:
        cells = list(found)
        for place, reader in readers:
            cells[place] = reader(cells[place])
        return cast("Row", compiled.row._make(cells))
    return cast("Row", compiled.row._make(found))


def _cursor(conn: sa.Connection) -> Any:
    """Of the driver's connection, which is in the transaction of ``conn``. psycopg's are kept: one costs it
    a tenth of a statement."""
    raw: Any = conn.connection.driver_connection
    if conn.dialect.name == "sqlite":  # readers share connections
        return raw.cursor()
    cursor = conn.info.get(_CURSOR)
    if cursor is None:
        cursor = conn.info[_CURSOR] = raw.cursor()
    return cursor
