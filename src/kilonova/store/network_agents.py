"""What hosts' reports say of their networks: the hosts that do what Neutron has agents for."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.network import PlugKind
from kilonova.store.schema.hosts import hosts, services
from kilonova.store.schema.networks import ports
from kilonova.store.schema.routers import routers


class Host(NamedTuple):
    """``routers``, ``networks``: how many it has. ``enabled``: it is given servers and routers."""

    id: str
    name: str
    zone: str
    plug: PlugKind
    tunnel_address: str | None
    alive: bool
    enabled: bool
    created_at: float
    last_seen: float
    routers: int
    networks: int


def serving(conn: sa.Connection, service_down_time: float) -> list[Host]:
    """The hosts whose networks are real: they follow what changes. Three statements."""
    alive = sa.and_(sa.not_(services.c.forced_down), services.c.last_seen > now() - service_down_time)
    query = (
        sa.select(
            hosts.c.id,
            hosts.c.host,
            hosts.c.plug,
            hosts.c.tunnel_address,
            services.c.availability_zone,
            services.c.disabled,
            services.c.created_at,
            services.c.last_seen,
            alive.label("alive"),
        )
        .join(services, services.c.id == hosts.c.service_id)
        .where(hosts.c.follows_network.is_(sa.true()))
        .order_by(hosts.c.host)
    )
    of_routers = sa.select(routers.c.host, sa.func.count().label("number")).group_by(routers.c.host)
    of_networks = (
        sa.select(ports.c.host, sa.func.count(ports.c.network_id.distinct()).label("number"))
        .where(ports.c.nic.is_not(None))
        .group_by(ports.c.host)
    )
    has_routers = {row.host: row.number for row in conn.execute(of_routers)}
    has_networks = {row.host: row.number for row in conn.execute(of_networks)}
    return [
        Host(
            id=row.id,
            name=row.host,
            zone=row.availability_zone,
            plug=row.plug or "bridge",
            tunnel_address=row.tunnel_address,
            alive=bool(row.alive),
            enabled=not row.disabled,
            created_at=row.created_at,
            last_seen=row.last_seen,
            routers=has_routers.get(row.host, 0),
            networks=has_networks.get(row.host, 0),
        )
        for row in conn.execute(query)
    ]
