"""Limits of networks, subnets, ports, security groups and rules that an admin set for a project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from kilonova.store import dialect
from kilonova.store.schema.network_rbac import address_group_rbac, network_rbac, security_group_rbac
from kilonova.store.schema.networks import network_quotas as quotas
from kilonova.store.schema.networks import networks, ports, subnet_pools, subnets
from kilonova.store.schema.routers import floating_ips, routers
from kilonova.store.schema.security_groups import security_group_rules, security_groups
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


def lock(conn: sa.Connection, project_id: str, resource: str) -> None:
    """Until the transaction ends, nobody else of the project makes any: what is counted now stays so."""
    dialect.lock(conn, "network-quota", project_id, resource)


def room(conn: sa.Connection, project_id: str, resource: str, default: int) -> int | None:
    """How many more of ``resource`` the project may have (never below 0); None: no limit."""
    limit, used = conn.execute(_ROOM[resource], {"project": project_id, "default": default}).one()
    return None if limit < 0 else max(0, limit - used)


def used(conn: sa.Connection, project_id: str) -> dict[str, int]:
    """Resource → how many the project has."""
    counts = conn.execute(sa.select(*_COUNTS.values()), {"project": project_id}).one()
    return dict(zip(_COUNTS, counts, strict=True))


def _count(table: sa.Table) -> Any:
    """(SELECT count(*) FROM table WHERE project_id = :project)"""
    query = sa.select(sa.func.count()).where(table.c.project_id == sa.bindparam("project"))
    if table is ports:  # DHCP's ports are the network's own and count for nobody
        query = query.where(ports.c.device_owner != DHCP_OWNER)
    return query.scalar_subquery()


def _limit(resource: str) -> Any:
    """The project's own limit, or the default."""
    own = sa.select(quotas.c.limit).where(
        quotas.c.project_id == sa.bindparam("project"), quotas.c.resource == resource
    )
    return sa.func.coalesce(own.scalar_subquery(), sa.bindparam("default", type_=sa.Integer))


_COUNTS = {
    "network": _count(networks),
    "subnet": _count(subnets),
    "port": _count(ports),
    "router": _count(routers),
    "floatingip": _count(floating_ips),
    "security_group": _count(security_groups),
    "security_group_rule": _count(security_group_rules),
    "subnetpool": _count(subnet_pools),
    "rbac_policy": _count(network_rbac) + _count(security_group_rbac) + _count(address_group_rbac),
}
_ROOM = {name: sa.select(_limit(name), count) for name, count in _COUNTS.items()}
