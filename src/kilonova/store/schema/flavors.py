"""Flavors, and which projects may use the private ones."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.store.schema.base import Json, metadata, text

flavors = sa.Table(
    "flavors",
    metadata,
    sa.Column("id", text(255), primary_key=True),
    sa.Column("name", text(255), nullable=False, unique=True),
    sa.Column("vcpus", sa.Integer, nullable=False),
    sa.Column("memory_mb", sa.Integer, nullable=False),
    sa.Column("root_gb", sa.Integer, nullable=False),
    sa.Column("ephemeral_gb", sa.Integer, nullable=False),
    sa.Column("swap_mb", sa.Integer, nullable=False),
    sa.Column("rxtx_factor", sa.Float, nullable=False),
    sa.Column("is_public", sa.Boolean, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("description", text()),
    sa.Column("extra_specs", Json(dict[str, str]), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float),
)

flavor_access = sa.Table(
    "flavor_access",
    metadata,
    sa.Column("flavor_id", sa.ForeignKey("flavors.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("project_id", text(255), primary_key=True),
)

# One row once the default flavors were made: an admin who deletes them all does not want them back.
flavor_seed = sa.Table(
    "flavor_seed",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seeded_at", sa.Float, nullable=False),
)
