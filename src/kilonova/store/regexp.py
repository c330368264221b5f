"""Regular expressions that users send to find names by.

They run in RE2, which takes time linear in the text: Python's ``re``, which SQLite would be given otherwise,
can be kept busy for years by a short pattern, and holds the interpreter's lock meanwhile. PostgreSQL has its
own engine.
"""

from __future__ import annotations

import functools
from typing import Any

import re2

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


def register(raw: Any) -> None:
    """Give a SQLite connection its REGEXP operator, which SQLAlchemy's ``regexp_match`` uses."""
    raw.create_function("regexp", 2, matches, deterministic=True)


def matches(pattern: str, value: str | None) -> bool:
    """Whether a valid pattern is found somewhere in the value; NULL matches nothing."""
    return value is not None and _compiled(pattern).search(value) is not None


@functools.lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    return re2.compile(pattern, options=_OPTIONS)  # type: ignore[no-untyped-call]
