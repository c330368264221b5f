"""Operations and their steps: the queue, the journal and the history in one (invariants 2, 3, 9)."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.store.schema.base import Json, metadata, serial, text, uuid_column

operations = sa.Table(
    "operations",
    metadata,
    uuid_column("id", primary_key=True),
    sa.Column("kind", text(32), nullable=False),
    sa.Column("record", text(32), nullable=False),  # the name in the list of instance actions
    uuid_column("server_id", nullable=False),
    sa.Column("project_id", text(64), nullable=False),
    sa.Column("user_id", text(64), nullable=False),
    sa.Column("request_id", text(64), nullable=False),
    sa.Column("state", text(16), nullable=False),  # open, done, failed, superseded
    sa.Column("owner", text(255)),
    sa.Column("lease_until", sa.Float, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("host", text(255)),
    sa.Column("tried_hosts", Json(list[str]), nullable=False),
    sa.Column("alternates", Json(list[str]), nullable=False),
    sa.Column("payload", Json(), nullable=False),
    sa.Column("message", text()),
    sa.Column("details", text()),
    sa.Column("deadline", sa.Float, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float),
    sa.Index("ix_operations_server", "server_id", "created_at"),
    sa.Index(
        "ix_operations_open_lease",
        "lease_until",
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    ),
    # One thing at a time happens to a server; a delete supersedes what is open.
    sa.Index(
        "uq_operations_open_server",
        "server_id",
        unique=True,
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    ),
)

steps = sa.Table(
    "steps",
    metadata,
    sa.Column("id", serial(), primary_key=True, autoincrement=True),
    uuid_column("operation_id", nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("name", text(64), nullable=False),
    sa.Column("host", text(255)),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float),
    sa.Column("result", text(16)),  # NULL while it runs; Success, Skipped, Error, Undone
    sa.Column("message", text()),
    sa.Column("details", text()),
    sa.Index("ix_steps_operation", "operation_id", "id"),
    # A step that is told twice is one step.
    sa.UniqueConstraint("operation_id", "epoch", "name", "started_at"),
)
