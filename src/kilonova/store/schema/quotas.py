"""Limits that an admin set, over those of the configuration."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.store.schema.base import metadata, text

# project_id '' is every project's: the quota class "default".
quotas = sa.Table(
    "quotas",
    metadata,
    sa.Column("project_id", text(64), primary_key=True),
    sa.Column("resource", text(64), primary_key=True),
    sa.Column("hard_limit", sa.Integer, nullable=False),  # -1: none
)
