"""What a build asks of the network: the ports of a server, made, bound, and given back.

Every function runs inside one transaction, so that a server has all of its ports or none.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.config import Config
from kilonova.domain.errors import BuildAborted, KilonovaError
from kilonova.domain.network import Network, Port, Subnet, Vif
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.base import Seat
from kilonova.network.builtin import macs, placement, port_groups, quotas, security_groups, tunnels, vifs
from kilonova.network.builtin.changes import Change, changed, membership
from kilonova.network.builtin.ipam import Allocator
from kilonova.network.builtin.ports import new_port
from kilonova.network.builtin.requests import FixedIpRequest
from kilonova.store import floating_ips as floating_store
from kilonova.store import network_tags as tags
from kilonova.store import networks as network_store
from kilonova.store import ports as store
from kilonova.store import subnets as subnet_store


def allocate(
    conn: sa.Connection, config: Config, seat: Seat, requested: Sequence[RequestedNetwork]
) -> list[Vif]:
    """The server's NICs in the order asked for. If it has them already, they move to this host."""
    store.lock_server(conn, seat.server_id)
    have = store.of_servers(conn, [seat.server_id])
    if have:
        have = port_groups.adopted(conn, have)
        _rebind(conn, have, seat.host)
        return vifs.of_ports(conn, have)
    try:
        return _allocate(conn, config, seat, requested)
    except BuildAborted:
        raise
    except KilonovaError as error:  # no address, no quota, a network that went: the same on every host
        raise BuildAborted(error.message) from error


def deallocate(conn: sa.Connection, server_id: str) -> None:
    """Ports that the build made are gone, with their addresses; a user's port is free again."""
    store.lock_server(conn, server_id)
    ports = store.of_servers(conn, [server_id])
    let_go(conn, ports)


def bind_all(conn: sa.Connection, server_id: str, host: str) -> list[Vif]:
    """The server keeps its ports, and is on that host; or on none."""
    store.lock_server(conn, server_id)
    have = port_groups.adopted(conn, store.of_servers(conn, [server_id]))
    _rebind(conn, have, host)
    return vifs.of_ports(conn, have)


def let_go(conn: sa.Connection, ports: Sequence[Port]) -> None:
    """Of ports that a server has: those made for it are gone, with their addresses; a user's is free."""
    made = [port.id for port in ports if port.made_by_build]
    kept = [port.id for port in ports if not port.made_by_build]
    if made:
        placement.tell(conn, store.delete(conn, made))
        tags.remove(conn, made)
    if kept:
        free = {"device_id": "", "device_owner": "", "host": "", "status": "DOWN"}
        store.update(conn, kept, {**free, "nic": None, "nic_tag": None, "server_hostname": None})
    if ports:
        store.refresh_dhcp_status(conn, sorted({port.network_id for port in ports}))
        membership(conn, [port for port in ports if port.made_by_build])
        tunnels.gone(conn, ports)


def set_status(conn: sa.Connection, server_ids: Sequence[str], active: bool) -> None:
    """The NICs of these servers are plugged (ACTIVE) or not (DOWN)."""
    changed = store.set_status(conn, server_ids, "ACTIVE" if active else "DOWN")
    if changed:
        store.refresh_dhcp_status(conn, changed)


def _allocate(
    conn: sa.Connection, config: Config, seat: Seat, requested: Sequence[RequestedNetwork]
) -> list[Vif]:
    # In the order in which others lock: networks, ports or quota, subnets.
    asked = sorted({ask.network_id for ask in requested if ask.network_id})
    networks = network_store.by_id(conn, asked, to_use=True)
    given = store.by_id(conn, sorted(ask.port_id for ask in requested if ask.port_id), for_update=True)
    network_ids = _network_ids(requested, given)
    new = [(nic, ask) for nic, ask in enumerate(requested) if not ask.port_id]
    if new:
        quotas.check(conn, config, seat.project_id, "port", len(new))
    subnets = subnet_store.of_networks(conn, sorted(set(network_ids)), for_update=True)
    networks |= network_store.by_id(conn, sorted({*network_ids} - networks.keys()))
    for network_id in network_ids:
        if network_id not in networks:
            raise BuildAborted(f"Network {network_id} could not be found.")
        if not networks[network_id].admin_state_up:
            raise BuildAborted(f"Network {network_id} is administratively down.")
    _check_groups(seat, [networks[ask.network_id or ""] for _, ask in new])
    made = dict(zip((nic for nic, _ in new), make(conn, seat, new, networks, subnets), strict=True))
    ports = [
        made[nic] if nic in made else bind(conn, seat, given[ask.port_id or ""], nic, ask)
        for nic, ask in enumerate(requested)
    ]
    floating = floating_store.of_ports(conn, sorted(given))
    return vifs.made(ports, networks, subnets, floating)


