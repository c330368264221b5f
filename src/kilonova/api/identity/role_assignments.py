"""Roles held by users and groups on projects, domains and the system, and /v3/role_assignments"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.api.http import Handler, Reply, Request
from kilonova.api.identity import roles as role_views
from kilonova.api.identity.state import State, chosen, found, href, listing, not_served
from kilonova.domain.errors import BadRequest, Forbidden, NotFound
from kilonova.domain.identity import SYSTEM, Actor, Assignment, Target
from kilonova.store import domains, groups, projects, role_assignments, roles, users

Grant = Callable[[State, Request, Assignment], Reply]


def on(target: Target, actor: Actor, handler: Grant) -> Handler:
    """A handler for ``/v3/{target}s/{target_id}/{actor}s/{actor_id}/roles/{role_id}``."""

    def handle(state: State, request: Request, **ids: str) -> Reply:
        assignment = Assignment(
            role_id=ids.get("role_id", ""),
            actor=actor,
            actor_id=ids[f"{actor}_id"],
            target=target,
            target_id=ids.get(f"{target}_id", SYSTEM),
        )
        return handler(state, request, assignment)

    return handle


def held(state: State, request: Request, asked: Assignment) -> Reply:
    """GET …/roles: what that user or group was given there itself."""
    with state.db.read() as conn:
        _ends(conn, asked)
        mine = role_assignments.listed(
            conn,
            actor=asked.actor,
            actor_id=asked.actor_id,
            target=asked.target,
            target_id=asked.target_id,
        )
        items = roles.by_ids(conn, [item.role_id for item in mine])
    return listing(request, "roles", [role_views.view(request, item) for item in items])


def add(state: State, request: Request, asked: Assignment) -> Reply:
    """PUT …/roles/{id}"""
    with state.db.write() as conn:
        role_assignments.lock(conn)
        domain_id = _ends(conn, asked)
        role = found(roles.get(conn, asked.role_id), "role", asked.role_id)
        if role.domain_id not in (None, domain_id):
            raise Forbidden("A role of a domain can only be held inside that domain.")
        role_assignments.add(conn, asked)
    return Reply(204)


def check(state: State, request: Request, asked: Assignment) -> Reply:
    """HEAD, GET …/roles/{id}"""
    with state.db.read() as conn:
        there = role_assignments.exists(conn, asked)
    return _answer(there, asked)


def remove(state: State, request: Request, asked: Assignment) -> Reply:
    """DELETE …/roles/{id}"""
    with state.db.write() as conn:
        there = role_assignments.remove(conn, asked)
    return _answer(there, asked)


def _answer(there: bool, asked: Assignment) -> Reply:
    if not there:
        raise NotFound(
            f"Could not find role assignment with role: {asked.role_id}, user or group: {asked.actor_id}, "
            f"project, domain, or system: {asked.target_id}."
        )
    return Reply(204)


def _ends(conn: sa.Connection, asked: Assignment) -> str | None:
    """NotFound unless actor and target exist; the domain of the target."""
    if asked.actor is Actor.USER:
        found(users.get(conn, asked.actor_id), "user", asked.actor_id)
    else:
        found(groups.get(conn, asked.actor_id), "group", asked.actor_id)
    if asked.target is Target.PROJECT:
        return found(projects.get(conn, asked.target_id), "project", asked.target_id).domain_id
    if asked.target is Target.DOMAIN:
        return found(domains.get(conn, asked.target_id), "domain", asked.target_id).id
    return None


def index(state: State, request: Request) -> Reply:
    """GET /v3/role_assignments: what was given; with ``effective``, all that each user holds by it."""
    not_served(request, "include_subtree")
    effective = chosen(request, "effective")
    wanted = _filters(request)
    if effective and "group.id" in request.raw.params:
        raise BadRequest("Combining effective and group filter will always result in an empty list.")
    if request.query("scope.OS-INHERIT:inherited_to") is not None:
        return listing(request, "role_assignments", [])  # nothing is ever inherited here
    with state.db.read() as conn:
        if effective:
            target = {name: wanted[name] for name in ("target", "target_id")}
            items = list(_effective(conn, role_assignments.listed(conn, **target)))
            items = [item for item in items if _fits(item, wanted)]
        else:
            items = role_assignments.listed(conn, **wanted)
        names = _Names(conn) if chosen(request, "include_names") else None
    return listing(request, "role_assignments", [_view(request, item, names) for item in items])


def _filters(request: Request) -> dict[str, Any]:
    """Columns and the values that they must have."""
    project, domain = request.query("scope.project.id"), request.query("scope.domain.id")
    system = chosen(request, "scope.system")
    user, group = request.query("user.id"), request.query("group.id")
    if (project is not None) + (domain is not None) + system > 1:
        raise BadRequest("Specify a domain or project or system, not more than one of them.")
    if user is not None and group is not None:
        raise BadRequest("Specify a user or group, not both.")
    target = None
    if project or domain or system:
        target = Target.PROJECT if project else Target.DOMAIN if domain else Target.SYSTEM
    return {
        "role_id": request.query("role.id"),
        "actor": Actor.USER if user else Actor.GROUP if group else None,
        "actor_id": user or group,
        "target": target,
        "target_id": project or domain or (SYSTEM if system else None),
    }


def _fits(item: Assignment, wanted: dict[str, Any]) -> bool:
    return all(value is None or getattr(item, name) == value for name, value in wanted.items())


def _effective(conn: sa.Connection, given: Iterable[Assignment]) -> Iterator[Assignment]:
    """Groups replaced by their members, and every implied role added; each once. Like a token, without the
    domains' own roles, which only imply others."""
    own = {role.id for role in roles.every(conn) if role.domain_id is not None}
    members = role_assignments.members(conn)
    implied: dict[str, list[str]] = {}
    for prior, role in roles.inferences(conn):
        implied.setdefault(prior.id, []).append(role.id)
    todo = list(given)
    seen = set()
    while todo:
        item = todo.pop()
        if item.actor is Actor.GROUP:
            todo += [
                msgspec.structs.replace(item, actor=Actor.USER, actor_id=user)
                for user in members.get(item.actor_id, [])
            ]
            continue
        key = msgspec.structs.astuple(item)
        if key not in seen:
            seen.add(key)
            if item.role_id not in own:
                yield item
            todo += [msgspec.structs.replace(item, role_id=role) for role in implied.get(item.role_id, [])]


