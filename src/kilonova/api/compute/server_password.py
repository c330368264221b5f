"""/servers/{id}/os-server-password: the guest's password, as the guest encrypted and told it."""

from __future__ import annotations

from kilonova.api.compute import policy, queries
from kilonova.api.compute.server_access import find
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.store import server_passwords, servers


def show(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    """Empty until the guest has told it to the metadata service."""
    queries.check(request)
    with api.db.read() as conn:
        servers.get(conn, server_id, policy.owner_filter(request.context))
        password = server_passwords.get(conn, server_id)
    return Reply(body={"password": password})


def clear(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    """Forget it, so that the guest can tell another; the guest's own is not changed."""
    with api.db.write() as conn:
        find(conn, request.context, server_id, "os-server-password:clear")
        server_passwords.clear(conn, server_id)
    return Reply(204)


_PATH = "/servers/{server_id}/os-server-password"

ROUTES = [Route("GET", _PATH, show), Route("DELETE", _PATH, clear)]
