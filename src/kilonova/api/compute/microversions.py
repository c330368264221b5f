"""Microversions: which one a request speaks, and how a handler differs by it.

A client names one in ``OpenStack-API-Version: compute 2.X`` or, the older form,
``X-OpenStack-Nova-API-Version: 2.X``; ``latest`` is the highest, and none is 2.1. How to add one:
docs/how-to/add-a-microversion.md. What each changed:
https://docs.openstack.org/nova/latest/reference/api-microversion-history.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import falcon

from kilonova.api.http import Request, Version
from kilonova.api.microversions import HEADER, asked_of, negotiated, text

MINIMUM: Version = (2, 1)
MAXIMUM: Version = (2, 104)

_OLD_HEADER = "X-OpenStack-Nova-API-Version"

T = TypeVar("T")


def negotiate(req: falcon.Request) -> Version:
    """The microversion that the request asks for. BadRequest: not a version; NotAcceptable: not served."""
    return negotiated(_asked(req), MINIMUM, MAXIMUM)


def decorate(request: Request, resp: falcon.Response) -> None:
    """Every answer says which microversion it speaks, in both headers; a 406 repeats the one refused.

    The request's id has an older name here too.
    """
    resp.set_header("X-Compute-Request-Id", request.request_id)
    resp.append_header("Vary", f"{HEADER}, {_OLD_HEADER}")
    version = text(request.version) if request.version != (0, 0) else None
    if version is None and str(resp.status).startswith("406"):
        version = _asked(request.raw)
    if version is not None:
        resp.set_header(HEADER, f"compute {version}")
        resp.set_header(_OLD_HEADER, version)


def pick(request: Request, ladder: Mapping[Version, T]) -> T:
    """The rung of a ladder that the request's microversion stands on: the highest not above it.

    ``pick(request, {(2, 1): Create, (2, 55): Create255})``
    """
    return ladder[max(since for since in ladder if since <= request.version)]


def _asked(req: falcon.Request) -> str | None:
    """The version as the client wrote it. Of the older header the last one counts: sent twice, it arrives
    joined by commas."""
    old = req.get_header(_OLD_HEADER) or ""
    return asked_of(req, "compute") or old.split(",")[-1].strip() or None
