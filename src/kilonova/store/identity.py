"""What the identity tables' queries share: rows as structs, names that must be unique."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from kilonova.domain import codec
from kilonova.domain.errors import Conflict
from kilonova.store import dialect

T = TypeVar("T")


def one(conn: sa.Connection, kind: type[T], query: sa.Select[Any], for_update: bool = False) -> T | None:
    """``for_update``: nobody else changes it until the transaction ends."""
    if for_update:
        query = query.with_for_update(key_share=True)
    row = conn.execute(query).one_or_none()
    return None if row is None else codec.convert(row._mapping, kind)


def many(conn: sa.Connection, kind: type[T], query: sa.Select[Any]) -> list[T]:
    return [codec.convert(row._mapping, kind) for row in conn.execute(query)]


def where(table: sa.Table, query: sa.Select[Any], equal: dict[str, Any]) -> sa.Select[Any]:
    """Keep the rows whose columns have these values; None asks nothing of its column."""
    for column, value in equal.items():
        if value is not None:
            query = query.where(table.c[column] == value)
    return query.order_by(table.c.name, table.c.id)


def insert(conn: sa.Connection, table: sa.Table, item: msgspec.Struct) -> None:
    with unique(table.name.removesuffix("s"), getattr(item, "name", "")):
        conn.execute(sa.insert(table).values(**values(item)))


def values(item: msgspec.Struct) -> dict[str, Any]:
    """The struct's fields as they are (``asdict`` does not go into them)."""
    return msgspec.structs.asdict(item)


@contextmanager
def unique(what: str, name: str) -> Iterator[None]:
    """Conflict if the name is taken. The write around it must end with that error: it rolls back."""
    try:
        yield
    except sa.exc.IntegrityError as error:
        if not dialect.is_duplicate(error):
            raise
        kind = what.replace("_", " ")
        raise Conflict(
            f"Conflict occurred attempting to store {kind} - Duplicate entry found with name {name}."
        ) from error
