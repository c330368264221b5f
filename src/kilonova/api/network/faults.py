"""Neutron's faults: ``{"NeutronError": {"type": …, "message": …, "detail": ""}}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilonova.api.http import Request
from kilonova.domain.errors import KilonovaError
from kilonova.network.builtin import errors

_BY_STATUS = {
    400: "HTTPBadRequest",
    401: "HTTPUnauthorized",
    403: "HTTPForbidden",
    404: "HTTPNotFound",
    405: "HTTPMethodNotAllowed",
    409: "HTTPConflict",
    412: "HTTPPreconditionFailed",
    413: "HTTPRequestEntityTooLarge",
    415: "HTTPUnsupportedMediaType",
    422: "HTTPUnprocessableEntity",
    503: "HTTPServiceUnavailable",
}


def body(_request: Request, status: int, message: str, error: KilonovaError | None) -> Mapping[str, Any]:
    kind = _BY_STATUS.get(status, "HTTPInternalServerError")
    if type(error).__module__ == errors.__name__:
        kind = getattr(error, "neutron_type", type(error).__name__)
    return {"NeutronError": {"type": kind, "message": message, "detail": ""}}
