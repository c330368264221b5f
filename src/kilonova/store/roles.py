"""Roles, and which role implies which."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from kilonova.domain.identity import Role
from kilonova.store import dialect, identity, tokens
from kilonova.store.schema.identity import role_inferences, roles

_ROLE = sa.select(
    roles.c.id,
    roles.c.name,
    sa.func.nullif(roles.c.domain_id, "").label("domain_id"),
    roles.c.description,
    roles.c.extra,
)


def create(conn: sa.Connection, role: Role) -> None:
    row = identity.values(role) | {"domain_id": role.domain_id or ""}
    with identity.unique("role", role.name):
        conn.execute(sa.insert(roles).values(**row))


def get(conn: sa.Connection, role_id: str, for_update: bool = False) -> Role | None:
    return identity.one(conn, Role, _ROLE.where(roles.c.id == role_id), for_update)


def listed(conn: sa.Connection, *, name: str | None = None, domain_id: str | None = None) -> list[Role]:
    """The roles of that domain; without one, those of no domain."""
    query = identity.where(roles, _ROLE, {"name": name}).where(roles.c.domain_id == (domain_id or ""))
    return identity.many(conn, Role, query)


def every(conn: sa.Connection) -> list[Role]:
    """Of all domains and of none."""
    return identity.many(conn, Role, _ROLE)


def by_ids(conn: sa.Connection, role_ids: list[str]) -> list[Role]:
    return identity.many(conn, Role, _ROLE.where(roles.c.id.in_(role_ids)).order_by(roles.c.name))


def update(conn: sa.Connection, role_id: str, changes: dict[str, Any]) -> None:
    with identity.unique("role", str(changes.get("name"))):
        conn.execute(sa.update(roles).where(roles.c.id == role_id).values(**changes))
    tokens.bump(conn)


def delete(conn: sa.Connection, role_id: str) -> None:
    """The role, and by cascade wherever it is held or implied."""
    conn.execute(sa.delete(roles).where(roles.c.id == role_id))
    tokens.bump(conn)


def inferences(conn: sa.Connection) -> list[tuple[Role, Role]]:
    """Each (role, role that it implies directly)."""
    by_id = {role.id: role for role in every(conn)}
    query = sa.select(role_inferences.c.prior_role_id, role_inferences.c.implied_role_id)
    return [(by_id[prior], by_id[implied]) for prior, implied in conn.execute(query)]


def imply(conn: sa.Connection, prior_id: str, implied_id: str) -> None:
    """Who holds the prior role holds the implied one too."""
    row = {"prior_role_id": prior_id, "implied_role_id": implied_id}
    if dialect.insert_new(conn, role_inferences, row):
        tokens.bump(conn)


def implies(conn: sa.Connection, prior_id: str, implied_id: str) -> bool:
    query = sa.select(sa.literal(1)).where(*_inference(prior_id, implied_id))
    return conn.execute(query).scalar() is not None


def unimply(conn: sa.Connection, prior_id: str, implied_id: str) -> None:
    conn.execute(sa.delete(role_inferences).where(*_inference(prior_id, implied_id)))
    tokens.bump(conn)


def _inference(prior_id: str, implied_id: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return role_inferences.c.prior_role_id == prior_id, role_inferences.c.implied_role_id == implied_id


def closure(held: sa.Select[tuple[str]]) -> sa.Select[Any]:
    """The roles of that query and all that they imply, without the domains' own.

    WITH RECURSIVE held AS
      (:held UNION SELECT implied_role_id FROM role_inferences JOIN held ON prior_role_id = role_id)
    SELECT … FROM roles WHERE id IN held AND domain_id = ''
    """
    found = held.cte("held", recursive=True)
    implied = sa.select(role_inferences.c.implied_role_id).join(
        found, role_inferences.c.prior_role_id == found.c.role_id
    )
    found = found.union(implied)
    return _ROLE.where(roles.c.id.in_(sa.select(found.c.role_id)), roles.c.domain_id == "").order_by(
        roles.c.name
    )
