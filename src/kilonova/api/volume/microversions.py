"""Microversions: which one a request speaks (``OpenStack-API-Version: volume 3.X``); none is 3.0.

What each changed: https://docs.openstack.org/cinder/latest/contributor/api_microversion_history.html
"""

from __future__ import annotations

import re

import falcon

from kilonova.api.http import Request, Version
from kilonova.domain.errors import BadRequest, NotAcceptable

MINIMUM: Version = (3, 0)
MAXIMUM: Version = (3, 70)

_HEADER = "OpenStack-API-Version"
_FORM = re.compile(r"([1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})")


def text(version: Version) -> str:
    """``3.59``"""
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
    """Every answer says which microversion it speaks; the request's id has an older name here too."""
    resp.set_header("X-Compute-Request-Id", request.request_id)
    resp.append_header("Vary", _HEADER)
    if request.version != (0, 0):
        resp.set_header(_HEADER, f"volume {text(request.version)}")


def _asked(req: falcon.Request) -> str | None:
    """The version as the client wrote it. The header may name several: ``compute 2.9, volume 3.1``."""
    for part in (req.get_header(_HEADER) or "").split(","):
        service, _, version = part.strip().partition(" ")
        if service.lower() in ("volume", "block-storage") and version.strip():
            return version.strip()
    return None
