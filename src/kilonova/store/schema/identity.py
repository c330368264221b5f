"""Identity: domains, projects, users, groups, roles, their assignments, and what voids a token.

Ids are Keystone's: UUIDs in hex without dashes; the first domain's id is ``default``.
"""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.store.schema.base import Json, metadata, text, uuid_column

_NAME = text(255)


def _owner(table: str, column: str, **kwargs: bool) -> sa.Column[str]:
    return uuid_column(column, sa.ForeignKey(f"{table}.id", ondelete="CASCADE"), nullable=False, **kwargs)


domains = sa.Table(
    "domains",
    metadata,
    uuid_column("id", primary_key=True),
    sa.Column("name", _NAME, nullable=False, unique=True),
    sa.Column("description", text(), nullable=False, default=""),
    sa.Column("enabled", sa.Boolean, nullable=False, default=True),
    sa.Column("token_epoch", sa.Integer, nullable=False, default=0),
    sa.Column("extra", Json, nullable=False),
    sa.Column("tags", Json, nullable=False),
)

projects = sa.Table(
    "projects",
    metadata,
    uuid_column("id", primary_key=True),
    _owner("domains", "domain_id"),
    sa.Column("name", _NAME, nullable=False),
    uuid_column("parent_id", sa.ForeignKey("projects.id"), nullable=True, index=True),
    sa.Column("description", text(), nullable=False, default=""),
    sa.Column("enabled", sa.Boolean, nullable=False, default=True),
    sa.Column("token_epoch", sa.Integer, nullable=False, default=0),
    sa.Column("extra", Json, nullable=False),
    sa.Column("tags", Json, nullable=False),
    sa.UniqueConstraint("domain_id", "name"),
)

users = sa.Table(
    "users",
    metadata,
    uuid_column("id", primary_key=True),
    _owner("domains", "domain_id"),
    sa.Column("name", _NAME, nullable=False),
    sa.Column("password_hash", text()),
    sa.Column("enabled", sa.Boolean, nullable=False, default=True),
    uuid_column("default_project_id", nullable=True, index=True),
    sa.Column("token_epoch", sa.Integer, nullable=False, default=0),
    sa.Column("extra", Json, nullable=False),
    sa.UniqueConstraint("domain_id", "name"),
)

groups = sa.Table(
    "groups",
    metadata,
    uuid_column("id", primary_key=True),
    _owner("domains", "domain_id"),
    sa.Column("name", _NAME, nullable=False),
    sa.Column("description", text(), nullable=False, default=""),
    sa.Column("extra", Json, nullable=False),
    sa.UniqueConstraint("domain_id", "name"),
)

group_members = sa.Table(
    "group_members",
    metadata,
    _owner("users", "user_id", primary_key=True),
    _owner("groups", "group_id", primary_key=True, index=True),
)

roles = sa.Table(
    "roles",
    metadata,
    uuid_column("id", primary_key=True),
    sa.Column("name", _NAME, nullable=False),
    # '' for a role of every domain: NULLs would all be different to the unique constraint.
    uuid_column("domain_id", nullable=False, default=""),
    sa.Column("description", text()),
    sa.Column("extra", Json, nullable=False),
    sa.UniqueConstraint("domain_id", "name"),
)

role_inferences = sa.Table(
    "role_inferences",
    metadata,
    _owner("roles", "prior_role_id", primary_key=True),
    _owner("roles", "implied_role_id", primary_key=True, index=True),
)

# actor_id and target_id point to one of two or three tables, so no foreign key: who deletes a user, a group,
# a project or a domain deletes its assignments in the same transaction.
role_assignments = sa.Table(
    "role_assignments",
    metadata,
    sa.Column("target", text(8), primary_key=True),
    uuid_column("target_id", primary_key=True),
    sa.Column("actor", text(8), primary_key=True),
    uuid_column("actor_id", primary_key=True),
    _owner("roles", "role_id", primary_key=True, index=True),
    sa.Index(None, "actor_id"),
)

application_credentials = sa.Table(
    "application_credentials",
    metadata,
    uuid_column("id", primary_key=True),
    _owner("users", "user_id"),
    _owner("projects", "project_id", index=True),
    sa.Column("name", _NAME, nullable=False),
    sa.Column("description", text()),
    sa.Column("secret_hash", text(), nullable=False),
    sa.Column("unrestricted", sa.Boolean, nullable=False, default=False),
    sa.Column("expires_at", sa.Float),
    sa.UniqueConstraint("user_id", "name"),
)

application_credential_roles = sa.Table(
    "application_credential_roles",
    metadata,
    _owner("application_credentials", "application_credential_id", primary_key=True),
    _owner("roles", "role_id", primary_key=True, index=True),
)

revoked_tokens = sa.Table(
    "revoked_tokens",
    metadata,
    sa.Column("audit_id", text(22), primary_key=True),
    sa.Column("expires_at", sa.Float, nullable=False, index=True),
)

# One row. Each write that can make a valid token invalid, or change its roles, counts it up.
token_generation = sa.Table(
    "token_generation",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("value", sa.Integer, nullable=False),
)
