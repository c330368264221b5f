"""Networks' VXLAN identifiers, and which hosts a network is on: what tunnels are made of."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy import bindparam as given

from kilonova.domain.routers import INTERFACE_OWNER
from kilonova.store import dialect
from kilonova.store.schema.hosts import hosts
from kilonova.store.schema.networks import networks, ports
from kilonova.store.schema.routers import routers
from kilonova.store.statement import Statement

_OTHER = networks.alias("other")


def lock(conn: sa.Connection) -> None:
    """Nobody else gives an identifier until the transaction ends."""
    dialect.lock(conn, "segmentation-ids")


def taken(conn: sa.Connection, number: int) -> bool:
    return conn.scalar(sa.select(networks.c.id).where(networks.c.segmentation_id == number)) is not None


def first_free(conn: sa.Connection, first: int, last: int) -> int | None:
    """The lowest identifier from ``first`` to ``last`` that no network has.

    SELECT min(segmentation_id + 1) FROM networks WHERE segmentation_id >= :first AND segmentation_id < :last
    AND NOT EXISTS (SELECT * FROM networks other WHERE other.segmentation_id = networks.segmentation_id + 1)
    """
    if not taken(conn, first):
        return first
    own = networks.c.segmentation_id
    followed = sa.exists().where(_OTHER.c.segmentation_id == own + 1)
    found: int | None = conn.scalar(
        sa.select(sa.func.min(own + 1)).where(own >= first, own < last, sa.not_(followed))
    )
    return found


def give(conn: sa.Connection, network_id: str, number: int) -> None:
    """To a network that has none."""
    query = sa.update(networks).where(networks.c.id == network_id, networks.c.segmentation_id.is_(None))
    conn.execute(query.values(segmentation_id=number))


def of_networks(conn: sa.Connection, network_ids: Collection[str]) -> dict[str, int | None]:
    """Network id → its identifier; networks that are gone are missing."""
    query = sa.select(networks.c.id, networks.c.segmentation_id).where(networks.c.id.in_(sorted(network_ids)))
    return {row.id: row.segmentation_id for row in conn.execute(query)} if network_ids else {}


# Where a network is: on the hosts that its guests' ports are bound to, and of its routers that are up
_GUESTS = sa.exists().where(
    ports.c.network_id == networks.c.id, ports.c.host == hosts.c.host, ports.c.nic.is_not(None)
)
_ROUTERS = sa.exists().where(
    routers.c.host == hosts.c.host,
    routers.c.admin_state_up,
    ports.c.device_id == routers.c.id,
    ports.c.device_owner == INTERFACE_OWNER,
    ports.c.network_id == networks.c.id,
)


def places(conn: sa.Connection, network_ids: Collection[str]) -> dict[str, dict[str, str]]:
    """Network id → the hosts that it is on and that take tunnels, each with its address.

    SELECT networks.id, hosts.host, hosts.tunnel_address FROM networks, hosts
    WHERE networks.id IN (…) AND hosts.tunnel_address IS NOT NULL AND (EXISTS (…a guest's port of it there)
    OR EXISTS (…a router of it there))
    """
    found: dict[str, dict[str, str]] = {network_id: {} for network_id in network_ids}
    if not network_ids:
        return found
    every = networks.join(hosts, sa.true())
    query = (
        sa.select(networks.c.id, hosts.c.host, hosts.c.tunnel_address)
        .select_from(every)
        .where(
            networks.c.id.in_(sorted(network_ids)),
            hosts.c.tunnel_address.is_not(None),
            sa.or_(_GUESTS.correlate(networks, hosts), _ROUTERS.correlate(networks, hosts)),
        )
    )
    for row in conn.execute(query.order_by(networks.c.id, hosts.c.tunnel_address)):
        found[row.id][row.host] = row.tunnel_address
    return found


@dialect.once
def _without(conn: sa.Connection) -> Statement:
    takes = sa.exists().where(hosts.c.host == given("on"), hosts.c.tunnel_address.is_not(None))
    guests = sa.exists().where(
        ports.c.network_id == networks.c.id, ports.c.host == given("on"), ports.c.nic.is_not(None)
    )
    among = dialect.among(conn, networks.c.id, "networks")
    return Statement(sa.select(networks.c.id).where(among, takes, sa.not_(guests)))


def without_guests(conn: sa.Connection, host: str, network_ids: Collection[str]) -> list[str]:
    """Those of the networks that no guest of that host is on, if the host takes tunnels."""
    rows = _without(conn).rows(conn, {"on": host, "networks": sorted(set(network_ids))})
    return [row.id for row in rows]


def on_host(conn: sa.Connection, host: str) -> list[str]:
    """All networks that are on that host."""
    here = sa.select(ports.c.network_id).where(ports.c.host == host, ports.c.nic.is_not(None))
    led = (
        sa.select(ports.c.network_id)
        .join(routers, sa.and_(routers.c.id == ports.c.device_id, routers.c.host == host))
        .where(ports.c.device_owner == INTERFACE_OWNER)
    )
    return sorted(conn.scalars(sa.union(here, led)))
