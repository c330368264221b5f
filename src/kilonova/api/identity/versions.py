"""The version documents, by which clients find ``/v3``."""

from __future__ import annotations

from typing import Any

from kilonova.api.http import Reply, Request
from kilonova.api.identity.state import State


def _v3(request: Request) -> dict[str, Any]:
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{request.url}/v3/"}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    }


def index(_state: State, request: Request) -> Reply:
    return Reply(300, {"versions": {"values": [_v3(request)]}})


def show(_state: State, request: Request) -> Reply:
    return Reply(200, {"version": _v3(request)})
