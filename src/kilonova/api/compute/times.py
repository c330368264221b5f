"""Times in query strings."""

from __future__ import annotations

import re

from kilonova.api.http import Request
from kilonova.domain import clock
from kilonova.domain.errors import BadRequest

_SPACED_ZONE = re.compile(r" (\d\d:?\d\d)\Z")
"""A plus sign that the client did not quote arrives as a space."""


def query_time(request: Request, name: str) -> float | None:
    """Epoch seconds of an ISO 8601 time; None if it is not given. BadRequest if it is none."""
    value = request.query(name)
    if value is None:
        return None
    try:
        return clock.parse(_SPACED_ZONE.sub(r"+\1", value))
    except (ValueError, OverflowError) as error:
        raise BadRequest(
            f"Invalid input for query parameters {name}. Value: {value}. '{value}' is not a 'date-time'"
        ) from error
