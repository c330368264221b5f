"""Numbers for those who watch: each is one query over an index, cheap enough for every few seconds."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.store.schema.hosts import services
from kilonova.store.schema.operations import operations


def open_operations(conn: sa.Connection) -> dict[str, int]:
    """Kind → how many. The open ones have indexes of their own."""
    query = sa.select(operations.c.kind, sa.func.count().label("open")).where(operations.c.state == "open")
    return {row.kind: row.open for row in conn.execute(query.group_by(operations.c.kind))}


def hosts(conn: sa.Connection, down_time: float) -> dict[str, int]:
    """``up``, ``down`` (no sign of life for ``down_time`` seconds, or forced) and ``disabled`` → how many."""
    up = sa.and_(sa.not_(services.c.forced_down), services.c.last_seen > now() - down_time)
    state = sa.case((sa.not_(up), "down"), (services.c.disabled, "disabled"), else_="up").label("state")
    query = sa.select(state, sa.func.count().label("number")).where(services.c.binary == "nova-compute")
    found = {row.state: row.number for row in conn.execute(query.group_by(state))}
    return {name: found.get(name, 0) for name in ("up", "down", "disabled")}