class _Names:
    """The names of everything, each table read once."""

    def __init__(self, conn: sa.Connection) -> None:
        self.domains = {item.id: item.name for item in domains.listed(conn)}
        self.of: dict[str, dict[str, Any]] = {
            Target.PROJECT: {item.id: item for item in projects.listed(conn)},
            Actor.USER: {item.id: item for item in users.listed(conn)},
            Actor.GROUP: {item.id: item for item in groups.listed(conn)},
            "role": {item.id: item for item in roles.every(conn)},
        }

    def view(self, kind: str, item_id: str) -> dict[str, Any]:
        if kind == Target.DOMAIN:
            return {"id": item_id, "name": self.domains[item_id]}
        item = self.of[kind][item_id]
        view = {"id": item_id, "name": item.name}
        if item.domain_id is not None:
            view["domain"] = self.view(Target.DOMAIN, item.domain_id)
        return view


def _view(request: Request, item: Assignment, names: _Names | None) -> dict[str, Any]:
    def ref(kind: str, item_id: str) -> dict[str, Any]:
        return names.view(kind, item_id) if names else {"id": item_id}

    where = [f"{item.target}s", item.target_id] if item.target is not Target.SYSTEM else ["system"]
    scope = {"all": True} if item.target is Target.SYSTEM else ref(item.target, item.target_id)
    path = [*where, f"{item.actor}s", item.actor_id, "roles", item.role_id]
    return {
        "role": ref("role", item.role_id),
        str(item.actor): ref(item.actor, item.actor_id),
        "scope": {str(item.target): scope},
        "links": {"assignment": href(request, *path)},
    }
