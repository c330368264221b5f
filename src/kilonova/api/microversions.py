"""Microversions as OpenStack's APIs negotiate them: ``OpenStack-API-Version: compute 2.X, volume 3.Y``.

Which there are, and what each changed, is said in each API's own microversions.py.
Source: https://specs.openstack.org/openstack/api-sig/guidelines/microversion_specification.html
"""

from __future__ import annotations

import re

import falcon

from kilonova.api.http import Version
from kilonova.domain.errors import BadRequest, NotAcceptable

HEADER = "OpenStack-API-Version"
_FORM = re.compile(r"([1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})")


def text(version: Version) -> str:
    """``2.53``"""
    return f"{version[0]}.{version[1]}"


def asked_of(req: falcon.Request, *services: str) -> str | None:
    """The version as the client wrote it for one of these names of a service."""
    for part in (req.get_header(HEADER) or "").split(","):
        service, _, version = part.strip().partition(" ")
        if service.lower() in services and version.strip():
            return version.strip()
    return None


def negotiated(asked: str | None, minimum: Version, maximum: Version) -> Version:
    """The lowest if none is asked for. BadRequest: not a version; NotAcceptable: not served."""
    if asked is None:
        return minimum
    if asked == "latest":
        return maximum
    found = _FORM.fullmatch(asked)
    if found is None:
        raise BadRequest(
            f"API Version String {asked} is of invalid format. Must be of format MajorNum.MinorNum."
        )
    version = (int(found[1]), int(found[2]))
    if not minimum <= version <= maximum:
        raise NotAcceptable(
            f"Version {asked} is not supported by the API. "
            f"Minimum is {text(minimum)} and maximum is {text(maximum)}."
        )
    return version
