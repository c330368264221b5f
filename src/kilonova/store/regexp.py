"""Regular expressions that users send to find names by.

They run in RE2, which takes time linear in the text: Python's ``re``, which SQLite would be given otherwise,
can be kept busy for years by a short pattern, and holds the interpreter's lock meanwhile. PostgreSQL's own
can be kept busy too, and reads patterns in another way: it is not given any. There, rows come in their order
and are looked at here until the page is full.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import re2
import sqlalchemy as sa

from kilonova.store import dialect

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 1 << 20


def valid(pattern: str) -> bool:
    """Whether it can be searched for."""
    try:
        _compiled(pattern)
    except (re2.error, UnicodeError):
        return False
    return len(pattern) <= 255 and "\0" not in pattern


def rows(
    conn: sa.Connection,
    query: sa.Select[Any],
    patterns: Sequence[tuple[sa.Column[Any], str]],
    limit: int,
    also: Sequence[tuple[sa.ColumnElement[Any], Callable[[Any], bool]]] = (),
) -> list[sa.Row[Any]]:
    """The first rows of an ordered query where each column has its pattern. One statement.

    ``also``: tests that only Python can make of a value. The rows have more columns at their end.
    """
    tests = list(also)
    for column, pattern in patterns:
        if dialect.is_postgresql(conn):
            tests.append((column, partial(matches, pattern)))
        else:
            query = query.where(column.regexp_match(pattern))
    if not tests:
        return list(conn.execute(query.limit(limit)).all())  # all(): in one go, not row by row
    first = len(query.selected_columns)
    query = query.add_columns(*(value.label(f"tested_{n}") for n, (value, _) in enumerate(tests)))
    with conn.execute(query.execution_options(stream_results=True)) as found:
        fitting = (row for row in found if all(test(row[first + n]) for n, (_, test) in enumerate(tests)))
        return list(islice(fitting, limit))


def register(raw: Any) -> None:
    """Give a SQLite connection its REGEXP operator, which SQLAlchemy's ``regexp_match`` uses."""
    raw.create_function("regexp", 2, matches, deterministic=True)


def matches(pattern: str, value: str | None) -> bool:
    """Whether a valid pattern is found somewhere in the value; NULL matches nothing."""
    return value is not None and _compiled(pattern).search(value) is not None


@functools.lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    return re2.compile(pattern, options=_OPTIONS)  # type: ignore[no-untyped-call]
