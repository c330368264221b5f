"""Errors as the compute API says them: ``{"itemNotFound": {"code": 404, "message": …}}``."""

from __future__ import annotations

from typing import Any

from kilonova.api.http import Reply, Request
from kilonova.domain.errors import KilonovaError

_NAMES = {
    400: "badRequest",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    429: "overLimit",
    501: "notImplemented",
    503: "serviceUnavailable",
}
"""Fault names by status (Nova's wsgi.Fault); any other is a computeFault."""


def fault(_request: Request, status: int, message: str, _error: KilonovaError | None) -> dict[str, Any]:
    """The body of an error. A 401 comes in Keystone middleware's form, which clients know."""
    if status == 401:
        return {"error": {"code": 401, "title": "Unauthorized", "message": message}}
    return {_NAMES.get(status, "computeFault"): {"code": status, "message": message}}


def gone() -> Reply:
    """For what the API had once."""
    message = "This resource is no longer available. No forwarding address is given."
    return Reply(410, {"computeFault": {"code": 410, "message": message}})
