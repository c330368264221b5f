"""Queries about routers, their ports, and the hosts that they are on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain.network import Port
from kilonova.domain.routers import INTERFACE_OWNER, ROUTER_OWNERS, Router
from kilonova.store import ports as port_store
from kilonova.store import revisions
from kilonova.store.network_lists import Condition, Listing, Page
from kilonova.store.router_places import lives, made, refused_by
from kilonova.store.schema.hosts import services
from kilonova.store.schema.networks import ip_allocations, networks, ports, subnets
from kilonova.store.schema.routers import floating_ips, routers


def _status() -> sa.ColumnElement[str]:
    """ACTIVE: it is up, and a host has made it if it has anything to do. One that no host has, or that its
    host cannot make, works nowhere.

    CASE WHEN admin_state_up AND (made() OR gateway_port_id IS NULL AND NOT EXISTS (its interfaces))
    THEN 'ACTIVE' ELSE 'DOWN' END
    """
    joins = sa.exists().where(ports.c.device_id == routers.c.id, ports.c.device_owner == INTERFACE_OWNER)
    idle = sa.and_(routers.c.gateway_port_id.is_(None), ~joins)
    return sa.case((sa.and_(routers.c.admin_state_up, sa.or_(made(), idle)), "ACTIVE"), else_="DOWN")


ATTRIBUTES = {
    **{
        name: routers.c[name]
        for name in ("id", "name", "description", "project_id", "admin_state_up", "revision_number")
    },
    "tenant_id": routers.c.project_id,
    "status": _status(),
}
_listing = Listing(routers, ATTRIBUTES, {})

_GATEWAY = ports.alias("gateway")


def visible_to(project_id: str | None) -> Condition:
    """Its own. None: everything (an admin)."""
    return sa.true() if project_id is None else routers.c.project_id == project_id


def page(conn: sa.Connection, asked: Page, project_id: str | None) -> tuple[list[Router], bool, bool] | None:
    """Routers, more after, more before; None if the marker is unknown."""
    found = _listing.page(conn, asked, visible_to(project_id))
    return None if found is None else ([_router(row) for row in found[0]], found[1], found[2])


def get(
    conn: sa.Connection, router_id: str, project_id: str | None, for_update: bool = False
) -> Router | None:
    """The router, if that project sees it.

    ``for_update``: nobody else changes it, its ports, or which floating IPs lead through it, meanwhile.
    """
    query = sa.select(routers).where(routers.c.id == router_id, visible_to(project_id))
    row = conn.execute(query.with_for_update(key_share=True) if for_update else query).first()
    return None if row is None else _router(row)


def insert(conn: sa.Connection, router: Router) -> None:
    conn.execute(sa.insert(routers), msgspec.structs.asdict(router))


def update(conn: sa.Connection, router_id: str, changes: Mapping[str, Any]) -> None:
    revisions.change(conn, routers, routers.c.id == router_id, changes)


def delete(conn: sa.Connection, router_id: str) -> None:
    """The router alone: its ports must be gone. A floating IP whose port was taken away names it still."""
    conn.execute(sa.update(floating_ips).where(floating_ips.c.router_id == router_id).values(router_id=None))
    conn.execute(sa.delete(routers).where(routers.c.id == router_id))


def statuses(conn: sa.Connection, router_ids: Sequence[str]) -> dict[str, str]:
    """Router id → Neutron's status."""
    rows = conn.execute(
        sa.select(routers.c.id, ATTRIBUTES["status"].label("status")).where(routers.c.id.in_(router_ids))
    )
    return {row.id: row.status for row in rows}


# Its ports
def interfaces(conn: sa.Connection, router_ids: Sequence[str]) -> list[Port]:
    """The ports of these routers on their projects' networks, in a stable order. Two statements."""
    if not router_ids:
        return []
    rows = conn.execute(
        sa.select(ports)
        .where(ports.c.device_id.in_(router_ids), ports.c.device_owner == INTERFACE_OWNER)
        .order_by(ports.c.created_at, ports.c.id)
    ).all()
    return port_store.of_rows(conn, rows)


def gateways(conn: sa.Connection, several: Sequence[Router]) -> dict[str, Port]:
    """Router id → its port on an external network. Two statements."""
    by_port = port_store.by_id(conn, sorted(r.gateway_port_id for r in several if r.gateway_port_id))
    return {r.id: by_port[r.gateway_port_id] for r in several if r.gateway_port_id in by_port}


