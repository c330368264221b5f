"""GET /servers/{id}/topology (2.78): the NUMA nodes of a guest. No guest has any here, so all have none."""

from __future__ import annotations

from kilonova.api.compute import policy, queries
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.store import server_lists


def show(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    queries.check(request)
    with api.db.read() as conn:
        server_lists.get(conn, server_id, policy.owner_filter(request.context), server_lists.BRIEF)
    return Reply(body={"nodes": [], "pagesize_kb": None})


ROUTES = [Route("GET", "/servers/{server_id}/topology", show, since=(2, 78))]
