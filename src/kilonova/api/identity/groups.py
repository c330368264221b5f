"""/v3/groups and their members"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from kilonova.api.http import Reply, Request
from kilonova.api.identity import users as user_views
from kilonova.api.identity.state import (
    Id,
    Name,
    State,
    attributes,
    changes,
    found,
    home_domain,
    href,
    listing,
    same_or_unset,
)
from kilonova.domain.errors import NotFound
from kilonova.domain.identity import Group
from kilonova.identity.bootstrap import new_id
from kilonova.store import domains, groups, users


class _Create(msgspec.Struct, frozen=True):
    name: Name
    domain_id: Id | None = None
    description: str | None = None


class _Update(msgspec.Struct, frozen=True):
    name: Name | UnsetType = UNSET
    domain_id: Id | UnsetType = UNSET
    description: str | UnsetType = UNSET


def view(request: Request, group: Group) -> dict[str, Any]:
    return group.extra | {
        "id": group.id,
        "name": group.name,
        "domain_id": group.domain_id,
        "description": group.description,
        "links": {"self": href(request, "groups", group.id)},
    }


def index(state: State, request: Request) -> Reply:
    with state.db.read() as conn:
        items = groups.listed(conn, name=request.query("name"), domain_id=request.query("domain_id"))
    return listing(request, "groups", [view(request, item) for item in items])


def of_user(state: State, request: Request, user_id: str) -> Reply:
    with state.db.read() as conn:
        found(users.get(conn, user_id), "user", user_id)
        items = groups.of_user(conn, user_id)
    return listing(request, "groups", [view(request, item) for item in items])


def create(state: State, request: Request) -> Reply:
    given, extra = attributes(request, "group", _Create)
    domain_id = home_domain(request, given.domain_id)
    group = Group(
        id=new_id(),
        domain_id=domain_id,
        name=given.name,
        description=given.description or "",
        extra=extra,
    )
    with state.db.write() as conn:
        found(domains.get(conn, domain_id), "domain", domain_id)
        groups.create(conn, group)
    return Reply(201, {"group": view(request, group)})


def show(state: State, request: Request, group_id: str) -> Reply:
    with state.db.read() as conn:
        group = found(groups.get(conn, group_id), "group", group_id)
    return Reply(200, {"group": view(request, group)})


def update(state: State, request: Request, group_id: str) -> Reply:
    given, extra = attributes(request, "group", _Update)
    with state.db.write() as conn:
        group = found(groups.get(conn, group_id, for_update=True), "group", group_id)
        same_or_unset("The domain of a group", given.domain_id, group.domain_id)
        groups.update(conn, group_id, changes(given, "name", "description") | {"extra": group.extra | extra})
        group = found(groups.get(conn, group_id), "group", group_id)
    return Reply(200, {"group": view(request, group)})


def delete(state: State, request: Request, group_id: str) -> Reply:
    with state.db.write() as conn:
        found(groups.get(conn, group_id), "group", group_id)
        groups.delete(conn, group_id)
    return Reply(204)


def members(state: State, request: Request, group_id: str) -> Reply:
    with state.db.read() as conn:
        found(groups.get(conn, group_id), "group", group_id)
        items = users.in_group(conn, group_id)
    return listing(request, "users", [user_views.view(request, item) for item in items])


def add_member(state: State, request: Request, group_id: str, user_id: str) -> Reply:
    with state.db.write() as conn:
        found(groups.get(conn, group_id), "group", group_id)
        found(users.get(conn, user_id), "user", user_id)
        groups.add_member(conn, group_id, user_id)
    return Reply(204)


def has_member(state: State, request: Request, group_id: str, user_id: str) -> Reply:
    with state.db.read() as conn:
        there = groups.has_member(conn, group_id, user_id)
    return _member(there, group_id, user_id)


def remove_member(state: State, request: Request, group_id: str, user_id: str) -> Reply:
    with state.db.write() as conn:
        there = groups.remove_member(conn, group_id, user_id)
    return _member(there, group_id, user_id)


def _member(there: bool, group_id: str, user_id: str) -> Reply:
    if not there:
        raise NotFound(f"Could not find user {user_id} in group {group_id}.")
    return Reply(204)
