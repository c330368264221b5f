"""What the API had once: paths that answer 410 Gone in every microversion, as Nova's do."""

from __future__ import annotations

from kilonova.api.compute import faults
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.errors import NotFound

_TABLE = """
GET POST                  /os-agents
PUT DELETE                /os-agents/{id}
GET POST                  /os-cells
GET                       /os-cells/capacities
GET                       /os-cells/detail
GET                       /os-cells/info
POST                      /os-cells/sync_instances
GET PUT DELETE            /os-cells/{id}
GET                       /os-cells/{id}/capacities
POST                      /os-certificates
GET                       /os-certificates/{id}
GET POST                  /os-cloudpipe
PUT                       /os-cloudpipe/{id}
GET                       /os-fixed-ips/{id}
GET                       /os-floating-ip-dns
PUT DELETE                /os-floating-ip-dns/{id}
GET PUT DELETE            /os-floating-ip-dns/{id}/entries/{name}
GET POST                  /os-floating-ips-bulk
GET PUT                   /os-floating-ips-bulk/{id}
GET                       /os-fping
GET                       /os-fping/{id}
POST                      /os-networks
POST                      /os-networks/add
DELETE                    /os-networks/{id}
GET POST                  /os-security-group-default-rules
GET DELETE                /os-security-group-default-rules/{id}
POST                      /os-tenant-networks
DELETE                    /os-tenant-networks/{id}
GET POST                  /servers/{server_id}/consoles
GET DELETE                /servers/{server_id}/consoles/{id}
GET                       /servers/{server_id}/os-virtual-interfaces
"""

_ONCE_PROXIES = """
GET /os-networks
GET /os-networks/{id}
GET /os-tenant-networks
GET /os-tenant-networks/{id}
"""
"""On the same paths: what passed requests on to the network service until 2.35. Never here: ask it itself."""


def gone(_api: ComputeAPI, _request: Request, **_: str) -> Reply:
    return faults.gone()


def missing(_api: ComputeAPI, _request: Request, **_: str) -> Reply:
    raise NotFound("The resource could not be found.")


def _rows(table: str) -> list[tuple[str, str]]:
    """(method, path) of each word of each line."""
    lines = [line.split() for line in table.strip().splitlines()]
    return [(method, path) for *methods, path in lines for method in methods]


ROUTES = [Route(method, path, gone) for method, path in _rows(_TABLE)]
ROUTES += [Route(method, path, missing) for method, path in _rows(_ONCE_PROXIES)]
