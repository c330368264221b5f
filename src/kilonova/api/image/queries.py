"""The query string of GET /v2/images: filters, order, page. What it can't mean is BadRequest."""

from __future__ import annotations

import re

from kilonova.api.http import Request
from kilonova.domain import clock
from kilonova.domain.errors import BadRequest
from kilonova.domain.images import (
    MEMBER_STATUSES,
    VISIBILITIES,
    Comparison,
    ImageQuery,
    SortKey,
)

DEFAULT_LIMIT = 25
MAX_LIMIT = 1000
"""Glance's limit_param_default and api_limit_max."""

_LISTS = ("id", "name", "status", "container_format", "disk_format")
_TEXTS = ("owner", "checksum", "os_hash_algo", "os_hash_value")
_NUMBERS = ("size", "virtual_size", "min_disk", "min_ram")
_RANGES = {
    f"{field}_{end}": (field, operator)
    for field in _NUMBERS
    for end, operator in (("min", "gte"), ("max", "lte"))
}
_TIMES = ("created_at", "updated_at")
_PAGING = (
    "limit",
    "marker",
    "sort",
    "sort_key",
    "sort_dir",
    "tag",
    "member_status",
    "visibility",
    "os_hidden",
)
_SORT_KEYS = ("name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at")
_MAX_INTEGER = 2**63 - 1


def parse(request: Request) -> ImageQuery:
    comparisons: list[Comparison] = []
    properties: dict[str, str] = {}
    for name in request.raw.params:
        value = request.query(name) or ""
        _check_text(name, *request.query_all(name))
        found = None if name in _PAGING else _comparisons(name, value)
        if found is not None:
            comparisons += found
        elif name not in _PAGING:
            properties[name] = value
    return ImageQuery(
        visibility=_choice(request, "visibility", (*VISIBILITIES, "all"), None),
        member_status=_choice(request, "member_status", (*MEMBER_STATUSES, "all"), "accepted") or "",
        os_hidden=_flag("os_hidden", (request.query("os_hidden") or "false").lower()),
        comparisons=comparisons,
        properties=properties,
        tags=[tag.strip() for tag in request.query_all("tag")],
        sort=_sort(request),
        marker=request.query("marker"),
        limit=_limit(request),
    )


def _comparisons(name: str, value: str) -> list[Comparison] | None:
    """The conditions that one parameter means; None if it is the name of a custom property."""
    if name == "changes-since":
        raise BadRequest('The "changes-since" filter is no longer available on v2.')
    if name in _LISTS:
        return [_one_or_list(name, value)]
    if name in _TEXTS:
        return [Comparison(field=name, value=value)]
    if name in _NUMBERS:
        return [Comparison(field=name, value=_number(name, value))]
    if name in _RANGES:
        field, operator = _RANGES[name]
        return [Comparison(field=field, operator=operator, value=_number(name, value))]
    if name == "protected":
        return [Comparison(field=name, value=_flag(name, value))]
    return [_time(name, value)] if name in _TIMES else None


def _one_or_list(name: str, value: str) -> Comparison:
    """``in:a,"b,c"``, ``eq:a``, or the plain value."""
    operator, colon, rest = value.partition(":")
    if not colon:
        return Comparison(field=name, value=value)
    if operator == "in":
        return Comparison(field=name, operator="in", value=_split(rest))
    if operator == "eq":
        return Comparison(field=name, value=rest)
    raise BadRequest(f"Unable to filter by unknown operator '{operator}'.")


_ITEM = re.compile(r'"((?:[^"\\]|\\.)*)"(?:,|$)|([^",]*)(?:,|$)')


def _split(text: str) -> list[str]:
    """A comma-separated list whose items may be quoted; inside quotes a backslash keeps what follows."""
    items: list[str] = []
    position = 0
    while position < len(text):
        match = _ITEM.match(text, position)
        if match is None or match.end() == position:
            raise BadRequest(f"Invalid filter value {text}: its quotes do not match.")
        quoted, plain = match.groups()
        items.append(plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        position = match.end()
    return items


def _time(name: str, value: str) -> Comparison:
    """``gt:2026-01-02T03:04:05Z``. The API shows whole seconds, so that is what it compares."""
    operator, _, rest = value.partition(":")
    if operator not in ("eq", "neq", "lt", "lte", "gt", "gte"):
        operator, rest = "eq", value
    try:
        second = clock.parse(rest.strip().replace(" ", "+")) // 1
    except (ValueError, OverflowError):
        raise BadRequest(f"Invalid filter value for '{name}': {value} is not a time in ISO 8601.") from None
    return Comparison(field=name, operator=operator, value=second)


def _sort(request: Request) -> list[SortKey]:
    """``sort=name:asc,size:desc``, or ``sort_key`` and ``sort_dir`` in pairs (or one sort_dir for all). Each
    key once, as it is asked first: what comes later of it changes nothing, and costs."""
    found: dict[str, SortKey] = {}
    for key in _sort_keys(request):
        found.setdefault(key.field, key)
    return list(found.values())


def _sort_keys(request: Request) -> list[SortKey]:
    names, directions = request.query_all("sort_key"), request.query_all("sort_dir")
    both = request.query("sort")
    if both is not None:
        if names or directions:
            raise BadRequest("Old and new sorting syntax cannot be combined")
        pairs = [part.partition(":") for part in both.split(",")]
        return [_sort_key(name, direction or "desc") for name, _, direction in pairs]
    names = names or ["created_at"]
    if len(directions) > 1 and len(directions) != len(names):
        raise BadRequest("Number of sort dirs does not match the number of sort keys")
    if len(directions) <= 1:
        directions = (directions or ["desc"]) * len(names)
    return [_sort_key(name, direction) for name, direction in zip(names, directions, strict=True)]


def _sort_key(name: str, direction: str) -> SortKey:
    name, direction = name.strip(), direction.strip()
    if name not in _SORT_KEYS:
        raise BadRequest(
            f"Invalid sort key: {name}. It must be one of the following: {', '.join(_SORT_KEYS)}."
        )
    if direction not in ("asc", "desc"):
        raise BadRequest(f"Invalid sort direction: {direction}")
    return SortKey(field=name, descending=direction == "desc")


def _limit(request: Request) -> int:
    value = request.query("limit")
    if value is None:
        return DEFAULT_LIMIT
    if not re.fullmatch(r"-?[0-9]{1,18}", value):
        raise BadRequest("limit param must be an integer")
    if int(value) < 0:
        raise BadRequest("limit param must be positive")
    return min(int(value), MAX_LIMIT)


def _choice(request: Request, name: str, choices: tuple[str, ...], default: str | None) -> str | None:
    value = request.query(name)
    if value is None:
        return default
    if value not in choices:
        raise BadRequest(f"Invalid {name} value: {value}")
    return value


def _flag(name: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise BadRequest(f"Invalid value '{value}' for '{name}' filter. Valid values are 'true' or 'false'.")
    return value == "true"


def _number(name: str, value: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,19}", value) or abs(int(value)) > _MAX_INTEGER:
        raise BadRequest(f"Invalid filter value for '{name}': {value} is not an integer.")
    return int(value)


def _check_text(*texts: str) -> None:
    if any("\0" in text for text in texts):
        raise BadRequest("A filter contains a NUL character.")
