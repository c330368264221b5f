"""/v3/auth: tokens, and what their owner may do with them."""

from __future__ import annotations

from typing import Any

import msgspec

from kilonova.api.http import Reply, Request
from kilonova.api.identity import domains, projects
from kilonova.api.identity.policy import forbidden
from kilonova.api.identity.state import State, chosen, convert, document, href, listing
from kilonova.domain.clock import iso8601_micro
from kilonova.domain.errors import NotFound, Unauthorized
from kilonova.domain.identity import Target
from kilonova.identity.login import Login
from kilonova.identity.validity import Validated
from kilonova.store import domains as domain_rows
from kilonova.store import projects as project_rows
from kilonova.store import role_assignments


class _Body(msgspec.Struct, frozen=True):
    auth: Login


def create(state: State, request: Request) -> Reply:
    """POST /v3/auth/tokens"""
    token, validated = state.identity.login(convert(document(request), _Body).auth)
    return Reply(201, {"token": _view(state, request, validated)}, _headers(token))


def show(state: State, request: Request) -> Reply:
    """GET, HEAD /v3/auth/tokens: the token in X-Subject-Token, for its user or an admin."""
    token, validated = _subject(state, request, "validate_token")
    return Reply(200, {"token": _view(state, request, validated)}, _headers(token))


def delete(state: State, request: Request) -> Reply:
    """DELETE /v3/auth/tokens"""
    token, _ = _subject(state, request, "revoke_token")
    state.identity.revoke(token)
    return Reply(204)


def _headers(token: str) -> dict[str, str]:
    return {"X-Subject-Token": token, "Vary": "X-Auth-Token"}


def _subject(state: State, request: Request, action: str) -> tuple[str, Validated]:
    token = request.raw.get_header("X-Subject-Token") or ""
    try:
        validated = state.identity.validate(token)
    except Unauthorized as error:
        raise NotFound("Could not find token.") from error
    if not request.context.is_admin and request.context.user_id != validated.user.id:
        raise forbidden(action)
    return token, validated


def _view(state: State, request: Request, found: Validated) -> dict[str, Any]:
    token = found.token
    view: dict[str, Any] = {
        "methods": token.methods,
        "user": {
            "id": found.user.id,
            "name": found.user.name,
            "domain": _named(found.user_domain),
            "password_expires_at": None,
        },
        "audit_ids": token.audit_ids,
        "issued_at": f"{iso8601_micro(token.issued_at)}Z",
        "expires_at": f"{iso8601_micro(token.expires_at)}Z",
    }
    if token.target is None:
        return view
    if found.project is not None and found.domain is not None:
        view["project"] = _named(found.project) | {"domain": _named(found.domain)}
        view["is_domain"] = False
    elif found.domain is not None:
        view["domain"] = _named(found.domain)
    else:
        view["system"] = {"all": True}
    view["roles"] = [{"id": role.id, "name": role.name} for role in found.roles]
    if found.credential is not None:
        view["application_credential"] = {
            "id": found.credential.id,
            "name": found.credential.name,
            "restricted": not found.credential.unrestricted,
        }
    if not chosen(request, "nocatalog"):
        view["catalog"] = state.catalog.in_token(request.raw.prefix)
    return view


def _named(item: Any) -> dict[str, str]:
    return {"id": item.id, "name": item.name}


def catalog(state: State, request: Request) -> Reply:
    """GET /v3/auth/catalog, for scoped tokens."""
    if not request.context.roles:
        raise forbidden("get_auth_catalog")
    links = {"self": href(request, "auth", "catalog")}
    return Reply(200, {"catalog": state.catalog.in_token(request.raw.prefix), "links": links})


def my_projects(state: State, request: Request) -> Reply:
    """GET /v3/auth/projects: what a token can be had for."""
    with state.db.read() as conn:
        items = project_rows.of_user(conn, request.context.user_id, usable=True)
    return listing(request, "projects", [projects.view(request, item) for item in items])


def my_domains(state: State, request: Request) -> Reply:
    """GET /v3/auth/domains"""
    with state.db.read() as conn:
        items = domain_rows.of_user(conn, request.context.user_id)
    return listing(request, "domains", [domains.view(request, item) for item in items])


def my_system(state: State, request: Request) -> Reply:
    """GET /v3/auth/system"""
    with state.db.read() as conn:
        held = role_assignments.roles_of(conn, request.context.user_id, Target.SYSTEM, "system")
    return listing(request, "system", [{"all": True}] if held else [])
