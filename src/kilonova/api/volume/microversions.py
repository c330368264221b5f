"""Microversions: which one a request speaks (``OpenStack-API-Version: volume 3.X``); none is 3.0.

What each changed: https://docs.openstack.org/cinder/latest/contributor/api_microversion_history.html
"""

from __future__ import annotations

import falcon

from kilonova.api.http import Request, Version
from kilonova.api.microversions import HEADER, asked_of, negotiated, text

MINIMUM: Version = (3, 0)
MAXIMUM: Version = (3, 70)


def negotiate(req: falcon.Request) -> Version:
    """The microversion that the request asks for. BadRequest: not a version; NotAcceptable: not served."""
    return negotiated(asked_of(req, "volume", "block-storage"), MINIMUM, MAXIMUM)


def decorate(request: Request, resp: falcon.Response) -> None:
    """Every answer says which microversion it speaks; the request's id has an older name here too."""
    resp.set_header("X-Compute-Request-Id", request.request_id)
    resp.append_header("Vary", HEADER)
    if request.version != (0, 0):
        resp.set_header(HEADER, f"volume {text(request.version)}")