def leading_out(conn: sa.Connection, external_id: str, subnet_id: str) -> str | None:
    """Id of the router that joins that subnet to that external network; first the one that is its gateway.

    SELECT routers.id FROM routers
    JOIN ports gateway ON gateway.id = routers.gateway_port_id AND gateway.network_id = :external
    JOIN ports ON ports.device_id = routers.id AND ports.device_owner = 'network:router_interface'
    JOIN ip_allocations ON ip_allocations.port_id = ports.id AND ip_allocations.subnet_id = :subnet
    JOIN subnets ON subnets.id = :subnet
    ORDER BY ip_allocations.ip <> subnets.gateway_ip, routers.id LIMIT 1
    """
    its_gateway = sa.func.coalesce(ip_allocations.c.ip == subnets.c.gateway_ip, sa.false())
    found: str | None = conn.scalar(
        sa.select(routers.c.id)
        .join(
            _GATEWAY,
            sa.and_(_GATEWAY.c.id == routers.c.gateway_port_id, _GATEWAY.c.network_id == external_id),
        )
        .join(ports, sa.and_(ports.c.device_id == routers.c.id, ports.c.device_owner == INTERFACE_OWNER))
        .join(
            ip_allocations,
            sa.and_(ip_allocations.c.port_id == ports.c.id, ip_allocations.c.subnet_id == subnet_id),
        )
        .join(subnets, subnets.c.id == ip_allocations.c.subnet_id)
        .order_by(sa.case((its_gateway, 0), else_=1), routers.c.id)
        .limit(1)
    )
    return found


def gateways_on(conn: sa.Connection, network_id: str) -> bool:
    """Whether a router has its gateway on that network, or a floating IP is of it."""
    router = sa.exists().where(routers.c.gateway_port_id == ports.c.id, ports.c.network_id == network_id)
    floating = sa.exists().where(floating_ips.c.floating_network_id == network_id)
    return bool(conn.scalar(sa.select(sa.or_(router, floating))))


def routed_gateways(conn: sa.Connection, network_ids: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Network id → those gateway addresses of its subnets that a router has. None: of every network."""
    query = (
        sa.select(subnets.c.network_id, ip_allocations.c.ip)
        .join(ip_allocations, ip_allocations.c.subnet_id == subnets.c.id)
        .join(ports, ports.c.id == ip_allocations.c.port_id)
        .where(ports.c.device_owner == INTERFACE_OWNER, ip_allocations.c.ip == subnets.c.gateway_ip)
        .order_by(subnets.c.network_id, ip_allocations.c.ip)
    )
    if network_ids is not None:
        query = query.where(subnets.c.network_id.in_(network_ids))
    found: dict[str, list[str]] = {}
    for row in conn.execute(query):
        found.setdefault(row.network_id, []).append(row.ip)
    return found


# Their hosts
def on_host(conn: sa.Connection, host: str) -> list[Router]:
    rows = conn.execute(sa.select(routers).where(routers.c.host == host).order_by(routers.c.id))
    return [_router(row) for row in rows]


def hosts_of(conn: sa.Connection, router_ids: Sequence[str]) -> list[str]:
    if not router_ids:
        return []
    return sorted(set(conn.scalars(sa.select(routers.c.host).where(routers.c.id.in_(router_ids)))))


def hosts_on(conn: sa.Connection, network_id: str) -> list[str]:
    """The hosts of the routers with an interface or their gateway on that network."""
    on_it = sa.select(ports.c.device_id).where(
        ports.c.network_id == network_id, ports.c.device_owner.in_(ROUTER_OWNERS)
    )
    return sorted(set(conn.scalars(sa.select(routers.c.host).where(routers.c.id.in_(on_it)))))


def homeless(conn: sa.Connection, service_down_time: float) -> list[Router]:
    """Routers with a port whose host is none, is down, or says that it cannot make them."""
    alive = sa.exists().where(services.c.host == routers.c.host, lives(service_down_time))
    used = sa.exists().where(ports.c.device_id == routers.c.id, ports.c.device_owner == INTERFACE_OWNER)
    rows = conn.execute(
        sa.select(routers)
        .where(
            sa.or_(~alive, refused_by(routers.c.host)), sa.or_(used, routers.c.gateway_port_id.is_not(None))
        )
        .order_by(routers.c.id)
    )
    return [_router(row) for row in rows]


def move(conn: sa.Connection, router_id: str, old: str, new: str) -> bool:
    """The router is on another host; False if it was not on ``old`` any more."""
    changed = conn.execute(
        sa.update(routers).where(routers.c.id == router_id, routers.c.host == old).values(host=new)
    )
    return changed.rowcount > 0


def networks_of(conn: sa.Connection, network_ids: Sequence[str]) -> dict[str, int]:
    """Network id → its MTU."""
    if not network_ids:
        return {}
    rows = conn.execute(sa.select(networks.c.id, networks.c.mtu).where(networks.c.id.in_(network_ids)))
    return {row.id: row.mtu for row in rows}


def _router(row: sa.Row[Any]) -> Router:
    return Router(**row._mapping)
