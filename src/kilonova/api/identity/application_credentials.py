"""/v3/users/{user_id}/application_credentials"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from kilonova.api.http import Reply, Request
from kilonova.api.identity.state import Id, Name, Secret, State, attributes, found, href, listing
from kilonova.domain.clock import iso8601_micro, now, parse
from kilonova.domain.errors import BadRequest, Forbidden
from kilonova.domain.identity import ApplicationCredential, Role
from kilonova.identity import passwords
from kilonova.identity.bootstrap import new_id
from kilonova.identity.scopes import Named
from kilonova.identity.validity import Validated
from kilonova.store import application_credentials


class _RoleRef(msgspec.Struct, frozen=True):
    id: Id | None = None
    name: Name | None = None
    domain: Named | None = None


class _Create(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Name
    secret: Secret | None = None
    description: str | None = None
    roles: list[_RoleRef] | None = None
    expires_at: str | None = None
    unrestricted: bool | None = False
    project_id: Id | None = None
    access_rules: list[Any] | None = None
    """Not served: only an empty list is taken."""

    def __post_init__(self) -> None:
        if self.access_rules:
            raise ValueError(
                "access rules are not available here: the credential would allow more than they say"
            )


def view(request: Request, item: ApplicationCredential, roles: list[Role]) -> dict[str, Any]:
    return {
        "id": item.id,
        "name": item.name,
        "description": item.description,
        "user_id": item.user_id,
        "project_id": item.project_id,
        "unrestricted": item.unrestricted,
        "expires_at": iso8601_micro(item.expires_at),
        "roles": [{"id": role.id, "name": role.name, "domain_id": role.domain_id} for role in roles],
        "links": {"self": href(request, "users", item.user_id, "application_credentials", item.id)},
    }


def index(state: State, request: Request, user_id: str) -> Reply:
    with state.db.read() as conn:
        items = application_credentials.listed(conn, user_id, name=request.query("name"))
        roles = application_credentials.roles_by_credential(conn, user_id)
    views = [view(request, item, roles.get(item.id, [])) for item in items]
    return listing(request, "application_credentials", views)


def show(state: State, request: Request, user_id: str, credential_id: str) -> Reply:
    with state.db.read() as conn:
        item = application_credentials.get(conn, credential_id)
        if item is not None and item.user_id != user_id:
            item = None
        item = found(item, "application credential", credential_id)
        roles = application_credentials.roles_by_credential(conn, user_id)
    return Reply(200, {"application_credential": view(request, item, roles.get(item.id, []))})


def create(state: State, request: Request, user_id: str) -> Reply:
    """For the project of the caller's token, with some or all of its roles. The secret is shown this once."""
    caller = _caller(state, request)
    given, extra = attributes(request, "application_credential", _Create)
    assert not extra
    if caller.project is None or given.project_id not in (None, caller.project.id):
        raise BadRequest("An application credential is created with a token for its project.")
    secret = given.secret or secrets.token_urlsafe(64)
    roles = _chosen(given.roles, caller.roles)
    item = ApplicationCredential(
        id=new_id(),
        user_id=user_id,
        project_id=caller.project.id,
        name=given.name,
        description=given.description,
        secret_hash=passwords.hashed(secret),
        unrestricted=bool(given.unrestricted),
        expires_at=_expiry(given.expires_at),
    )
    with state.db.write() as conn:
        application_credentials.create(conn, item, [role.id for role in roles])
    return Reply(201, {"application_credential": view(request, item, roles) | {"secret": secret}})


def delete(state: State, request: Request, user_id: str, credential_id: str) -> Reply:
    _caller(state, request)
    with state.db.write() as conn:
        item = application_credentials.get(conn, credential_id)
        if item is not None and item.user_id != user_id:
            item = None
        found(item, "application credential", credential_id)
        application_credentials.delete(conn, credential_id)
    return Reply(204)


def _caller(state: State, request: Request) -> Validated:
    """Who asks. A restricted application credential may not make or remove others."""
    caller = state.identity.validate(request.raw.get_header("X-Auth-Token") or "")
    if caller.credential is not None and not caller.credential.unrestricted:
        raise Forbidden("A restricted application credential cannot manage application credentials.")
    return caller


def _chosen(asked: list[_RoleRef] | None, held: list[Role]) -> list[Role]:
    """The roles asked for, among those that the caller's token has; all of them if none was named."""
    if not asked:
        return held
    chosen = {}
    for ref in asked:
        role = next(
            (role for role in held if ref.id == role.id or (not ref.id and ref.name == role.name)), None
        )
        if role is None:
            raise BadRequest(
                f"Invalid application credential: the token does not have the role {ref.id or ref.name}."
            )
        chosen[role.id] = role
    return list(chosen.values())


def _expiry(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        when = parse(text)
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"Invalid input: expires_at is no ISO 8601 time: {text}") from error
    if when <= now():
        raise BadRequest("Invalid input: expires_at is in the past.")
    return when
