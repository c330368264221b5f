"""/v3/roles, and which role implies which"""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, UnsetType

from kilonova.api.http import Reply, Request
from kilonova.api.identity.state import (
    Id,
    Name,
    Options,
    State,
    attributes,
    changes,
    found,
    href,
    listing,
    same_or_unset,
)
from kilonova.domain.errors import Forbidden, NotFound
from kilonova.domain.identity import Role
from kilonova.identity.bootstrap import new_id
from kilonova.store import domains, roles


class _Create(msgspec.Struct, frozen=True):
    name: Name
    domain_id: Id | None = None
    description: str | None = None
    options: Options = Options()


class _Update(msgspec.Struct, frozen=True):
    name: Name | UnsetType = UNSET
    domain_id: Id | UnsetType | None = UNSET
    description: str | UnsetType | None = UNSET
    options: Options = Options()


def view(request: Request, role: Role) -> dict[str, Any]:
    return role.extra | {
        "id": role.id,
        "name": role.name,
        "domain_id": role.domain_id,
        "description": role.description,
        "options": {},
        "links": {"self": href(request, "roles", role.id)},
    }


def index(state: State, request: Request) -> Reply:
    """Without ``domain_id``: the roles of no domain."""
    with state.db.read() as conn:
        items = roles.listed(conn, name=request.query("name"), domain_id=request.query("domain_id"))
    return listing(request, "roles", [view(request, item) for item in items])


def create(state: State, request: Request) -> Reply:
    given, extra = attributes(request, "role", _Create)
    role = Role(
        id=new_id(), name=given.name, domain_id=given.domain_id, description=given.description, extra=extra
    )
    with state.db.write() as conn:
        if role.domain_id is not None:
            found(domains.get(conn, role.domain_id), "domain", role.domain_id)
        roles.create(conn, role)
    return Reply(201, {"role": view(request, role)})


def show(state: State, request: Request, role_id: str) -> Reply:
    with state.db.read() as conn:
        role = found(roles.get(conn, role_id), "role", role_id)
    return Reply(200, {"role": view(request, role)})


def update(state: State, request: Request, role_id: str) -> Reply:
    given, extra = attributes(request, "role", _Update)
    with state.db.write() as conn:
        role = found(roles.get(conn, role_id, for_update=True), "role", role_id)
        same_or_unset("The domain of a role", given.domain_id, role.domain_id)
        roles.update(conn, role_id, changes(given, "name", "description") | {"extra": role.extra | extra})
        role = found(roles.get(conn, role_id), "role", role_id)
    return Reply(200, {"role": view(request, role)})


def delete(state: State, request: Request, role_id: str) -> Reply:
    with state.db.write() as conn:
        found(roles.get(conn, role_id), "role", role_id)
        roles.delete(conn, role_id)
    return Reply(204)


def _short(request: Request, role: Role) -> dict[str, Any]:
    return {"id": role.id, "name": role.name, "links": {"self": href(request, "roles", role.id)}}


def inferences(state: State, request: Request) -> Reply:
    """GET /v3/role_inferences: every rule."""
    with state.db.read() as conn:
        rules = roles.inferences(conn)
    by_prior: dict[str, dict[str, Any]] = {}
    for prior, implied in rules:
        rule = by_prior.setdefault(prior.id, {"prior_role": _short(request, prior), "implies": []})
        rule["implies"].append(_short(request, implied))
    return Reply(
        200, {"role_inferences": list(by_prior.values()), "links": {"self": href(request, "role_inferences")}}
    )


def implied(state: State, request: Request, role_id: str) -> Reply:
    """GET /v3/roles/{id}/implies"""
    with state.db.read() as conn:
        prior = found(roles.get(conn, role_id), "role", role_id)
        rules = roles.inferences(conn)
    inference = {
        "prior_role": _short(request, prior),
        "implies": [_short(request, role) for holder, role in rules if holder.id == role_id],
    }
    return Reply(
        200, {"role_inference": inference, "links": {"self": href(request, "roles", role_id, "implies")}}
    )


def imply(state: State, request: Request, role_id: str, implied_role_id: str) -> Reply:
    """PUT: who holds the first holds the second. Nothing implies ``admin``, and a role of every domain
    implies no role of a single one."""
    with state.db.write() as conn:
        prior, role = _pair(conn, role_id, implied_role_id)
        narrows = role.domain_id is not None and prior.domain_id is None
        if narrows or (role.name == "admin" and role.domain_id is None) or prior.id == role.id:
            raise Forbidden(f"The role {role.name} cannot be implied by {prior.name}.")
        roles.imply(conn, role_id, implied_role_id)
    return Reply(201, _inference(request, prior, role))


def rule(state: State, request: Request, role_id: str, implied_role_id: str) -> Reply:
    """GET; HEAD answers 204."""
    with state.db.read() as conn:
        prior, role = _pair(conn, role_id, implied_role_id)
        _there(conn, role_id, implied_role_id)
    return Reply(204) if request.raw.method == "HEAD" else Reply(200, _inference(request, prior, role))


def unimply(state: State, request: Request, role_id: str, implied_role_id: str) -> Reply:
    with state.db.write() as conn:
        _there(conn, role_id, implied_role_id)
        roles.unimply(conn, role_id, implied_role_id)
    return Reply(204)


def _pair(conn: sa.Connection, prior_id: str, implied_id: str) -> tuple[Role, Role]:
    return (
        found(roles.get(conn, prior_id), "role", prior_id),
        found(roles.get(conn, implied_id), "role", implied_id),
    )


def _there(conn: sa.Connection, prior_id: str, implied_id: str) -> None:
    if not roles.implies(conn, prior_id, implied_id):
        raise NotFound(f"{prior_id} does not imply {implied_id}.")


def _inference(request: Request, prior: Role, role: Role) -> dict[str, Any]:
    return {
        "role_inference": {"prior_role": _short(request, prior), "implies": _short(request, role)},
        "links": {"self": href(request, "roles", prior.id, "implies", role.id)},
    }
