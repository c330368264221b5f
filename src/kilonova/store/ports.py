"""Queries about ports, their addresses, and the servers they are plugged into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.errors import BadRequest
from kilonova.domain.network import FixedIp, Port
from kilonova.store import dialect
from kilonova.store.network_lists import Condition, Listing, Page
from kilonova.store.schema.networks import ip_allocations, networks, ports
from kilonova.store.statement import Statement
from kilonova.store.subnets import DHCP_OWNER

ATTRIBUTES = {
    **{
        name: ports.c[name]
        for name in (
            "id",
            "name",
            "description",
            "project_id",
            "network_id",
            "mac_address",
            "admin_state_up",
            "port_security_enabled",
            "status",
            "device_id",
            "device_owner",
            "dns_name",
            "revision_number",
        )
    },
    "tenant_id": ports.c.project_id,
    "binding:host_id": ports.c.host,
    "binding:vnic_type": ports.c.vnic_type,
}


def _with_fixed_ips(values: list[str]) -> Condition:
    """``ip_address=…``, ``ip_address_substr=…`` and ``subnet_id=…``: one address that is all of it."""
    asked: dict[str, list[str]] = {}
    for value in values:
        name, _, wanted = value.partition("=")
        if name not in ("ip_address", "ip_address_substr", "subnet_id"):
            raise BadRequest(f"Invalid input for fixed_ips: '{value}'")
        asked.setdefault(name, []).append(wanted)
    own = ip_allocations.c
    conditions: list[Condition] = [own.port_id == ports.c.id]
    if "ip_address" in asked:
        conditions.append(own.ip.in_(asked["ip_address"]))
    if "subnet_id" in asked:
        conditions.append(own.subnet_id.in_(asked["subnet_id"]))
    if "ip_address_substr" in asked:
        parts = [own.ip.contains(part, autoescape=True) for part in asked["ip_address_substr"]]
        conditions.append(sa.or_(*parts))
    return sa.exists().where(*conditions)


def _with_mac(values: list[str]) -> Condition:
    return ports.c.mac_address.in_([value.lower() for value in values])


_listing = Listing(ports, ATTRIBUTES, {"fixed_ips": _with_fixed_ips, "mac_address": _with_mac})


# Statements on the way of a build are made once: making one costs more than running it.
_OF_SERVERS = (
    sa.select(ports)
    .where(ports.c.device_id.in_(sa.bindparam("servers", expanding=True)), ports.c.nic.is_not(None))
    .order_by(ports.c.device_id, ports.c.nic)
)
_BY_ID = sa.select(ports).where(ports.c.id.in_(sa.bindparam("ids", expanding=True)))
_ADDRESSES = (
    sa.select(ip_allocations.c.port_id, ip_allocations.c.subnet_id, ip_allocations.c.ip)
    .where(ip_allocations.c.port_id.in_(sa.bindparam("ports", expanding=True)))
    .order_by(ip_allocations.c.port_id, ip_allocations.c.position)
)
_MACS_TAKEN = sa.select(ports.c.network_id, ports.c.mac_address).where(
    ports.c.network_id.in_(sa.bindparam("networks", expanding=True)),
    ports.c.mac_address.in_(sa.bindparam("macs", expanding=True)),
)
_INSERT = sa.insert(ports)
_GIVE = sa.insert(ip_allocations)
_DELETE = sa.delete(ports).where(ports.c.id.in_(sa.bindparam("ids", expanding=True)))


def _to_be_told(conn: sa.Connection) -> list[Condition]:
    return [
        dialect.among(conn, ports.c.device_id, "servers"),
        ports.c.nic.is_not(None),
        ports.c.status != sa.bindparam("new"),
    ]


@dialect.once
def _lock_nics(conn: sa.Connection) -> Statement:
    query = sa.select(ports.c.id).where(*_to_be_told(conn)).order_by(ports.c.id)
    return Statement(query.with_for_update(key_share=True))


@dialect.once
def _set_status(conn: sa.Connection) -> Statement:
    changed = {
        "status": sa.bindparam("new"),
        "updated_at": sa.bindparam("at"),
        "revision_number": ports.c.revision_number + 1,
    }
    query = sa.update(ports).where(*_to_be_told(conn)).values(**changed)
    return Statement(query.returning(ports.c.network_id))


def _refresh_dhcp_status() -> sa.Update:
    others = ports.alias("others")
    works = sa.exists().where(
        others.c.network_id == ports.c.network_id,
        others.c.status == "ACTIVE",
        others.c.device_owner != DHCP_OWNER,
    )
    status = sa.case((works, "ACTIVE"), else_="DOWN")
    return (
        sa.update(ports)
        .where(
            ports.c.network_id.in_(sa.bindparam("networks", expanding=True)),
            ports.c.device_owner == DHCP_OWNER,
            ports.c.status != status,
        )
        .values(status=status)
    )


_REFRESH_DHCP_STATUS = _refresh_dhcp_status()
_LOCK_DHCP = (
    sa.select(ports.c.id)
    .where(
        ports.c.network_id.in_(sa.bindparam("networks", expanding=True)),
        ports.c.device_owner == DHCP_OWNER,
    )
    .order_by(ports.c.id)
    .with_for_update(key_share=True)
)


def visible_to(project_id: str | None) -> Condition:
    """Its own ports, and every port on a network of its own. None: everything (an admin)."""
    if project_id is None:
        return sa.true()
    own_network = sa.select(networks.c.id).where(networks.c.project_id == project_id)
    return sa.or_(ports.c.project_id == project_id, ports.c.network_id.in_(own_network))


def page(conn: sa.Connection, asked: Page, project_id: str | None) -> tuple[list[Port], bool, bool] | None:
    """Ports, more after, more before; None if the marker is unknown."""
    found = _listing.page(conn, asked, visible_to(project_id))
    return None if found is None else (_ports(conn, found[0]), found[1], found[2])


def get(conn: sa.Connection, port_id: str, project_id: str | None, for_update: bool = False) -> Port | None:
    """The port, if that project sees it. ``for_update``: nobody else changes it meanwhile."""
    query = sa.select(ports).where(ports.c.id == port_id, visible_to(project_id))
    if for_update:
        query = query.with_for_update(of=ports, key_share=True)
    rows = conn.execute(query).all()
    return _ports(conn, rows)[0] if rows else None


def lock_server(conn: sa.Connection, server_id: str) -> None:
    """Nobody else gives ports to this server, or takes them from it, until the transaction ends."""
    dialect.lock(conn, "server-ports", server_id)


def by_id(conn: sa.Connection, port_ids: Sequence[str], for_update: bool = False) -> dict[str, Port]:
    if not port_ids:
        return {}
    query = _BY_ID.order_by(ports.c.id).with_for_update(key_share=True) if for_update else _BY_ID
    rows = conn.execute(query, {"ids": port_ids}).all()
    return {port.id: port for port in _ports(conn, rows)}


def of_servers(conn: sa.Connection, server_ids: Sequence[str]) -> list[Port]:
    """The NICs of these servers, in their order. Two statements, however many servers."""
    if not server_ids:
        return []
    rows = conn.execute(_OF_SERVERS, {"servers": server_ids}).all()
    return _ports(conn, rows)


def dhcp_port(conn: sa.Connection, network_id: str) -> Port | None:
    rows = conn.execute(
        sa.select(ports).where(ports.c.network_id == network_id, ports.c.device_owner == DHCP_OWNER)
    ).all()
    return _ports(conn, rows)[0] if rows else None


def server_at(conn: sa.Connection, network_id: str, ip: str) -> str | None:
    """Id of the server whose NIC has that address on that network."""
    found: str | None = conn.scalar(
        sa.select(ports.c.device_id)
        .join(ip_allocations, ip_allocations.c.port_id == ports.c.id)
        .where(ports.c.network_id == network_id, ports.c.nic.is_not(None), ip_allocations.c.ip == ip)
    )
    return found


def insert(conn: sa.Connection, new: Sequence[Port]) -> None:
    """Ports with their addresses. IntegrityError if an address or a MAC is taken: nobody checked."""
    rows = [msgspec.structs.asdict(port) for port in new]
    for row in rows:
        del row["fixed_ips"]
    conn.execute(_INSERT, rows)
    give(conn, {port.id: port.fixed_ips for port in new})


def give(conn: sa.Connection, addresses: Mapping[str, Sequence[FixedIp]]) -> None:
    """Port id → addresses that it gets."""
    rows = [
        {
            "subnet_id": fixed.subnet_id,
            "number": int(IPv4Address(fixed.ip_address)),
            "ip": fixed.ip_address,
            "port_id": port_id,
            "position": position,
        }
        for port_id, fixed_ips in addresses.items()
        for position, fixed in enumerate(fixed_ips)
    ]
    if rows:
        conn.execute(_GIVE, rows)


def take_back(conn: sa.Connection, port_id: str) -> None:
    """The port's addresses are free."""
    conn.execute(sa.delete(ip_allocations).where(ip_allocations.c.port_id == port_id))


