"""Application credentials: a user's secrets for programs, each for one project."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from kilonova.domain.identity import ApplicationCredential, Role
from kilonova.store import identity, tokens
from kilonova.store.schema.identity import (
    application_credential_roles,
    application_credentials,
    roles,
)

_c = application_credentials.c


def create(conn: sa.Connection, credential: ApplicationCredential, role_ids: Iterable[str]) -> None:
    identity.insert(conn, application_credentials, credential)
    rows = [{"application_credential_id": credential.id, "role_id": role_id} for role_id in role_ids]
    conn.execute(sa.insert(application_credential_roles), rows)


def get(conn: sa.Connection, credential_id: str) -> ApplicationCredential | None:
    query = sa.select(application_credentials).where(_c.id == credential_id)
    return identity.one(conn, ApplicationCredential, query)


def listed(conn: sa.Connection, user_id: str, *, name: str | None = None) -> list[ApplicationCredential]:
    query = sa.select(application_credentials).where(_c.user_id == user_id)
    query = identity.where(application_credentials, query, {"name": name})
    return identity.many(conn, ApplicationCredential, query)


def roles_by_credential(conn: sa.Connection, user_id: str) -> dict[str, list[Role]]:
    """Credential id → the roles that it was given, for all credentials of the user."""
    link = application_credential_roles.c
    query = (
        sa.select(
            link.application_credential_id,
            roles.c.id,
            roles.c.name,
            sa.func.nullif(roles.c.domain_id, "").label("domain_id"),
        )
        .join(roles, roles.c.id == link.role_id)
        .join(application_credentials, _c.id == link.application_credential_id)
        .where(_c.user_id == user_id)
        .order_by(roles.c.name)
    )
    found: dict[str, list[Role]] = {}
    for credential_id, role_id, name, domain_id in conn.execute(query):
        found.setdefault(credential_id, []).append(Role(id=role_id, name=name, domain_id=domain_id))
    return found


def delete(conn: sa.Connection, credential_id: str) -> None:
    """Gone, and with it the tokens it issued."""
    conn.execute(sa.delete(application_credentials).where(_c.id == credential_id))
    tokens.bump(conn)
