"""What a token is asked for, and how requests name users, projects and domains."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from kilonova.domain.errors import BadRequest, Forbidden
from kilonova.domain.identity import SYSTEM, ApplicationCredential, Target, User
from kilonova.identity.validity import refuse
from kilonova.store import domains, projects, role_assignments, users


class Named(msgspec.Struct, frozen=True):
    """A domain by id or by name."""

    id: str | None = None
    name: str | None = None


class Owned(msgspec.Struct, frozen=True):
    """A project or a user: by id, or by name and domain."""

    id: str | None = None
    name: str | None = None
    domain: Named | None = None


class System(msgspec.Struct, frozen=True):
    all: bool = False


class Scope(msgspec.Struct, frozen=True):
    """Exactly one of them."""

    project: Owned | None = None
    domain: Named | None = None
    system: System | None = None
    unscoped: dict[str, str] | None = None
    trust: dict[str, str] | None = msgspec.field(default=None, name="OS-TRUST:trust")


class Aim(NamedTuple):
    """What a token is for, and the epoch of that; without a target it is unscoped."""

    target: Target | None = None
    id: str = ""
    epoch: int = 0


def find_user(conn: sa.Connection, ref: Owned) -> User | None:
    if ref.id is not None:
        return users.get(conn, ref.id)
    domain_id = _domain_id(conn, ref.domain)
    if ref.name is None or domain_id is None:
        raise BadRequest("A user is found by id, or by name and domain.")
    return users.by_name(conn, domain_id, ref.name)


def resolve(
    conn: sa.Connection, scope: Scope | str | None, user_id: str, credential: ApplicationCredential | None
) -> Aim:
    """What the request asks for. Whether the user has a role there is not asked here."""
    if scope is not None:
        aim = _unscoped(scope) if isinstance(scope, str) else _asked(conn, scope)
        if credential is not None and aim.id != credential.project_id:
            raise Forbidden("An application credential is for its own project and no other scope.")
        return aim
    if credential is not None:
        return _project(conn, Owned(id=credential.project_id))
    return _default(conn, user_id)


def _unscoped(scope: str) -> Aim:
    if scope != "unscoped":
        raise BadRequest('The scope is an object, or the word "unscoped".')
    return Aim()


def _asked(conn: sa.Connection, scope: Scope) -> Aim:
    if sum(getattr(scope, name) is not None for name in scope.__struct_fields__) != 1:
        raise BadRequest("The scope is one of: project, domain, system, unscoped.")
    if scope.project is not None:
        return _project(conn, scope.project)
    if scope.domain is not None:
        return _domain(conn, scope.domain)
    if scope.trust is not None:
        raise BadRequest("Trusts are not served here; application credentials do their work.")
    if scope.system is not None and not scope.system.all:
        raise BadRequest("The only system scope is all.")
    return Aim() if scope.system is None else Aim(Target.SYSTEM, SYSTEM)


def _project(conn: sa.Connection, ref: Owned) -> Aim:
    if ref.id is not None:
        project = projects.get(conn, ref.id)
    else:
        domain_id = _domain_id(conn, ref.domain)
        if ref.name is None or domain_id is None:
            raise BadRequest("A project is found by id, or by name and domain.")
        project = projects.by_name(conn, domain_id, ref.name)
    if project is None:
        refuse("unknown project", project=ref.id or ref.name)
    return Aim(Target.PROJECT, project.id, project.token_epoch)


def _domain(conn: sa.Connection, ref: Named) -> Aim:
    domain_id = _domain_id(conn, ref)
    if domain_id is None:
        raise BadRequest("A domain is found by id or by name.")
    domain = domains.get(conn, domain_id)
    if domain is None:
        refuse("unknown domain", domain=ref.id or ref.name)
    return Aim(Target.DOMAIN, domain.id, domain.token_epoch)


def _default(conn: sa.Connection, user_id: str) -> Aim:
    """The user's default project, if a token can be had for it; else unscoped."""
    user = users.get(conn, user_id)
    project = projects.get(conn, user.default_project_id) if user and user.default_project_id else None
    if project is None or not project.enabled:
        return Aim()
    domain = domains.get(conn, project.domain_id)
    if domain is None or not domain.enabled:
        return Aim()
    held = role_assignments.roles_of(conn, user_id, Target.PROJECT, project.id)
    return Aim(Target.PROJECT, project.id, project.token_epoch) if held else Aim()


def _domain_id(conn: sa.Connection, ref: Named | None) -> str | None:
    """None if the request names no domain; an id that no domain has if it names an unknown one."""
    if ref is None or ref.id is not None or ref.name is None:
        return ref.id if ref else None
    domain = domains.by_name(conn, ref.name)
    return domain.id if domain else ""