def update(conn: sa.Connection, port_ids: Sequence[str], changes: Mapping[str, Any]) -> None:
    conn.execute(
        sa.update(ports)
        .where(ports.c.id.in_(port_ids))
        .values(**changes, updated_at=now(), revision_number=ports.c.revision_number + 1)
    )


def delete(conn: sa.Connection, port_ids: Sequence[str]) -> None:
    """The ports, and with them their addresses (ON DELETE CASCADE)."""
    conn.execute(_DELETE, {"ids": port_ids})


def set_status(conn: sa.Connection, server_ids: Sequence[str], status: str) -> list[str]:
    """The status of these servers' NICs; ids of the networks where one changed."""
    told = {"servers": list(server_ids), "new": status}
    if len(server_ids) > 1 and dialect.is_postgresql(conn):  # in one order, whatever that of the UPDATE
        _lock_nics(conn).rows(conn, told)
    rows = _set_status(conn).rows(conn, told | {"at": now()})
    return sorted({row.network_id for row in rows})


def refresh_dhcp_status(conn: sa.Connection, network_ids: Sequence[str]) -> None:
    """A DHCP port is ACTIVE while any NIC on its network is: the hosts of these answer its address."""
    if dialect.is_postgresql(conn):  # so that it sees what others, who do the same now, have changed
        conn.execute(_LOCK_DHCP, {"networks": network_ids})
    conn.execute(_REFRESH_DHCP_STATUS, {"networks": network_ids})


