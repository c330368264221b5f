"""One page of networks, subnets or ports: Neutron's filters, sorting and markers, said in SQL.

A resource names its attributes once (``Listing``); what a user may filter and sort by is what stands there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain import clock
from kilonova.domain.errors import BadRequest
from kilonova.store.schema.networks import network_tags

_MAX_CONDITIONS = 50
"""As many tags as a resource may have."""

_TIMES = ("created_at", "updated_at")

Column = sa.ColumnElement[Any]
Condition = sa.ColumnElement[bool]


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asked of a list. ``filters``: attribute → values, as they stand in the URL."""

    filters: dict[str, list[str]] = {}
    sort: list[tuple[str, bool]] = []
    """(attribute, descending); the id always comes last, so that the order is total."""
    limit: int = 1000
    marker: str | None = None
    reverse: bool = False
    """The page before the marker instead of the one after it."""


@dataclass(frozen=True, slots=True)
class Listing:
    table: sa.FromClause
    attributes: Mapping[str, Column]
    special: Mapping[str, Callable[[list[str]], Condition]]
    """Filters that are more than a comparison with one column."""

    def page(
        self, conn: sa.Connection, page: Page, visible: Condition
    ) -> tuple[list[sa.Row[Any]], bool, bool] | None:
        """Rows in the asked order, and whether there are more after and before them.

        None if the marker is not among what the asker sees. BadRequest for an unknown attribute.
        """
        asked: dict[str, bool] = {}
        for name, desc in page.sort:
            asked.setdefault(name, desc)  # what is sorted by already has no order left
        keys = [
            (key, desc != page.reverse)
            for name, desc in asked.items()
            if (key := self._key(name)) is not None
        ]
        keys.append((self.table.c.id, page.reverse))
        query = sa.select(self.table).where(visible, *self._conditions(page.filters))
        if page.marker is not None:
            at = conn.execute(
                sa.select(*(key for key, _ in keys)).where(self.table.c.id == page.marker, visible)
            ).first()
            if at is None:
                return None
            query = query.where(_after(keys, at))
        query = query.order_by(*(key.desc() if desc else key.asc() for key, desc in keys))
        rows = list(conn.execute(query.limit(page.limit + 1)))
        more, rows = len(rows) > page.limit, rows[: page.limit]
        came = page.marker is not None
        return (rows[::-1], came, more) if page.reverse else (rows, more, came)

    def _key(self, name: str) -> Column | None:
        """None: it is the same of all."""
        column = self.table.c[name] if name in _TIMES and name in self.table.c else self.attributes.get(name)
        if column is None:
            raise BadRequest(f"Invalid input for sort_key: {name} is no attribute to sort by")
        if isinstance(column, sa.BindParameter):
            return None
        if isinstance(column.type, sa.Boolean):
            return sa.cast(column, sa.Integer)  # what is true or false has no order in SQL
        if not _may_be_null(column):
            return column
        return sa.func.coalesce(column, -1 if isinstance(column.type, sa.Integer) else "")

    def _conditions(self, filters: Mapping[str, list[str]]) -> list[Condition]:
        found = []
        for name, values in filters.items():
            if name == "changed_since" and "updated_at" in self.table.c:
                found.append(self.table.c.updated_at >= _time(values[-1]))
            elif special := self.special.get(name) or _tag_filters(self.table.c.id).get(name):
                found.append(special(values))
            elif (column := self.attributes.get(name)) is not None:
                found.append(_one_of(name, column, values))
            else:
                raise BadRequest(f"Invalid input for filters: {name} is no attribute to filter by")
        return found


def _after(keys: list[tuple[Column, bool]], at: Sequence[Any]) -> Condition:
    """(a, b, id) > (x, y, z), with a direction of its own for each key."""
    steps: list[Condition] = []
    for n, (key, desc) in enumerate(keys):
        equal = [keys[i][0] == at[i] for i in range(n)]
        steps.append(sa.and_(*equal, key < at[n] if desc else key > at[n]))
    return sa.or_(*steps)


def _one_of(name: str, column: Column, values: list[str]) -> Condition:
    wanted = [_value(name, column, value) for value in values if value or not _may_be_null(column)]
    if len(wanted) == len(values):
        return column.in_(wanted)
    nothing = column.is_(None) if isinstance(column.type, sa.Integer) else sa.func.coalesce(column, "") == ""
    return sa.or_(column.in_(wanted), nothing)


def _may_be_null(column: Column) -> bool:
    """What is computed may be."""
    return not isinstance(column.type, sa.Boolean) and getattr(column, "nullable", True)


def _value(name: str, column: Column, text: str) -> Any:
    if isinstance(column.type, sa.Boolean):
        if text.lower() not in ("true", "false", "1", "0"):
            raise BadRequest(f"Invalid input for {name}: '{text}' is not a boolean")
        return text.lower() in ("true", "1")
    if isinstance(column.type, sa.Integer):
        if not text.isascii() or not text.isdecimal() or len(text) > 9:
            raise BadRequest(f"Invalid input for {name}: '{text}' is not an integer")
        return int(text)
    return text


def _time(text: str) -> float:
    try:
        return clock.parse(text)
    except ValueError as error:
        raise BadRequest(f"Invalid input for changed_since: '{text}' is not an ISO 8601 time") from error


def _tag_filters(owner: Column) -> Mapping[str, Callable[[list[str]], Condition]]:
    """Neutron's four tag filters; each value may be a list divided by commas."""

    def has(tag: str) -> Condition:
        return sa.exists().where(network_tags.c.resource_id == owner, network_tags.c.tag == tag)

    def every(values: list[str]) -> Condition:
        return sa.and_(*(has(tag) for tag in _split(values)))

    def some(values: list[str]) -> Condition:
        return sa.or_(*(has(tag) for tag in _split(values)))

    return {
        "tags": every,
        "tags-any": some,
        "not-tags": lambda values: ~every(values),
        "not-tags-any": lambda values: ~some(values),
    }


def _split(values: list[str]) -> list[str]:
    return few("tags", (tag for value in values for tag in value.split(",")))


def few(name: str, values: Iterable[str]) -> list[str]:
    """Each once. BadRequest if a condition of each of them would be one that a database does not take."""
    found = list(dict.fromkeys(values))
    if len(found) > _MAX_CONDITIONS:
        raise BadRequest(f"Invalid input for {name}: more than {_MAX_CONDITIONS} different values")
    return found
