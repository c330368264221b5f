"""Errors as the Block Storage API says them: ``{"itemNotFound": {"code": 404, "message": …}}``."""

from __future__ import annotations

from typing import Any

from kilonova.api.http import Reply, Request
from kilonova.domain.errors import KilonovaError

_NAMES = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    406: "notAcceptable",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    429: "overLimit",
    501: "notImplemented",
    503: "serviceUnavailable",
}
"""Fault names by status (Cinder's wsgi.Fault); any other is a computeFault."""


def fault(_request: Request, status: int, message: str, _error: KilonovaError | None) -> dict[str, Any]:
    if status == 401:
        return {"error": {"code": 401, "title": "Unauthorized", "message": message}}
    more = {"retryAfter": "0"} if status == 413 else {}
    return {_NAMES.get(status, "computeFault"): {"code": status, "message": message, **more}}


def not_offered(what: str) -> Reply:
    """For what Cinder has and we have not."""
    message = f"The resource could not be found: this service has no {what}."
    return Reply(404, {"itemNotFound": {"code": 404, "message": message}})
