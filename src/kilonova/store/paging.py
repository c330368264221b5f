"""Pages of a list by marker: one statement whatever the page, no OFFSET that counts what it skips."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

Column = sa.ColumnElement[Any]


def page(
    query: sa.Select[Any],
    key: Column,
    unique: Column,
    *,
    descending: bool,
    after: tuple[Any, Any] | None,
    limit: int | None,
) -> sa.Select[Any]:
    """The rows after ``after`` (the marker's values of ``key`` and ``unique``) in the order of both.

    ``… AND (key, unique) > (:k, :u) ORDER BY key, unique LIMIT :n``. ``key`` must never be NULL: coalesce it.
    """
    if after is not None:
        here, there = sa.tuple_(key, unique), sa.tuple_(*after)
        query = query.where(here < there if descending else here > there)
    order = (key.desc(), unique.desc()) if descending else (key.asc(), unique.asc())
    return query.order_by(*order).limit(limit)
