"""/v3/users"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from kilonova.api.http import Reply, Request
from kilonova.api.identity.state import (
    Id,
    Name,
    Options,
    Secret,
    State,
    attributes,
    changes,
    flag,
    found,
    home_domain,
    href,
    listing,
    same_or_unset,
)
from kilonova.domain.errors import Unauthorized
from kilonova.domain.identity import User
from kilonova.identity import passwords
from kilonova.identity.bootstrap import new_id
from kilonova.identity.tokens import REFUSED
from kilonova.store import domains, users


class _Create(msgspec.Struct, frozen=True):
    name: Name
    domain_id: Id | None = None
    password: Secret | None = None
    enabled: bool = True
    default_project_id: Id | None = None
    options: Options = Options()


class _Update(msgspec.Struct, frozen=True):
    name: Name | UnsetType = UNSET
    domain_id: Id | UnsetType = UNSET
    password: Secret | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    default_project_id: Id | UnsetType | None = UNSET
    options: Options = Options()


class _Password(msgspec.Struct, frozen=True):
    original_password: str
    password: Secret


def view(request: Request, user: User) -> dict[str, Any]:
    default = {"default_project_id": user.default_project_id} if user.default_project_id else {}
    return (
        user.extra
        | default
        | {
            "id": user.id,
            "name": user.name,
            "domain_id": user.domain_id,
            "enabled": user.enabled,
            "password_expires_at": None,
            "options": {},
            "links": {"self": href(request, "users", user.id)},
        }
    )


def index(state: State, request: Request) -> Reply:
    with state.db.read() as conn:
        items = users.listed(
            conn,
            name=request.query("name"),
            domain_id=request.query("domain_id"),
            enabled=flag(request, "enabled"),
        )
    return listing(request, "users", [view(request, item) for item in items])


def create(state: State, request: Request) -> Reply:
    given, extra = attributes(request, "user", _Create)
    domain_id = home_domain(request, given.domain_id)
    user = User(
        id=new_id(),
        domain_id=domain_id,
        name=given.name,
        password_hash=passwords.hashed(given.password) if given.password else None,
        enabled=given.enabled,
        default_project_id=given.default_project_id,
        extra=_without_read_only(extra),
    )
    with state.db.write() as conn:
        found(domains.get(conn, domain_id), "domain", domain_id)
        users.create(conn, user)
    return Reply(201, {"user": view(request, user)})


def show(state: State, request: Request, user_id: str) -> Reply:
    with state.db.read() as conn:
        user = found(users.get(conn, user_id), "user", user_id)
    return Reply(200, {"user": view(request, user)})


def update(state: State, request: Request, user_id: str) -> Reply:
    given, extra = attributes(request, "user", _Update)
    new = changes(given, "name", "enabled", "default_project_id")
    if given.password is not UNSET:
        new["password_hash"] = passwords.hashed(given.password) if given.password else None
    with state.db.write() as conn:
        user = found(users.get(conn, user_id, for_update=True), "user", user_id)
        same_or_unset("The domain of a user", given.domain_id, user.domain_id)
        users.update(conn, user_id, new | {"extra": user.extra | _without_read_only(extra)})
        user = found(users.get(conn, user_id), "user", user_id)
    return Reply(200, {"user": view(request, user)})


def delete(state: State, request: Request, user_id: str) -> Reply:
    with state.db.write() as conn:
        found(users.get(conn, user_id), "user", user_id)
        users.delete(conn, user_id)
    return Reply(204)


def change_password(state: State, request: Request, user_id: str) -> Reply:
    """POST /v3/users/{id}/password: the old password is the proof, so no token is asked for."""
    given, _ = attributes(request, "user", _Password)
    with state.db.read() as conn:
        user = users.get(conn, user_id)
    known = passwords.matches(user.password_hash if user else None, given.original_password)
    if not known or user is None or not user.enabled:
        raise Unauthorized(REFUSED)
    new = passwords.hashed(given.password)
    with state.db.write() as conn:
        now = users.get(conn, user_id)
        if now is None or now.password_hash != user.password_hash:
            raise Unauthorized(REFUSED)
        users.update(conn, user_id, {"password_hash": new})
    return Reply(204)


def _without_read_only(extra: dict[str, Any]) -> dict[str, Any]:
    """Never keep what only looks like an attribute, least of all a password in clear."""
    read_only = ("password_expires_at", "original_password", "password_hash", "federated")
    return {name: value for name, value in extra.items() if name not in read_only}
