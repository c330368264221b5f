"""Servers by the time that they ran, for reports of usage."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.domain.errors import BadRequest
from kilonova.store.database import Row
from kilonova.store.schema.servers import servers

_COLUMNS = [
    servers.c.id,
    servers.c.project_id,
    servers.c.name,
    servers.c.vm_state,
    servers.c.flavor,
    servers.c.created_at,
    servers.c.launched_at,
    servers.c.terminated_at,
]


def ran(
    conn: sa.Connection,
    start: float,
    end: float,
    project_id: str | None,
    marker: str | None = None,
    limit: int | None = None,
) -> Sequence[Row]:
    """Servers that ran between those times, deleted ones too; the oldest first, after ``marker``.

    ``project_id``: None: of all. What was purged is not known any more. BadRequest: the marker is no server.
    """
    query = sa.select(*_COLUMNS).where(
        servers.c.launched_at < end,
        sa.or_(servers.c.terminated_at.is_(None), servers.c.terminated_at > start),
    )
    if project_id is not None:
        query = query.where(servers.c.project_id == project_id)
    order = sa.tuple_(servers.c.created_at, servers.c.id)
    if marker is not None:
        query = query.where(order > sa.tuple_(*_place(conn, marker)))
    return conn.execute(query.order_by(servers.c.created_at, servers.c.id).limit(limit)).all()


def _place(conn: sa.Connection, marker: str) -> tuple[float, str]:
    query = sa.select(servers.c.created_at, servers.c.id).where(servers.c.id == marker)
    row = conn.execute(query).one_or_none()
    if row is None:
        raise BadRequest(f"Marker {marker} could not be found.")
    return row.created_at, row.id
