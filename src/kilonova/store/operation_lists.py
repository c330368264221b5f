"""Operations as lists show them, one statement a page: a server's actions, and what is going on."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.domain.errors import BadRequest
from kilonova.store import paging
from kilonova.store.database import Row
from kilonova.store.schema.operations import operations as ops
from kilonova.store.schema.operations import steps
from kilonova.store.schema.servers import servers
from kilonova.store.schema.volumes import volumes


def of_server(
    conn: sa.Connection,
    server_id: str,
    changed_since: float | None = None,
    changed_before: float | None = None,
    marker: str | None = None,
    limit: int = 1000,
) -> Sequence[Row]:
    """One page of all that was done to a server. ``marker``: a request id; BadRequest if it is none."""
    query = sa.select(ops).where(ops.c.server_id == server_id)
    if changed_since is not None:
        query = query.where(ops.c.updated_at >= changed_since)
    if changed_before is not None:
        query = query.where(ops.c.updated_at <= changed_before)
    after = None
    if marker is not None:
        last = by_request(conn, server_id, marker, newest=False)
        if last is None:
            raise BadRequest(f"Marker {marker} could not be found.")
        after = (last.created_at, last.id)
    query = paging.page(query, ops.c.created_at, ops.c.id, descending=True, after=after, limit=limit)
    return conn.execute(query).all()


def by_request(conn: sa.Connection, server_id: str, request_id: str, newest: bool = True) -> Row | None:
    """What a request did to a server: the newest of it, or the oldest. None if it did nothing."""
    query = sa.select(ops).where(ops.c.server_id == server_id, ops.c.request_id == request_id)
    order = (ops.c.created_at.desc(), ops.c.id.desc()) if newest else (ops.c.created_at, ops.c.id)
    return conn.execute(query.order_by(*order).limit(1)).one_or_none()


def going_on(conn: sa.Connection, since: float, limit: int) -> Sequence[Row]:
    """What was begun before ``since`` and is not over, the oldest first: ``record``, the ``name`` of the
    server or volume (None: of something else), ``host``, ``created_at``, the ``step`` that was told last."""
    step = sa.select(steps.c.name).where(steps.c.operation_id == ops.c.id).order_by(steps.c.id.desc())
    query = (
        sa.select(
            ops.c.record,
            sa.func.coalesce(servers.c.name, volumes.c.name).label("name"),
            ops.c.host,
            ops.c.created_at,
            step.limit(1).scalar_subquery().label("step"),
        )
        .select_from(ops)
        .outerjoin(servers, servers.c.id == ops.c.server_id)
        .outerjoin(volumes, volumes.c.id == ops.c.server_id)
        .where(ops.c.state == "open", ops.c.created_at < since)
        .order_by(ops.c.created_at, ops.c.id)
        .limit(limit)
    )
    return conn.execute(query).all()
