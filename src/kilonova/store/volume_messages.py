"""What projects are told of failures that no answer could tell them (Cinder's user messages)."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.store.database import Row
from kilonova.store.schema.volumes import volume_messages as table

KEYS = {
    name: table.c[name]
    for name in ("id", "event_id", "resource_uuid", "resource_type", "request_id", "created_at")
} | {"message_level": table.c.level}
"""What a list may be ordered by."""

LIFETIME = 30 * 86400.0
"""Seconds (Cinder's message_ttl)."""


def insert(
    conn: sa.Connection, resource_type: str, resource: Row, request_id: str, event_id: str, text: str
) -> None:
    """``resource``: a volume or a snapshot."""
    at = now()
    conn.execute(
        sa.insert(table),
        {
            "id": str(uuid.uuid4()),
            "project_id": resource.project_id,
            "request_id": request_id,
            "resource_type": resource_type,
            "resource_uuid": resource.id,
            "event_id": event_id,
            "level": "ERROR",
            "text": text,
            "created_at": at,
            "expires_at": at + LIFETIME,
        },
    )


def get(conn: sa.Connection, message_id: str, project_id: str | None = None) -> Row | None:
    query = sa.select(table).where(table.c.id == message_id)
    if project_id is not None:
        query = query.where(table.c.project_id == project_id)
    return conn.execute(query).first()


def delete(conn: sa.Connection, message_id: str) -> None:
    conn.execute(sa.delete(table).where(table.c.id == message_id))


def forget_expired(conn: sa.Connection) -> None:
    conn.execute(sa.delete(table).where(table.c.expires_at < now()))
