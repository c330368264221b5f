"""Users: accounts, with the hash of a password if they have one."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from kilonova.domain.identity import User
from kilonova.store import identity, role_assignments, tokens
from kilonova.store.schema.identity import group_members, users


def create(conn: sa.Connection, user: User) -> None:
    identity.insert(conn, users, user)


def get(conn: sa.Connection, user_id: str, for_update: bool = False) -> User | None:
    query = sa.select(users).where(users.c.id == user_id)
    return identity.one(conn, User, query, for_update)


def by_name(conn: sa.Connection, domain_id: str, name: str) -> User | None:
    query = sa.select(users).where(users.c.domain_id == domain_id, users.c.name == name)
    return identity.one(conn, User, query)


def listed(
    conn: sa.Connection, *, name: str | None = None, domain_id: str | None = None, enabled: bool | None = None
) -> list[User]:
    equal = {"name": name, "domain_id": domain_id, "enabled": enabled}
    return identity.many(conn, User, identity.where(users, sa.select(users), equal))


def in_group(conn: sa.Connection, group_id: str) -> list[User]:
    query = sa.select(users).join(group_members, group_members.c.user_id == users.c.id)
    query = query.where(group_members.c.group_id == group_id).order_by(users.c.name, users.c.id)
    return identity.many(conn, User, query)


def update(conn: sa.Connection, user_id: str, changes: dict[str, Any]) -> None:
    """A new password, or a disabled account, voids every token of the user for good."""
    if "password_hash" in changes or changes.get("enabled") is False:
        changes = changes | {"token_epoch": users.c.token_epoch + 1}
    with identity.unique("user", str(changes.get("name"))):
        conn.execute(sa.update(users).where(users.c.id == user_id).values(**changes))
    tokens.bump(conn)


def delete(conn: sa.Connection, user_id: str) -> None:
    """The user with roles, memberships and application credentials."""
    role_assignments.forget(conn, sa.select(sa.literal(user_id)))
    conn.execute(sa.delete(users).where(users.c.id == user_id))
    tokens.bump(conn)
