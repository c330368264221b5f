"""Public keys that users keep, to be put into their servers."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.store.schema.base import metadata, serial, text

keypairs = sa.Table(
    "keypairs",
    metadata,
    sa.Column("id", serial(), primary_key=True, autoincrement=True),
    sa.Column("user_id", text(64), nullable=False),
    sa.Column("name", text(255), nullable=False),
    sa.Column("fingerprint", text(64), nullable=False),
    sa.Column("public_key", text(), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.UniqueConstraint("user_id", "name"),
)
