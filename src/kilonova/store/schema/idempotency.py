"""Answers of requests that must be done only once, for whoever asks again with the same Idempotency-Key."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.store.schema.base import metadata, text

# Nothing here can be read without the caller's key: api/idempotency.py derives and seals.
idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("id", text(64), primary_key=True),
    sa.Column("fingerprint", text(64), nullable=False),
    sa.Column("request_id", text(64), nullable=False),
    sa.Column("answer", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False, index=True),
)