def _check_groups(seat: Seat, new: Sequence[Network]) -> None:
    """A NIC is in the groups that were asked for; the default one is not asked for where there is none."""
    if {*seat.security_groups} - {security_groups.DEFAULT} and not all(n.port_security_enabled for n in new):
        raise BuildAborted(
            "Network requires port_security_enabled and subnet associated in order to apply security groups."
        )


def _network_ids(requested: Sequence[RequestedNetwork], given: dict[str, Port]) -> list[str]:
    """The network of each NIC."""
    found = []
    for ask in requested:
        if ask.port_id is None:
            found.append(ask.network_id or "")
        elif ask.port_id in given:
            found.append(given[ask.port_id].network_id)
        else:
            raise BuildAborted(f"Port {ask.port_id} could not be found.")
    return found


def make(
    conn: sa.Connection,
    seat: Seat,
    new: Sequence[tuple[int, RequestedNetwork]],
    networks: dict[str, Network],
    subnets: dict[str, list[Subnet]],
) -> list[Port]:
    """A new port for each NIC that asks for a network, all written at once."""
    if not new:
        return []
    drawn = macs.draw(conn, [ask.network_id or "" for _, ask in new])
    allocators = {
        network_id: Allocator(conn, network, subnets.get(network_id, []), seat.device_owner)
        for network_id, network in networks.items()
    }
    made = []
    groups = _groups(conn, seat)
    for (nic, ask), mac in zip(new, drawn, strict=True):
        network = networks[ask.network_id or ""]
        allocator = allocators[network.id]
        made.append(
            new_port(
                network,
                project_id=seat.project_id,
                mac_address=mac,
                fixed_ips=allocator.requested([FixedIpRequest(ip_address=ask.fixed_ip)], mac)
                if ask.fixed_ip
                else allocator.default(mac),
                device_id=seat.server_id,
                device_owner=seat.device_owner,
                dns_name=seat.hostname,
                host=seat.host,
                nic=nic,
                nic_tag=ask.tag,
                server_hostname=seat.hostname,
                made_by_build=True,
                security_groups=groups if network.port_security_enabled else [],
            )
        )
    tunnels.come(conn, seat.host, networks)
    store.insert(conn, made)
    membership(conn, made)
    for allocator in allocators.values():
        allocator.finish()
    return made


def _groups(conn: sa.Connection, seat: Seat) -> list[str]:
    """Ids of the groups for the ports that a build makes."""
    default = security_groups.DEFAULT
    asked = set(seat.security_groups or [default])
    found = security_groups.kept(conn, None, asked - {default})
    if default in asked:
        found.append(security_groups.ensure_default(conn, seat.project_id))
    return sorted(set(found))


def bind(conn: sa.Connection, seat: Seat, port: Port, nic: int, ask: RequestedNetwork) -> Port:
    """A port that the user made becomes the server's NIC."""
    if port.device_id not in ("", seat.server_id):
        raise BuildAborted(f"Port {port.id} is still in use.")
    if not port.admin_state_up:
        raise BuildAborted(f"Port {port.id} is administratively down.")
    if not port.fixed_ips:
        raise BuildAborted(f"Port {port.id} requires a FixedIP in order to be used.")
    tunnels.come(conn, seat.host, [port.network_id])
    store.update(
        conn,
        [port.id],
        {
            "device_id": seat.server_id,
            "device_owner": seat.device_owner,
            "host": seat.host,
            "nic": nic,
            "nic_tag": ask.tag,
            "server_hostname": seat.hostname,
            "status": "DOWN",
        },
    )
    return port_groups.adopted(conn, list(store.by_id(conn, [port.id]).values()))[0]


def _rebind(conn: sa.Connection, ports: Sequence[Port], host: str) -> None:
    """The ports belong to another host now, where they are not plugged yet; or to none."""
    moved = [port for port in ports if port.host != host]
    if moved:
        if host:
            tunnels.come(conn, host, {port.network_id for port in moved})
        store.update(conn, [port.id for port in moved], {"host": host, "status": "DOWN"})
        store.refresh_dhcp_status(conn, sorted({port.network_id for port in moved}))
        tunnels.gone(conn, moved)
        changed(conn, Change(ports=[port.id for port in moved]))
