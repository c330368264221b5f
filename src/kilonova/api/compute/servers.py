"""GET /servers, /servers/detail and /servers/{id}; DELETE /servers/{id}."""

from __future__ import annotations

from kilonova.api.compute import create, links, policy, queries, server_query, server_update, server_view
from kilonova.api.compute.server_access import find, refuse_locked
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.engine import accept
from kilonova.store import server_lists


def listed(api: ComputeAPI, request: Request) -> Reply:
    """Ids and names."""
    wanted = server_query.parse(request)
    if wanted is None:
        return Reply(body={"servers": []})
    with api.db.read() as conn:
        rows = server_lists.page(conn, wanted, server_lists.BRIEF)
    servers = [
        {"id": server_id, "name": name, "links": links.resource(request, "servers", server_id)}
        for server_id, name, *_ in rows
    ]
    last = rows[-1].id if rows else ""
    return Reply(body={"servers": servers} | links.page(request, "servers", "servers", rows, last))


def detail(api: ComputeAPI, request: Request) -> Reply:
    wanted = server_query.parse(request)
    if wanted is None:
        return Reply(body={"servers": []})
    with api.db.read() as conn:
        rows = server_lists.page(conn, wanted, server_view.columns(request))
        servers = server_view.many(api, conn, request, rows)
    last = rows[-1].id if rows else ""
    return Reply(body={"servers": servers} | links.page(request, "servers", "servers/detail", rows, last))


def show(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    queries.check(request)
    with api.db.read() as conn:
        owner = policy.owner_filter(request.context)
        row = server_lists.get(conn, server_id, owner, server_view.columns(request))
        return Reply(body={"server": server_view.one(api, conn, request, row)})


def delete(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    """204 at once; the server is gone when its host has let go of it. Again changes nothing."""
    with api.db.read() as conn:
        server = find(conn, request.context, server_id, "servers:delete")
    refuse_locked(request.context, server)
    accept.delete_server(api.db, api.bus, api.config, request.context, server_id, api.faults)
    return Reply(204)


ROUTES = [
    Route("GET", "/servers", listed),
    Route("GET", "/servers/detail", detail),
    Route("GET", "/servers/{server_id}", show),
    Route("DELETE", "/servers/{server_id}", delete),
    *create.ROUTES,
    *server_update.ROUTES,
]
