"""What a build asks of the network: the ports of a server, made, bound, and given back.

Every function runs inside one transaction, so that a server has all of its ports or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from kilonova.config import Config
from kilonova.domain.errors import BuildAborted, KilonovaError
from kilonova.domain.network import Network, Port, Subnet, Vif, VifAddress, VifSubnet
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.builtin import macs, quotas
from kilonova.network.builtin.ipam import Allocator
from kilonova.network.builtin.ports import new_port
from kilonova.network.builtin.requests import FixedIpRequest
from kilonova.store import network_tags as tags
from kilonova.store import networks as network_store
from kilonova.store import ports as store
from kilonova.store import subnets as subnet_store


@dataclass(frozen=True, slots=True)
class Binding:
    """The server that takes the ports, and where."""

    server_id: str
    project_id: str
    hostname: str
    host: str
    availability_zone: str

    @property
    def device_owner(self) -> str:
        return f"compute:{self.availability_zone}"


def allocate(
    conn: sa.Connection, config: Config, binding: Binding, requested: Sequence[RequestedNetwork]
) -> list[Vif]:
    """The server's NICs in the order asked for. If it has them already, they move to this host."""
    store.lock_server(conn, binding.server_id)
    have = store.of_servers(conn, [binding.server_id])
    if have:
        _rebind(conn, have, binding.host)
        return vifs_of(conn, have)
    try:
        return _allocate(conn, config, binding, requested)
    except BuildAborted:
        raise
    except KilonovaError as error:  # no address, no quota, a network that went: the same on every host
        raise BuildAborted(error.message) from error


def deallocate(conn: sa.Connection, server_id: str) -> None:
    """Ports that the build made are gone, with their addresses; a user's port is free again."""
    store.lock_server(conn, server_id)
    ports = store.of_servers(conn, [server_id])
    made = [port.id for port in ports if port.made_by_build]
    kept = [port.id for port in ports if not port.made_by_build]
    if made:
        store.delete(conn, made)
        tags.remove(conn, made)
    if kept:
        free = {"device_id": "", "device_owner": "", "host": "", "status": "DOWN"}
        store.update(conn, kept, {**free, "nic": None, "nic_tag": None, "server_hostname": None})
    if ports:
        store.refresh_dhcp_status(conn, sorted({port.network_id for port in ports}))


def vifs_of(conn: sa.Connection, ports: Sequence[Port]) -> list[Vif]:
    """The ports as hosts see them. Two statements, however many ports."""
    network_ids = sorted({port.network_id for port in ports})
    networks = network_store.by_id(conn, network_ids)
    subnets = _by_id(subnet_store.of_networks(conn, network_ids))
    return [_vif(port, networks[port.network_id], subnets) for port in ports]


def set_status(conn: sa.Connection, server_ids: Sequence[str], active: bool) -> None:
    """The NICs of these servers are plugged (ACTIVE) or not (DOWN)."""
    changed = store.set_status(conn, server_ids, "ACTIVE" if active else "DOWN")
    if changed:
        store.refresh_dhcp_status(conn, changed)


def _allocate(
    conn: sa.Connection, config: Config, binding: Binding, requested: Sequence[RequestedNetwork]
) -> list[Vif]:
    given = store.by_id(conn, sorted(ask.port_id for ask in requested if ask.port_id), for_update=True)
    network_ids = _network_ids(requested, given)
    networks = network_store.by_id(conn, sorted(set(network_ids)))
    new = [(nic, ask) for nic, ask in enumerate(requested) if not ask.port_id]
    if new:
        quotas.check(conn, config, binding.project_id, "port", len(new))
    subnets = subnet_store.of_networks(conn, sorted(networks), for_update=True)
    for network_id in network_ids:
        if network_id not in networks:
            raise BuildAborted(f"Network {network_id} could not be found.")
        if not networks[network_id].admin_state_up:
            raise BuildAborted(f"Network {network_id} is administratively down.")
    made = dict(zip((nic for nic, _ in new), _make(conn, binding, new, networks, subnets), strict=True))
    ports = [
        made[nic] if nic in made else _bind(conn, binding, given[ask.port_id or ""], nic, ask)
        for nic, ask in enumerate(requested)
    ]
    by_id = _by_id(subnets)
    return [_vif(port, networks[port.network_id], by_id) for port in ports]


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


