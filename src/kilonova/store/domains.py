"""Domains: rows of the table that owns users, groups and projects."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from kilonova.domain.identity import Domain, Target
from kilonova.store import identity, role_assignments, tokens
from kilonova.store.schema.identity import domains, groups, projects, roles, users


def create(conn: sa.Connection, domain: Domain) -> None:
    identity.insert(conn, domains, domain)


def get(conn: sa.Connection, domain_id: str, for_update: bool = False) -> Domain | None:
    query = sa.select(domains).where(domains.c.id == domain_id)
    return identity.one(conn, Domain, query, for_update)


def by_name(conn: sa.Connection, name: str) -> Domain | None:
    return identity.one(conn, Domain, sa.select(domains).where(domains.c.name == name))


def listed(conn: sa.Connection, *, name: str | None = None, enabled: bool | None = None) -> list[Domain]:
    query = identity.where(domains, sa.select(domains), {"name": name, "enabled": enabled})
    return identity.many(conn, Domain, query)


def update(conn: sa.Connection, domain_id: str, changes: dict[str, Any]) -> None:
    """A domain that is disabled voids every token of its users and for its projects, for good."""
    if changes.get("enabled") is False:
        changes = changes | {"token_epoch": domains.c.token_epoch + 1}
        for table in (users, projects):
            conn.execute(
                sa.update(table)
                .where(table.c.domain_id == domain_id)
                .values(token_epoch=table.c.token_epoch + 1)
            )
    with identity.unique("domain", str(changes.get("name"))):
        conn.execute(sa.update(domains).where(domains.c.id == domain_id).values(**changes))
    tokens.bump(conn)


def delete(conn: sa.Connection, domain_id: str) -> None:
    """The domain and everything it owns."""
    owned = [
        sa.select(table.c.id).where(table.c.domain_id == domain_id) for table in (users, groups, projects)
    ]
    role_assignments.forget(conn, sa.union(*owned, sa.select(sa.literal(domain_id))))
    conn.execute(
        sa.update(users).where(users.c.default_project_id.in_(owned[2])).values(default_project_id=None)
    )
    conn.execute(sa.delete(roles).where(roles.c.domain_id == domain_id))
    conn.execute(sa.update(projects).where(projects.c.domain_id == domain_id).values(parent_id=None))
    conn.execute(sa.delete(domains).where(domains.c.id == domain_id))
    tokens.bump(conn)


def of_user(conn: sa.Connection, user_id: str) -> list[Domain]:
    """The enabled domains on which the user holds a role."""
    query = (
        sa.select(domains)
        .where(domains.c.id.in_(role_assignments.targets(user_id, Target.DOMAIN)), domains.c.enabled)
        .order_by(domains.c.name)
    )
    return identity.many(conn, Domain, query)
