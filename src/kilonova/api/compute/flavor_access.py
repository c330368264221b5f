"""Which projects may use a private flavor: os-flavor-access, addTenantAccess, removeTenantAccess."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from kilonova.api.compute import queries
from kilonova.api.compute.policy import require_admin
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.errors import BadRequest, Conflict, NotFound
from kilonova.store import flavors, projects


class Tenant(msgspec.Struct, forbid_unknown_fields=True):
    tenant: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.tenant) <= 255:
            raise ValueError("tenant must have 1 to 255 characters")


class Action(msgspec.Struct, forbid_unknown_fields=True):
    """Exactly one of the two."""

    add: Tenant | None = msgspec.field(name="addTenantAccess", default=None)
    remove: Tenant | None = msgspec.field(name="removeTenantAccess", default=None)

    def __post_init__(self) -> None:
        if (self.add is None) == (self.remove is None):
            raise ValueError("the body must hold one action: addTenantAccess or removeTenantAccess")


def index(api: ComputeAPI, request: Request, flavor_id: str) -> Reply:
    require_admin(request.context, "os-flavor-access")
    queries.check(request)
    with api.db.read() as conn:
        if flavors.get(conn, flavor_id).is_public:
            raise NotFound("Access list not available for public flavors.")
        return _listed(conn, flavor_id)


def act(api: ComputeAPI, request: Request, flavor_id: str) -> Reply:
    require_admin(request.context, "os-flavor-access:add_tenant_access")
    action = request.json(Action)
    with api.db.write() as conn:
        if action.add is not None:
            _add(conn, request, flavor_id, action.add.tenant)
        elif action.remove is not None:
            flavors.get(conn, flavor_id)
            flavors.revoke(conn, flavor_id, action.remove.tenant)
        return _listed(conn, flavor_id)


def _add(conn: sa.Connection, request: Request, flavor_id: str, project_id: str) -> None:
    if projects.get(conn, project_id) is None:
        raise BadRequest(f"Project ID {project_id} is not a valid project.")
    if flavors.get(conn, flavor_id).is_public and request.at_least(2, 7):
        raise Conflict("Can not add access to a public flavor.")
    flavors.grant(conn, flavor_id, project_id)


def _listed(conn: sa.Connection, flavor_id: str) -> Reply:
    granted = flavors.projects(conn, flavor_id)
    rows = [{"flavor_id": flavor_id, "tenant_id": project_id} for project_id in granted]
    return Reply(body={"flavor_access": rows})


ROUTES = [
    Route("GET", "/flavors/{flavor_id}/os-flavor-access", index),
    Route("POST", "/flavors/{flavor_id}/action", act),
]
