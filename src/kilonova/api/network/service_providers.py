"""/service-providers: who provides which service. There is one: a router is on one host."""

from __future__ import annotations

from kilonova.api.http import Reply, Request, Route
from kilonova.api.network import lists
from kilonova.domain.errors import BadRequest
from kilonova.network.builtin.service import BuiltinNetwork

_PROVIDERS = [{"service_type": "L3_ROUTER_NAT", "name": "single_node", "default": True}]


def index(_network: BuiltinNetwork, request: Request) -> Reply:
    filters = lists.asked(request, ()).filters
    if unknown := sorted(set(filters) - {"service_type", "name", "default"}):
        raise BadRequest(f"Invalid input for filters: {unknown[0]} is no attribute to filter by")
    shown = [
        one
        for one in _PROVIDERS
        if all(str(one[name]).lower() in map(str.lower, wanted) for name, wanted in filters.items())
    ]
    return Reply(body={"service_providers": [lists.fields(request, one) for one in shown]})


ROUTES = [Route("GET", "/v2.0/service-providers", index)]
