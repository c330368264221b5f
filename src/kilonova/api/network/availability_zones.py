"""/availability_zones: the zones that routers can be in, which are those of the hosts.

Networks have none: one is on every host that a guest of it is on.
"""

from __future__ import annotations

from typing import Any

from kilonova.api.http import Reply, Request, Route
from kilonova.api.network import lists
from kilonova.domain.errors import BadRequest
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import network_zones

_FIELDS = ("name", "resource", "state")


def index(network: BuiltinNetwork, request: Request) -> Reply:
    filters = lists.asked(request, ()).filters
    if unknown := sorted(set(filters) - set(_FIELDS)):
        raise BadRequest(f"Invalid input for filters: {unknown[0]} is no attribute to filter by")
    with network.db.read() as conn:
        found = network_zones.zones(conn, network.config.compute.service_down_time)
    shown = [_view(name, is_up) for name, is_up in found.items()]
    shown = [view for view in shown if all(view[name] in wanted for name, wanted in filters.items())]
    return Reply(body={"availability_zones": [lists.fields(request, view) for view in shown]})


def _view(name: str, is_up: bool) -> dict[str, Any]:
    return {"name": name, "resource": "router", "state": "available" if is_up else "unavailable"}


ROUTES = [Route("GET", "/v2.0/availability_zones", index)]
