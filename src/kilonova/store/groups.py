"""Groups of users: a role that a group holds is held by each member."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from kilonova.domain.identity import Group
from kilonova.store import dialect, identity, role_assignments, tokens
from kilonova.store.schema.identity import group_members, groups


def create(conn: sa.Connection, group: Group) -> None:
    identity.insert(conn, groups, group)


def get(conn: sa.Connection, group_id: str, for_update: bool = False) -> Group | None:
    query = sa.select(groups).where(groups.c.id == group_id)
    return identity.one(conn, Group, query, for_update)


def listed(conn: sa.Connection, *, name: str | None = None, domain_id: str | None = None) -> list[Group]:
    equal = {"name": name, "domain_id": domain_id}
    return identity.many(conn, Group, identity.where(groups, sa.select(groups), equal))


def of_user(conn: sa.Connection, user_id: str) -> list[Group]:
    query = sa.select(groups).join(group_members, group_members.c.group_id == groups.c.id)
    query = query.where(group_members.c.user_id == user_id).order_by(groups.c.name, groups.c.id)
    return identity.many(conn, Group, query)


def update(conn: sa.Connection, group_id: str, changes: dict[str, Any]) -> None:
    with identity.unique("group", str(changes.get("name"))):
        conn.execute(sa.update(groups).where(groups.c.id == group_id).values(**changes))


def delete(conn: sa.Connection, group_id: str) -> None:
    role_assignments.forget(conn, sa.select(sa.literal(group_id)))
    conn.execute(sa.delete(groups).where(groups.c.id == group_id))
    tokens.bump(conn)


def has_member(conn: sa.Connection, group_id: str, user_id: str) -> bool:
    query = sa.select(sa.literal(1)).where(*_membership(group_id, user_id))
    return conn.execute(query).scalar() is not None


def add_member(conn: sa.Connection, group_id: str, user_id: str) -> None:
    if dialect.insert_new(conn, group_members, {"group_id": group_id, "user_id": user_id}):
        tokens.bump(conn)


def remove_member(conn: sa.Connection, group_id: str, user_id: str) -> bool:
    """Whether the user was one."""
    gone = conn.execute(sa.delete(group_members).where(*_membership(group_id, user_id)))
    tokens.bump(conn)
    return bool(gone.rowcount)


def _membership(group_id: str, user_id: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return group_members.c.group_id == group_id, group_members.c.user_id == user_id
