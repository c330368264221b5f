"""Queries about ports, their addresses, and the servers they are plugged into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain.addresses import canonical, number_of, parse
from kilonova.domain.clock import now
from kilonova.domain.errors import BadRequest
from kilonova.domain.network import FixedIp, Port
from kilonova.domain.routers import ROUTER_OWNERS
from kilonova.store import dialect, port_security, revisions
from kilonova.store.database import Row
from kilonova.store.network_lists import Condition, Listing, Page, few
from kilonova.store.router_places import made
from kilonova.store.schema.networks import ip_allocations, networks, ports
from kilonova.store.schema.routers import floating_ips, port_forwardings, routers
from kilonova.store.schema.security_groups import port_security_groups
from kilonova.store.statement import Statement
from kilonova.store.subnets import DHCP_OWNER


def _status() -> sa.ColumnElement[str]:
    """As it is written, but for a router's: that is wired where the router is, be it up or down."""
    works = sa.exists().where(routers.c.id == ports.c.device_id, made())
    return sa.case(
        (ports.c.device_owner.not_in(ROUTER_OWNERS), ports.c.status), (works, "ACTIVE"), else_="DOWN"
    )


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
            "device_id",
            "device_owner",
            "dns_name",
            "revision_number",
        )
    },
    "tenant_id": ports.c.project_id,
    "status": _status(),
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
        conditions.append(own.ip.in_([canonical(text) for text in asked["ip_address"]]))
    if "subnet_id" in asked:
        conditions.append(own.subnet_id.in_(asked["subnet_id"]))
    if "ip_address_substr" in asked:
        parts = [
            own.ip.contains(part, autoescape=True) for part in few("fixed_ips", asked["ip_address_substr"])
        ]
        conditions.append(sa.or_(*parts))
    return sa.exists().where(*conditions)


def _with_mac(values: list[str]) -> Condition:
    return ports.c.mac_address.in_([value.lower() for value in values])


def _in_groups(values: list[str]) -> Condition:
    own = port_security_groups.c
    return sa.exists().where(own.port_id == ports.c.id, own.security_group_id.in_(values))


_listing = Listing(
    ports,
    ATTRIBUTES,
    {"fixed_ips": _with_fixed_ips, "mac_address": _with_mac, "security_groups": _in_groups},
)


# Statements on the way of a build are made once: making one costs more than running it.
@dialect.once
def _of_servers(conn: sa.Connection) -> Statement:
    query = sa.select(ports).where(
        dialect.among(conn, ports.c.device_id, "servers"), ports.c.nic.is_not(None)
    )
    return Statement(query.order_by(ports.c.device_id, ports.c.nic))


_BY_ID = sa.select(ports).where(ports.c.id.in_(sa.bindparam("ids", expanding=True)))


@dialect.once
def _addresses(conn: sa.Connection) -> Statement:
    own = ip_allocations.c
    query = sa.select(own.port_id, own.subnet_id, own.ip).where(dialect.among(conn, own.port_id, "ports"))
    return Statement(query.order_by(own.port_id, own.position))


_MACS_TAKEN = sa.select(ports.c.network_id, ports.c.mac_address).where(
    ports.c.network_id.in_(sa.bindparam("networks", expanding=True)),
    ports.c.mac_address.in_(sa.bindparam("macs", expanding=True)),
)
_INSERT = sa.insert(ports)
_GIVE = sa.insert(ip_allocations)


@dialect.once
def _delete(conn: sa.Connection) -> Statement:
    return Statement(sa.delete(ports).where(dialect.among(conn, ports.c.id, "ids")))


_FREE_FLOATING = (
    sa.update(floating_ips)
    .values(
        fixed_port_id=None,
        fixed_ip_address=None,
        updated_at=sa.bindparam("at"),
        revision_number=floating_ips.c.revision_number + 1,
    )
    .returning(floating_ips.c.router_id)
)


@dialect.once
def _free_floating(conn: sa.Connection) -> Statement:
    forwards = sa.select(port_forwardings.c.floating_ip_id).where(
        dialect.among(conn, port_forwardings.c.port_id, "ids")
    )
    leads = dialect.among(conn, floating_ips.c.fixed_port_id, "ids")
    return Statement(_FREE_FLOATING.where(sa.or_(leads, floating_ips.c.id.in_(forwards))))


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


def statuses(conn: sa.Connection, port_ids: Sequence[str]) -> dict[str, str]:
    """Port id → Neutron's status."""
    if not port_ids:
        return {}
    rows = conn.execute(
        sa.select(ports.c.id, ATTRIBUTES["status"].label("status")).where(ports.c.id.in_(port_ids))
    )
    return {row.id: row.status for row in rows}


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
    """The NICs of these servers, in their order. Three statements, however many servers."""
    if not server_ids:
        return []
    return _ports(conn, _of_servers(conn).rows(conn, {"servers": list(server_ids)}))


def of_network(conn: sa.Connection, network_id: str, but_owners: Sequence[str]) -> list[Port]:
    """Its ports, locked, but for those of these owners."""
    query = sa.select(ports).where(ports.c.network_id == network_id, ports.c.device_owner.not_in(but_owners))
    return _ports(
        conn, conn.execute(query.order_by(ports.c.id).with_for_update(of=ports, key_share=True)).all()
    )


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
    """Ports with their addresses and groups. IntegrityError if an address or a MAC is taken."""
    rows = [msgspec.structs.asdict(port) for port in new]
    for row in rows:
        del row["fixed_ips"], row["security_groups"]
    conn.execute(_INSERT, rows)
    give(conn, {port.id: port.fixed_ips for port in new})
    port_security.join(conn, {port.id: port.security_groups for port in new})


