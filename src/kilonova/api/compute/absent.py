"""What Nova's API has and this one has not: 404, as for any path that is not there, but saying so.

``gone.py`` has what is not in Nova's either. A part that is added takes its lines out of here.
"""

from __future__ import annotations

from collections.abc import Callable

from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.errors import NotFound

_TABLE = """
server groups       GET POST         /os-server-groups
server groups       GET DELETE       /os-server-groups/{id}
migrations          GET              /os-migrations
migrations          GET              /servers/{server_id}/migrations
migrations          GET DELETE       /servers/{server_id}/migrations/{id}
migrations          POST             /servers/{server_id}/migrations/{id}/action
consoles            POST             /servers/{server_id}/remote-consoles
consoles            GET              /os-console-auth-tokens/{id}
shares              GET POST         /servers/{server_id}/shares
shares              GET DELETE       /servers/{server_id}/shares/{id}
usage audit logs    GET              /os-instance_usage_audit_log
usage audit logs    GET              /os-instance_usage_audit_log/{id}
assisted snapshots  POST             /os-assisted-volume-snapshots
assisted snapshots  DELETE           /os-assisted-volume-snapshots/{id}
"""


def _absent(what: str) -> Callable[..., Reply]:
    def missing(_api: ComputeAPI, _request: Request, **_: str) -> Reply:
        raise NotFound(f"The resource could not be found: {what} are not available here.")

    return missing


def _routes() -> list[Route]:
    lines = [line.partition("  ") for line in _TABLE.strip().splitlines()]
    rows = [(what, rest.split()) for what, _, rest in lines]
    return [Route(method, words[-1], _absent(what)) for what, words in rows for method in words[:-1]]


ROUTES = _routes()
