"""Microversions: which one a request speaks, and how a handler differs by it.

A client names one in ``OpenStack-API-Version: compute 2.X`` or, the older form,
``X-OpenStack-Nova-API-Version: 2.X``; ``latest`` is the highest, and none is 2.1. How to add one:
docs/how-to/add-a-microversion.md. What each changed:
https://docs.openstack.org/nova/latest/reference/api-microversion-history.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import falcon

from kilonova.api.http import Request, Version
from kilonova.domain.errors import BadRequest, NotAcceptable

MINIMUM: Version = (2, 1)
MAXIMUM: Version = (2, 104)

_HEADER = "OpenStack-API-Version"
_OLD_HEADER = "X-OpenStack-Nova-API-Version"
_FORM = re.compile(r"([1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})")

T = TypeVar("T")


def text(version: Version) -> str:
    """``2.53``"""
    return f"{version[0]}.{version[1]}"


def negotiate(req: falcon.Request) -> Version:
    """The microversion that the request asks for. BadRequest: not a version; NotAcceptable: not served."""
    asked = _asked(req)
    if asked is None:
        return MINIMUM
    if asked == "latest":
        return MAXIMUM
    found = _FORM.fullmatch(asked)
    if found is None:
        raise BadRequest(
            f"API Version String {asked} is of invalid format. Must be of format MajorNum.MinorNum."
        )
    version = (int(found[1]), int(found[2]))
    if not MINIMUM <= version <= MAXIMUM:
        raise NotAcceptable(
            f"Version {asked} is not supported by the API. "
            f"Minimum is {text(MINIMUM)} and maximum is {text(MAXIMUM)}."
        )
    return version


def decorate(request: Request, resp: falcon.Response) -> None:
    """Every answer says which microversion it speaks, in both headers; a 406 repeats the one refused.

    The request's id has an older name here too.
    """
    resp.set_header("X-Compute-Request-Id", request.request_id)
    resp.append_header("Vary", f"{_HEADER}, {_OLD_HEADER}")
    version = text(request.version) if request.version != (0, 0) else None
    if version is None and str(resp.status).startswith("406"):
        version = _asked(request.raw)
    if version is not None:
        resp.set_header(_HEADER, f"compute {version}")
        resp.set_header(_OLD_HEADER, version)


def pick(request: Request, ladder: Mapping[Version, T]) -> T:
    """The rung of a ladder that the request's microversion stands on: the highest not above it.

    ``pick(request, {(2, 1): Create, (2, 55): Create255})``
    """
    return ladder[max(since for since in ladder if since <= request.version)]


def _asked(req: falcon.Request) -> str | None:
    """The version as the client wrote it. The new header may name several: ``compute 2.9, volume 3.1``."""
    for part in (req.get_header(_HEADER) or "").split(","):
        service, _, version = part.strip().partition(" ")
        if service.lower() == "compute" and version.strip():
            return version.strip()
    old = req.get_header(_OLD_HEADER)
    # A header sent twice arrives joined by commas; the last one counts.
    return old.split(",")[-1].strip() or None if old is not None else None
