"""Query strings: what lists may be asked, checked as Nova checks it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kilonova.api.compute import inputs
from kilonova.api.http import Request, Version
from kilonova.domain.errors import BadRequest
from kilonova.store import regexp

MAX_LIMIT = 1000
"""Items of a page at most: Nova's [api]max_limit."""
EVERYWHERE_STRICT: Version = (2, 102)
"""Since this microversion no API takes a query parameter that it does not know."""

_DIGITS = re.compile(r"[0-9]+")


def check(request: Request, known: Iterable[str] = (), strict_since: Version = EVERYWHERE_STRICT) -> None:
    """BadRequest for parameters not in ``known``. Before ``strict_since`` they are ignored."""
    unknown = sorted(set(request.raw.params) - set(known))
    if unknown and request.version >= strict_since:
        names = ", ".join(repr(name) for name in unknown)
        verb = "was" if len(unknown) == 1 else "were"
        raise BadRequest(f"Additional properties are not allowed ({names} {verb} unexpected)")


def single(request: Request, *names: str) -> None:
    """BadRequest if one of these is given twice."""
    for name in names:
        if len(request.query_all(name)) > 1:
            raise BadRequest(f"Invalid input for query parameters {name}: it is given more than once")


def limit(request: Request) -> int:
    """How many items the page holds: what was asked for, at most MAX_LIMIT. BadRequest if it is no number."""
    values = request.query_all("limit")
    for value in values:
        if not _DIGITS.fullmatch(value):
            raise BadRequest(
                f"Invalid input for query parameters limit. Value: {value}. It must be a number, 0 or more"
            )
    return min(_small(values[-1]), MAX_LIMIT) if values else MAX_LIMIT


def marker(request: Request) -> str | None:
    return request.query("marker")


def choice(request: Request, name: str, allowed: Iterable[str], default: str) -> str:
    """One of a few words; an empty value is the default's. BadRequest for another word."""
    for value in request.query_all(name):
        if value not in allowed:
            options = ", ".join(sorted(allowed))
            raise BadRequest(f"Invalid input for query parameters {name}. '{value}' is not one of: {options}")
    return request.query(name) or default


def boolean(request: Request, name: str, default: bool = False) -> bool:
    """A yes or no. BadRequest if it is neither."""
    value = request.query(name)
    return default if value is None else inputs.boolean(name, value)


def pattern(request: Request, name: str) -> str | None:
    """A regular expression to find names by. BadRequest if it is none."""
    value = request.query(name)
    if value is not None and not regexp.valid(value):
        raise BadRequest(f"Invalid {name} filter [{value}]")
    return value


def _small(digits: str) -> int:
    """The number, or MAX_LIMIT if it is longer than any limit: int() refuses thousands of digits."""
    return int(digits) if len(digits) < 10 else MAX_LIMIT
