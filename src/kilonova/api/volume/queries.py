"""Query strings of lists, and the links to their next pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa

from kilonova.api.http import Request
from kilonova.api.volume import inputs
from kilonova.domain import clock, codec
from kilonova.domain.errors import BadRequest
from kilonova.store import block_lists
from kilonova.store.block_lists import Window

MAX_LIMIT = 1000
"""Items of a page at most (Cinder's osapi_max_limit)."""

CONTROLS = frozenset(
    {"limit", "marker", "offset", "sort", "sort_key", "sort_dir", "with_count", "all_tenants"}
)
_DIGITS = re.compile(r"[0-9]{1,9}")

Condition = sa.ColumnElement[bool]


def window(request: Request) -> Window:
    """BadRequest says what is wrong."""
    limit = _number(request, "limit")
    return Window(
        sort=_sort(request),
        limit=MAX_LIMIT if limit is None else min(limit, MAX_LIMIT),
        offset=_number(request, "offset") or 0,
        marker=request.query("marker") or None,
    )


def _number(request: Request, name: str) -> int | None:
    value = request.query(name)
    if value is None:
        return None
    if not _DIGITS.fullmatch(value):
        raise BadRequest(f"Invalid input received: {name} param must be an integer, 0 or more, not '{value}'")
    return int(value)


def _sort(request: Request) -> list[tuple[str, bool]]:
    """``sort=name:asc,size`` or, older, ``sort_key`` and ``sort_dir``. Each key once, as it is asked first:
    what comes later of it changes nothing, and costs."""
    together = request.query("sort")
    if together is not None:
        if request.query("sort_key") is not None or request.query("sort_dir") is not None:
            raise BadRequest(
                "The 'sort_key' and 'sort_dir' parameters are deprecated and cannot be used with "
                "the 'sort' parameter."
            )
        pairs = [part.strip().partition(":") for part in together.split(",") if part.strip()]
        found: dict[str, bool] = {}
        for key, _, way in pairs:
            found.setdefault(key.strip(), _descends(way.strip() or "desc"))
        return list(found.items()) or [("created_at", True)]
    return [(request.query("sort_key") or "created_at", _descends(request.query("sort_dir") or "desc"))]


def _descends(direction: str) -> bool:
    if direction.lower() not in ("asc", "desc"):
        raise BadRequest(f"Invalid input received: Sort direction '{direction}' must be asc or desc.")
    return direction.lower() == "desc"


def of_project(request: Request, column: sa.Column[str]) -> list[Condition]:
    """The caller's project's; an admin may ask for all (``all_tenants``), or another's (``project_id``)."""
    context = request.context
    everyone = inputs.boolean("all_tenants", request.query("all_tenants") or "")
    if not context.is_admin or not everyone:
        return [column == (context.project_id or "")]
    project = request.query("project_id") or request.query("tenant_id")
    return [column == project] if project else []


Filter = Callable[[str], Condition]


def conditions(
    request: Request, filters: Mapping[str, Filter], ignored: Sequence[str] = ()
) -> list[Condition]:
    """Of the query's other parameters. BadRequest for one that is no filter."""
    found = []
    known = {*CONTROLS, "project_id", "tenant_id", *ignored}
    for name in request.raw.params:
        if name in known:
            continue
        if name not in filters:
            raise BadRequest(f"Invalid input received: Invalid filters {name} are found in query options.")
        found += [filters[name](value) for value in request.query_all(name)]
    return found


def equals(column: sa.Column[Any]) -> Filter:
    """One value, or several with commas between."""

    def condition(text: str) -> Condition:
        values = [_as(column, value) for value in text.split(",")]
        return column.in_(values)

    return condition


def exactly(column: sa.Column[Any]) -> Filter:
    """One value, commas and all."""
    return lambda text: column == _as(column, text)


def contains(column: sa.Column[Any]) -> Filter:
    """``name~=…``"""
    return lambda text: block_lists.like(column, text)


def _as(column: sa.Column[Any], text: str) -> Any:
    if isinstance(column.type, sa.Boolean):
        return inputs.boolean(column.name, text)
    if isinstance(column.type, sa.Integer):
        if not _DIGITS.fullmatch(text):
            raise BadRequest(f"Invalid input received: {column.name} must be a number, not '{text}'")
        return int(text)
    return text


_COMPARISONS: dict[str, Callable[[Any, float], Condition]] = {
    "gt": lambda column, at: column > at,
    "gte": lambda column, at: column >= at,
    "eq": lambda column, at: column == at,
    "neq": lambda column, at: column != at,
    "lt": lambda column, at: column < at,
    "lte": lambda column, at: column <= at,
}


def at_time(column: sa.Column[float]) -> Filter:
    """``created_at=gt:2026-01-01T00:00:00,lt:…``"""

    def condition(text: str) -> Condition:
        found = []
        for part in text.split(","):
            word, colon, rest = part.partition(":")
            verb, when = (word, rest) if colon and word in _COMPARISONS else ("eq", part)
            try:
                found.append(_COMPARISONS[verb](column, clock.parse(when)))
            except (ValueError, OverflowError) as error:
                raise BadRequest(f"Invalid input received: '{when}' is no ISO 8601 time.") from error
        return sa.and_(*found)

    return condition


def texts(name: str, value: str) -> dict[str, str]:
    """A filter by metadata: ``{"key": "value"}``, or as Python prints it."""
    try:
        return codec.from_json(value.replace("'", '"'), dict[str, str], strict=False)
    except ValueError as error:
        raise BadRequest(f"Invalid input received: {name} must be an object of texts.") from error


def next_page(request: Request, name: str, path: str, items: Sequence[Any], window: Window) -> dict[str, Any]:
    """``{"volumes_links": [next]}`` if the page is full, else nothing. Its URL has the project's id if this
    one's has it."""
    if not items or len(items) < window.limit:
        return {}
    asked = {key: request.query_all(key) for key in request.raw.params if key != "offset"}
    query = urlencode(sorted((asked | {"marker": [items[-1].id]}).items()), doseq=True)
    with_project = f"/v3/{request.context.project_id}/" in request.raw.path
    start = root(request) if with_project else request.url
    return {f"{name}_links": [{"rel": "next", "href": f"{start}/{path}?{query}"}]}


def root(request: Request) -> str:
    """Of links: with the project, as in the catalog of old."""
    project = request.context.project_id
    return f"{request.url}/{project}" if project else request.url


def links(request: Request, collection: str, item_id: str) -> list[dict[str, str]]:
    with_version = root(request)
    without = with_version.replace("/v3", "", 1) if "/v3" in with_version else with_version
    return [
        {"rel": "self", "href": f"{with_version}/{collection}/{item_id}"},
        {"rel": "bookmark", "href": f"{without}/{collection}/{item_id}"},
    ]
