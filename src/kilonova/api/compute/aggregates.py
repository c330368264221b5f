"""Host aggregates: /os-aggregates. None can be made yet: the list, read to show a host, is empty."""

from __future__ import annotations

from kilonova.api.compute import queries
from kilonova.api.compute.policy import require_admin
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route


def index(_api: ComputeAPI, request: Request) -> Reply:
    require_admin(request.context, "os-aggregates:index")
    queries.check(request)
    return Reply(body={"aggregates": []})


ROUTES = [Route("GET", "/os-aggregates", index)]