def _make(
    conn: sa.Connection,
    binding: Binding,
    new: Sequence[tuple[int, RequestedNetwork]],
    networks: dict[str, Network],
    subnets: dict[str, list[Subnet]],
) -> list[Port]:
    """A new port for each NIC that asks for a network, all written at once."""
    if not new:
        return []
    drawn = macs.draw(conn, [ask.network_id or "" for _, ask in new])
    allocators = {
        network_id: Allocator(conn, network, subnets.get(network_id, []))
        for network_id, network in networks.items()
    }
    made = []
    for (nic, ask), mac in zip(new, drawn, strict=True):
        network = networks[ask.network_id or ""]
        allocator = allocators[network.id]
        made.append(
            new_port(
                network,
                project_id=binding.project_id,
                mac_address=mac,
                fixed_ips=allocator.requested([FixedIpRequest(ip_address=ask.fixed_ip)])
                if ask.fixed_ip
                else allocator.default(),
                device_id=binding.server_id,
                device_owner=binding.device_owner,
                dns_name=binding.hostname,
                host=binding.host,
                nic=nic,
                nic_tag=ask.tag,
                server_hostname=binding.hostname,
                made_by_build=True,
            )
        )
    store.insert(conn, made)
    for allocator in allocators.values():
        allocator.finish()
    return made


def _bind(conn: sa.Connection, binding: Binding, port: Port, nic: int, ask: RequestedNetwork) -> Port:
    """A port that the user made becomes the server's NIC."""
    if port.device_id not in ("", binding.server_id):
        raise BuildAborted(f"Port {port.id} is still in use.")
    if not port.admin_state_up:
        raise BuildAborted(f"Port {port.id} is administratively down.")
    if not port.fixed_ips:
        raise BuildAborted(f"Port {port.id} requires a FixedIP in order to be used.")
    store.update(
        conn,
        [port.id],
        {
            "device_id": binding.server_id,
            "device_owner": binding.device_owner,
            "host": binding.host,
            "nic": nic,
            "nic_tag": ask.tag,
            "server_hostname": binding.hostname,
            "status": "DOWN",
        },
    )
    return store.by_id(conn, [port.id])[port.id]


def _rebind(conn: sa.Connection, ports: Sequence[Port], host: str) -> None:
    """The ports belong to another host now, where they are not plugged yet."""
    moved = [port for port in ports if port.host != host]
    if moved:
        store.update(conn, [port.id for port in moved], {"host": host, "status": "DOWN"})
        store.refresh_dhcp_status(conn, sorted({port.network_id for port in moved}))


def _by_id(subnets: dict[str, list[Subnet]]) -> dict[str, VifSubnet]:
    return {subnet.id: _vif_subnet(subnet) for several in subnets.values() for subnet in several}


def _vif_subnet(subnet: Subnet) -> VifSubnet:
    return VifSubnet(
        id=subnet.id,
        cidr=subnet.cidr,
        ip_version=subnet.ip_version,
        gateway_ip=subnet.gateway_ip,
        enable_dhcp=subnet.enable_dhcp,
        dns_nameservers=subnet.dns_nameservers,
        host_routes=subnet.host_routes,
        dhcp_address=subnet.dhcp_address,
    )


def _vif(port: Port, network: Network, subnets: dict[str, VifSubnet]) -> Vif:
    return Vif(
        port_id=port.id,
        network_id=network.id,
        network_name=network.name,
        mac=port.mac_address,
        mtu=network.mtu,
        addresses=[VifAddress(ip=f.ip_address, subnet=subnets[f.subnet_id]) for f in port.fixed_ips],
        port_security=port.port_security_enabled,
        allowed_address_pairs=port.allowed_address_pairs,
        preserve_on_delete=not port.made_by_build,
        server_id=port.device_id,
        hostname=port.dns_name or port.server_hostname,
        tag=port.nic_tag,
    )
