"""Lists of images: filters, order and pages in SQL, four statements however long the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from kilonova.domain.errors import BadRequest
from kilonova.domain.images import Comparison, Image, ImageQuery, ImageViewer, SortKey
from kilonova.store.images import COLUMNS, LIVE, load, visible
from kilonova.store.schema.images import image_properties, image_tags, images

Condition = sa.ColumnElement[bool]

_NULL_ORDER: dict[str, Any] = {"size": -1, "virtual_size": -1}
"""What a NULL sorts as, so that a marker can be compared with it; '' for the text columns."""

_OPERATORS: dict[str, Callable[[Any, Any], Condition]] = {
    "eq": lambda column, value: column == value,
    "neq": lambda column, value: column != value,
    "lt": lambda column, value: column < value,
    "lte": lambda column, value: column <= value,
    "gt": lambda column, value: column > value,
    "gte": lambda column, value: column >= value,
    "in": lambda column, value: column.in_(value),
}

_OF_SECONDS: dict[str, Callable[[Any, Any], Condition]] = {
    "eq": lambda column, second: sa.and_(column >= second, column < second + 1),
    "neq": lambda column, second: sa.or_(column < second, column >= second + 1),
    "lt": lambda column, second: column < second,
    "lte": lambda column, second: column < second + 1,
    "gt": lambda column, second: column >= second + 1,
    "gte": lambda column, second: column >= second,
}
"""Times are kept with their fractions and shown without: they compare as they are shown."""


def page(conn: sa.Connection, viewer: ImageViewer, query: ImageQuery) -> list[Image]:
    """One page. BadRequest if the marker is no image that the viewer sees.

    SELECT … FROM images WHERE visible AND filters AND (sort keys) after (marker's) ORDER BY … LIMIT n
    """
    keys = _full_order(query.sort)
    statement = sa.select(*COLUMNS).where(*_conditions(viewer, query))
    if query.marker is not None:
        statement = statement.where(_after(keys, _marker(conn, viewer, query.marker)))
    order = [_sortable(key).desc() if key.descending else _sortable(key).asc() for key in keys]
    return load(conn, conn.execute(statement.order_by(*order).limit(query.limit)).all())


def _conditions(viewer: ImageViewer, query: ImageQuery) -> list[Condition]:
    found: list[Condition] = [LIVE, visible(viewer, query.member_status)]
    found.append(images.c.os_hidden == query.os_hidden)
    if query.visibility is None:
        mine = sa.false() if viewer.project_id is None else images.c.owner == viewer.project_id
        found.append(sa.or_(images.c.visibility != "community", mine))
    elif query.visibility != "all":
        found.append(images.c.visibility == query.visibility)
    found.extend(_comparison(one) for one in query.comparisons)
    found.extend(_has_property(name, value) for name, value in query.properties.items())
    found.extend(_has_tag(tag) for tag in query.tags)
    return found


def _comparison(one: Comparison) -> Condition:
    compare = _OF_SECONDS if one.field in ("created_at", "updated_at") else _OPERATORS
    return compare[one.operator](images.c[one.field], one.value)


def _has_property(name: str, value: str) -> Condition:
    """EXISTS (SELECT 1 FROM image_properties WHERE image_id = images.id AND name = … AND value = …)."""
    own = image_properties.c
    matching = sa.select(sa.literal(1)).where(own.image_id == images.c.id, own.name == name)
    return matching.where(own.value == value).exists()


def _has_tag(tag: str) -> Condition:
    own = image_tags.c
    return sa.select(sa.literal(1)).where(own.image_id == images.c.id, own.value == tag).exists()


def _full_order(sort: list[SortKey]) -> list[SortKey]:
    """The asked keys, then created_at and id, so that the order is total."""
    keys = list(sort) or [SortKey(field="created_at")]
    descending = keys[-1].descending
    named = {key.field for key in keys}
    return keys + [
        SortKey(field=field, descending=descending) for field in ("created_at", "id") if field not in named
    ]


def _sortable(key: SortKey) -> sa.ColumnElement[Any]:
    column = images.c[key.field]
    return sa.func.coalesce(column, _NULL_ORDER.get(key.field, "")) if column.nullable else column


def _marker(conn: sa.Connection, viewer: ImageViewer, image_id: str) -> sa.Row[Any]:
    seen = (images.c.id == image_id, LIVE, visible(viewer))
    row = conn.execute(sa.select(*COLUMNS).where(*seen)).first()
    if row is None:
        raise BadRequest(f"Marker {image_id} is not an image that you can see")
    return row


def _after(keys: list[SortKey], marker: sa.Row[Any]) -> Condition:
    """a beyond a₀ OR (a = a₀ AND b beyond b₀) OR …"""
    choices: list[Condition] = []
    equal: list[Condition] = []
    for key in keys:
        column, value = _sortable(key), marker._mapping[key.field]
        if value is None:
            value = _NULL_ORDER.get(key.field, "")
        choices.append(sa.and_(*equal, column < value if key.descending else column > value))
        equal.append(column == value)
    return sa.or_(*choices)
