"""The availability zones that routers can be in: those of the hosts."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.store.schema.hosts import services


def zones(conn: sa.Connection, service_down_time: float) -> dict[str, bool]:
    """Zone → whether a host of it is up."""
    up = sa.and_(sa.not_(services.c.forced_down), services.c.last_seen > now() - service_down_time)
    any_up = sa.func.max(sa.case((up, 1), else_=0)).label("any_up")
    query = sa.select(services.c.availability_zone, any_up).where(services.c.binary == "nova-compute")
    rows = conn.execute(query.group_by(services.c.availability_zone).order_by(services.c.availability_zone))
    return {row.availability_zone: bool(row.any_up) for row in rows}


def of_hosts(conn: sa.Connection, names: Sequence[str]) -> dict[str, str]:
    """Host → its zone."""
    query = sa.select(services.c.host, services.c.availability_zone).where(
        services.c.binary == "nova-compute", services.c.host.in_(names)
    )
    return {row.host: row.availability_zone for row in conn.execute(query)} if names else {}
