"""Who holds which role on what."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from kilonova.domain.identity import Actor, Assignment, Role, Target
from kilonova.store import dialect, identity, roles, tokens
from kilonova.store.schema.identity import (
    application_credential_roles,
    application_credentials,
    group_members,
    role_assignments,
)

_t = role_assignments.c


def _actor_is(user_id: str) -> sa.ColumnElement[bool]:
    """(actor = 'user' AND actor_id = :user) OR (actor = 'group' AND actor_id IN (groups of :user))"""
    mine = sa.select(group_members.c.group_id).where(group_members.c.user_id == user_id)
    return sa.or_(
        sa.and_(_t.actor == Actor.USER, _t.actor_id == user_id),
        sa.and_(_t.actor == Actor.GROUP, _t.actor_id.in_(mine)),
    )


def targets(user_id: str, target: Target) -> sa.Select[tuple[str]]:
    """The ids of the projects (or domains) on which the user, or a group of the user's, holds any role."""
    return sa.select(_t.target_id).where(_t.target == target, _actor_is(user_id))


def roles_of(conn: sa.Connection, user_id: str, target: Target, target_id: str) -> list[Role]:
    """All that the user may be on that target: held directly, through groups, or implied."""
    held = sa.select(_t.role_id).where(_t.target == target, _t.target_id == target_id, _actor_is(user_id))
    return identity.many(conn, Role, roles.closure(held))


def roles_of_credential(conn: sa.Connection, credential_id: str) -> list[Role]:
    """The roles an application credential was given, and what they imply."""
    c = application_credential_roles.c
    held = sa.select(c.role_id).where(c.application_credential_id == credential_id)
    return identity.many(conn, Role, roles.closure(held))


def add(conn: sa.Connection, assignment: Assignment) -> None:
    """Nothing changes if it is there."""
    if dialect.insert_new(conn, role_assignments, identity.values(assignment)):
        tokens.bump(conn)


def exists(conn: sa.Connection, assignment: Assignment) -> bool:
    query = sa.select(sa.literal(1)).select_from(role_assignments).where(*_is(assignment))
    return conn.execute(query).scalar() is not None


def remove(conn: sa.Connection, assignment: Assignment) -> bool:
    """Whether it was there. A user's application credentials for that project go with it, as in Keystone."""
    gone = conn.execute(sa.delete(role_assignments).where(*_is(assignment)))
    if assignment.actor is Actor.USER and assignment.target is Target.PROJECT:
        c = application_credentials.c
        conn.execute(
            sa.delete(application_credentials).where(
                c.user_id == assignment.actor_id, c.project_id == assignment.target_id
            )
        )
    tokens.bump(conn)
    return bool(gone.rowcount)


def _is(assignment: Assignment) -> list[sa.ColumnElement[bool]]:
    return [_t[column] == value for column, value in identity.values(assignment).items()]


def listed(conn: sa.Connection, **equal: Any) -> list[Assignment]:
    """Assignments as they were made, whose columns have these values (None asks nothing)."""
    query = sa.select(role_assignments)
    for column, value in equal.items():
        if value is not None:
            query = query.where(_t[column] == value)
    return identity.many(conn, Assignment, query.order_by(_t.target_id, _t.actor_id, _t.role_id))


def members(conn: sa.Connection) -> dict[str, list[str]]:
    """Group id → the ids of its users."""
    found: dict[str, list[str]] = {}
    for row in conn.execute(sa.select(group_members)):
        found.setdefault(row.group_id, []).append(row.user_id)
    return found


def lock(conn: sa.Connection) -> None:
    """Before one looks at the two ends of an assignment, to add it: neither is deleted meanwhile."""
    dialect.lock(conn, "role_assignments")


def forget(conn: sa.Connection, ids: sa.Select[tuple[str]] | sa.CompoundSelect[tuple[str]]) -> None:
    """Remove what those users or groups hold, and what is held on those projects or domains."""
    lock(conn)
    conn.execute(sa.delete(role_assignments).where(sa.or_(_t.actor_id.in_(ids), _t.target_id.in_(ids))))
