"""Pages of the Block Storage API's lists: filters, any number of sort keys, a marker, an offset; one
statement a page, whatever is filtered by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from kilonova.domain.errors import BadRequest, NotFound
from kilonova.store import dialect
from kilonova.store.database import Row

Column = sa.ColumnElement[Any]
Condition = sa.ColumnElement[bool]


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a list, in which order: (key, descending), the most important first."""

    sort: Sequence[tuple[str, bool]] = (("created_at", True),)
    limit: int = 1000
    offset: int = 0
    marker: str | None = None


def page(
    conn: sa.Connection,
    table: sa.Table,
    where: Sequence[Condition],
    keys: Mapping[str, Column],
    window: Window,
) -> Sequence[Row]:
    """The rows of that part. BadRequest: no such key. NotFound: nothing has the marker's id.

    ``keys``: what the list may be ordered by. What has none of a key comes before all that has one.
    """
    order = [(_total(_key(keys, name)), descending) for name, descending in window.sort]
    if all(column is not table.c.id for column, _ in order):
        order.append((table.c.id, window.sort[-1][1] if window.sort else True))
    query = sa.select(table).where(*where)
    if window.marker is not None:
        marked = sa.select(*(column for column, _ in order)).where(table.c.id == window.marker)
        at = conn.execute(marked).first()
        if at is None:
            raise NotFound(f"marker {window.marker} not found")
        query = query.where(_after(order, at))
    query = query.order_by(*(column.desc() if down else column.asc() for column, down in order))
    return conn.execute(query.limit(window.limit).offset(window.offset or None)).all()


def count(conn: sa.Connection, table: sa.Table, where: Sequence[Condition]) -> int:
    """Of all pages: SELECT count(*) FROM … WHERE …"""
    query = sa.select(sa.func.count()).select_from(table).where(*where)
    return int(conn.execute(query).scalar_one())


def holds(conn: sa.Connection, column: sa.Column[Any], wanted: Mapping[str, str]) -> list[Condition]:
    """That the JSON object in the column has these texts under these names."""
    found: list[Condition] = []
    for key, value in wanted.items():
        if dialect.is_postgresql(conn):
            raw = sa.type_coerce(column, sa.Text())
            one: Any = sa.cast(raw, JSONB).op("->>", return_type=sa.Text())(key)
            found.append(one == value)
        else:
            each = sa.func.json_each(sa.type_coerce(column, sa.Text())).table_valued("key", "value")
            found.append(sa.exists().where(each.c.key == key, each.c.value == value))
    return found


def like(column: Column, text: str) -> Condition:
    """That the text is in it somewhere (``name~=…``)."""
    return column.icontains(text, autoescape=True)


def _key(keys: Mapping[str, Column], name: str) -> Column:
    try:
        return keys[name]
    except KeyError as error:
        raise BadRequest(f"Invalid input received: Sort key supplied is invalid: {name}") from error


def _total(column: Column) -> Column:
    """Every value has its place in the order: NULL before all, false before true."""
    if isinstance(column.type, sa.Boolean):
        return sa.func.coalesce(sa.cast(column, sa.Integer), -1)
    if not getattr(column, "nullable", True):
        return column
    if isinstance(column.type, sa.Integer | sa.Float):
        return sa.func.coalesce(column, -1)
    return sa.func.coalesce(column, "")


def _after(order: Sequence[tuple[Column, bool]], at: Sequence[Any]) -> Condition:
    """a beyond a₀ OR (a = a₀ AND b beyond b₀) OR …"""
    choices: list[Condition] = []
    equal: list[Condition] = []
    for (column, descending), value in zip(order, at, strict=True):
        choices.append(sa.and_(*equal, column < value if descending else column > value))
        equal.append(column == value)
    return sa.or_(*choices)
