"""The network that a column's prefix is in, said in SQL: ``10.0.0.9/8`` is of ``10.0.0.0/8``."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from kilonova.domain.addresses import network_of
from kilonova.store.schema.base import text


class normalized_cidr(sa.sql.functions.FunctionElement[str]):
    """NULL of NULL."""

    type = text(64)
    inherit_cache = True


@compiles(normalized_cidr)
def _sqlite(element: Any, compiler: Any, **more: Any) -> str:
    return f"normalized_cidr({compiler.process(element.clauses, **more)})"


@compiles(normalized_cidr, "postgresql")
def _postgresql(element: Any, compiler: Any, **more: Any) -> str:
    """A netmask in place of a length, which releases before this one kept, is no ``inet``: as it is."""
    prefix = compiler.process(element.clauses, **more)
    network = f"CAST(network(CAST({prefix} AS inet)) AS text)"
    return f"(CASE WHEN {prefix} ~ '^[0-9a-fA-F:.]+/[0-9]+$' THEN {network} ELSE {prefix} END COLLATE \"C\")"


def one_of(column: sa.ColumnElement[str], wanted: list[str]) -> sa.ColumnElement[bool]:
    """``column`` is in one of these networks; "": it is NULL. What is no network is nobody's.

    Both sides are the database's spelling: PostgreSQL writes ``::ffff:1.2.3.4``.
    """
    known = [found for one in wanted if (found := _network(one)) is not None]
    several = normalized_cidr(column).in_([normalized_cidr(sa.literal(one, text(64))) for one in known])
    return sa.or_(several, column.is_(None)) if "" in wanted else several


def _network(asked: str) -> str | None:
    try:
        found = network_of(asked)
    except ValueError:
        return None
    return found if found == asked else None


def register(raw: Any) -> None:
    """Give a SQLite connection the function."""
    raw.create_function("normalized_cidr", 1, network_of, deterministic=True)
