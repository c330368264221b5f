"""Host aggregates: which hosts an admin has put together, and what is said of them."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.store.schema.base import metadata, serial, text, uuid_column

aggregates = sa.Table(
    "aggregates",
    metadata,
    sa.Column("id", serial(), primary_key=True, autoincrement=True),
    uuid_column("uuid", nullable=False, unique=True),
    sa.Column("name", text(255), nullable=False, unique=True),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float),
    sqlite_autoincrement=True,
)

aggregate_hosts = sa.Table(
    "aggregate_hosts",
    metadata,
    sa.Column("aggregate_id", sa.ForeignKey("aggregates.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("host", text(255), primary_key=True, index=True),
)

aggregate_metadata = sa.Table(
    "aggregate_metadata",
    metadata,
    sa.Column("aggregate_id", sa.ForeignKey("aggregates.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("key", text(255), primary_key=True),
    sa.Column("value", text(255), nullable=False),
)
