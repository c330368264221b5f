"""Limits of networks, subnets and ports that an admin set for a project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from kilonova.store.schema.networks import network_quotas as quotas
from kilonova.store.schema.networks import networks, ports, subnets
from kilonova.store.subnets import DHCP_OWNER


def of(conn: sa.Connection, project_id: str) -> dict[str, int]:
    """Resource → limit, only where one was set."""
    rows = conn.execute(sa.select(quotas.c.resource, quotas.c.limit).where(quotas.c.project_id == project_id))
    return {row.resource: row.limit for row in rows}


def every(conn: sa.Connection) -> dict[str, dict[str, int]]:
    """Project → resource → limit, for each project that has limits of its own."""
    found: dict[str, dict[str, int]] = {}
    for row in conn.execute(sa.select(quotas).order_by(quotas.c.project_id)):
        found.setdefault(row.project_id, {})[row.resource] = row.limit
    return found


def put(conn: sa.Connection, project_id: str, limits: Mapping[str, int]) -> None:
    """These limits, beside the others that the project has."""
    conn.execute(
        sa.delete(quotas).where(quotas.c.project_id == project_id, quotas.c.resource.in_(list(limits)))
    )
    rows = [{"project_id": project_id, "resource": name, "limit": value} for name, value in limits.items()]
    if rows:
        conn.execute(sa.insert(quotas), rows)


def delete(conn: sa.Connection, project_id: str) -> bool:
    """Back to the defaults; whether there was anything."""
    return conn.execute(sa.delete(quotas).where(quotas.c.project_id == project_id)).rowcount > 0


def room(conn: sa.Connection, project_id: str, resource: str, default: int) -> int | None:
    """How many more of ``resource`` the project may have (never below 0); None: no limit."""
    own = sa.select(quotas.c.limit).where(quotas.c.project_id == project_id, quotas.c.resource == resource)
    limit, used = conn.execute(
        sa.select(
            sa.func.coalesce(own.scalar_subquery(), default),
            _count(project_id, resource).scalar_subquery(),
        )
    ).one()
    return None if limit < 0 else max(0, limit - used)


def used(conn: sa.Connection, project_id: str) -> dict[str, int]:
    """Resource → how many the project has."""
    names = list(_TABLES)
    counts = conn.execute(sa.select(*(_count(project_id, name).scalar_subquery() for name in names))).one()
    return dict(zip(names, counts, strict=True))


_TABLES = {"network": networks, "subnet": subnets, "port": ports}


def _count(project_id: str, resource: str) -> sa.Select[Any]:
    """DHCP's ports are the network's own and count for nobody."""
    table = _TABLES[resource]
    query = sa.select(sa.func.count()).where(table.c.project_id == project_id)
    return query.where(ports.c.device_owner != DHCP_OWNER) if resource == "port" else query