def macs_taken(conn: sa.Connection, network_ids: Sequence[str], macs: Iterable[str]) -> set[tuple[str, str]]:
    """(network id, MAC) of those that a port already has."""
    rows = conn.execute(_MACS_TAKEN, {"networks": network_ids, "macs": list(macs)})
    return {(row.network_id, row.mac_address) for row in rows}


def in_use(conn: sa.Connection, network_id: str) -> list[str]:
    """Ids of a few ports that keep the network from being deleted."""
    rows = conn.execute(
        sa.select(ports.c.id)
        .where(ports.c.network_id == network_id, ports.c.device_owner != DHCP_OWNER)
        .limit(3)
    )
    return [row.id for row in rows]


def plugged_into_servers(conn: sa.Connection, network_id: str) -> bool:
    query = sa.exists().where(ports.c.network_id == network_id, ports.c.nic.is_not(None))
    return bool(conn.scalar(sa.select(query)))


def _ports(conn: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[Port]:
    """The rows as ports, with the addresses of all of them in one query."""
    addresses: dict[str, list[FixedIp]] = {}
    if rows:
        for row in conn.execute(_ADDRESSES, {"ports": [row.id for row in rows]}):
            addresses.setdefault(row.port_id, []).append(FixedIp(subnet_id=row.subnet_id, ip_address=row.ip))
    return [Port(**row._mapping, fixed_ips=addresses.get(row.id, [])) for row in rows]
