"""The passwords that guests have told: encrypted by the guest, for who has the server's private key."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.store.schema.base import metadata, text, uuid_column

server_passwords = sa.Table(
    "server_passwords",
    metadata,
    uuid_column("server_id", sa.ForeignKey("servers.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("password", text(), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)