def give(conn: sa.Connection, addresses: Mapping[str, Sequence[FixedIp]]) -> None:
    """Port id → addresses that it gets."""
    rows = [
        _address(port_id, fixed, position)
        for port_id, fixed_ips in addresses.items()
        for position, fixed in enumerate(fixed_ips)
    ]
    if rows:
        conn.execute(_GIVE, rows)


def take_back(conn: sa.Connection, port_id: str) -> None:
    """The port's addresses are free."""
    conn.execute(sa.delete(ip_allocations).where(ip_allocations.c.port_id == port_id))


def add(conn: sa.Connection, addresses: Mapping[str, FixedIp]) -> None:
    """Port id → one more address, after those that it has. Two statements, however many ports."""
    if not addresses:
        return
    own = ip_allocations.c
    query = sa.select(own.port_id, sa.func.max(own.position).label("position")).group_by(own.port_id)
    rows = conn.execute(query.where(own.port_id.in_(list(addresses))))
    last = {row.port_id: row.position for row in rows}
    new = [_address(port_id, fixed, last.get(port_id, -1) + 1) for port_id, fixed in addresses.items()]
    conn.execute(_GIVE, new)


def take_back_of_subnet(conn: sa.Connection, subnet_id: str) -> None:
    """All addresses of the subnet are free."""
    conn.execute(sa.delete(ip_allocations).where(ip_allocations.c.subnet_id == subnet_id))


def free_floating(conn: sa.Connection, port: Port) -> list[str]:
    """Floating IPs, and ports of some, that led to an address the port has no more are free; which routers
    they led through."""
    kept = [fixed.ip_address for fixed in port.fixed_ips]
    gone = sa.and_(port_forwardings.c.port_id == port.id, port_forwardings.c.fixed_ip_address.not_in(kept))
    led = sa.and_(floating_ips.c.fixed_port_id == port.id, floating_ips.c.fixed_ip_address.not_in(kept))
    forwarded = floating_ips.c.id.in_(sa.select(port_forwardings.c.floating_ip_id).where(gone))
    rows = conn.execute(_FREE_FLOATING.where(sa.or_(led, forwarded)), {"at": now()}).all()
    conn.execute(sa.delete(port_forwardings).where(gone))
    return sorted({row.router_id for row in rows})


def update(conn: sa.Connection, port_ids: Sequence[str], changes: Mapping[str, Any]) -> None:
    revisions.change(conn, ports, ports.c.id.in_(port_ids), changes)


def of_rows(conn: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[Port]:
    """Rows of ``ports`` with all that belongs to them."""
    return _ports(conn, rows)


def delete(conn: sa.Connection, port_ids: Sequence[str]) -> list[str]:
    """The ports, and with them their addresses (ON DELETE CASCADE); floating IPs of theirs are free.

    Which routers those led through.
    """
    ids = list(port_ids)
    rows = _free_floating(conn).rows(conn, {"ids": ids, "at": now()})
    _delete(conn).count(conn, {"ids": ids})
    return sorted({row.router_id for row in rows})


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


def hosts_of(conn: sa.Connection, network_ids: Sequence[str]) -> list[str]:
    """The hosts that servers' ports on these networks are bound to."""
    if not network_ids:
        return []
    query = sa.select(ports.c.host).where(ports.c.network_id.in_(network_ids), ports.c.nic.is_not(None))
    return sorted(conn.scalars(query.distinct()))


def networks_on(conn: sa.Connection, host: str) -> list[str]:
    """Ids of the networks that servers' ports on that host are of."""
    query = sa.select(ports.c.network_id).where(ports.c.host == host, ports.c.nic.is_not(None)).distinct()
    return sorted(conn.scalars(query))


def nics_on(conn: sa.Connection, network_id: str) -> dict[str, str]:
    """Server id → host, of the servers with NICs on that network."""
    query = sa.select(ports.c.device_id, ports.c.host).where(
        ports.c.network_id == network_id, ports.c.nic.is_not(None)
    )
    return {row.device_id: row.host for row in conn.execute(query)}


def _address(port_id: str, fixed: FixedIp, position: int) -> dict[str, Any]:
    """A row of ``ip_allocations``."""
    number = number_of(parse(fixed.ip_address))
    return {
        "subnet_id": fixed.subnet_id,
        "number": number,
        "ip": fixed.ip_address,
        "port_id": port_id,
        "position": position,
    }


def _ports(conn: sa.Connection, rows: Sequence[Row]) -> list[Port]:
    """The rows as ports, with the addresses of all of them in one query, and their groups in another."""
    addresses: dict[str, list[FixedIp]] = {}
    ids = [row.id for row in rows]
    if rows:
        for row in _addresses(conn).rows(conn, {"ports": ids}):
            addresses.setdefault(row.port_id, []).append(FixedIp(subnet_id=row.subnet_id, ip_address=row.ip))
    groups = port_security.groups_of(conn, ids)
    return [
        Port(**row._asdict(), fixed_ips=addresses.get(row.id, []), security_groups=groups.get(row.id, []))
        for row in rows
    ]
