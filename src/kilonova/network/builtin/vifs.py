"""Ports as the hosts of their servers see them, and as the record of their server has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from kilonova.domain.network import Network, Port, Subnet, Vif, VifAddress, VifSubnet
from kilonova.network.builtin.changes import Change, changed
from kilonova.store import floating_ips as floating_store
from kilonova.store import networks as network_store
from kilonova.store import ports as store
from kilonova.store import servers
from kilonova.store import subnets as subnet_store


def of_ports(conn: sa.Connection, ports: Sequence[Port]) -> list[Vif]:
    """With their floating IPs. Three statements, however many ports."""
    network_ids = sorted({port.network_id for port in ports})
    networks = network_store.by_id(conn, network_ids)
    subnets = subnet_store.of_networks(conn, network_ids)
    floating = floating_store.of_ports(conn, [port.id for port in ports])
    return made(ports, networks, subnets, floating)


def made(
    ports: Sequence[Port],
    networks: Mapping[str, Network],
    subnets: Mapping[str, list[Subnet]],
    floating: Mapping[str, dict[str, list[str]]],
) -> list[Vif]:
    """Of what is known already: networks, subnets of networks, floating IPs of ports, each by id."""
    by_id = {subnet.id: _vif_subnet(subnet) for several in subnets.values() for subnet in several}
    return [_vif(port, networks[port.network_id], by_id, floating.get(port.id, {})) for port in ports]


def show(conn: sa.Connection, port: Port) -> None:
    """The server that holds the port, if one does, has its ports in its record as they are now."""
    if port.nic is not None and servers.lock(conn, port.device_id):
        servers.show_vifs(conn, {port.device_id: of_ports(conn, store.of_servers(conn, [port.device_id]))})


def show_network(conn: sa.Connection, network_id: str) -> None:
    """The servers with NICs there have them in their records as they are now, and their hosts are told."""
    held = store.nics_on(conn, network_id)
    alive = servers.lock_several(conn, sorted(held))
    ports: dict[str, list[Port]] = {}
    for port in store.of_servers(conn, alive):
        ports.setdefault(port.device_id, []).append(port)
    found = iter(of_ports(conn, [port for several in ports.values() for port in several]))
    servers.show_vifs(
        conn, {server_id: [next(found) for _ in several] for server_id, several in ports.items()}
    )
    changed(conn, Change(servers=[(held[server_id], server_id) for server_id in alive]))


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
        ipv6_ra_mode=subnet.ipv6_ra_mode,
        ipv6_address_mode=subnet.ipv6_address_mode,
    )


def _vif(port: Port, network: Network, subnets: dict[str, VifSubnet], floating: dict[str, list[str]]) -> Vif:
    return Vif(
        port_id=port.id,
        network_id=network.id,
        network_name=network.name,
        mac=port.mac_address,
        mtu=network.mtu,
        addresses=[VifAddress(ip=f.ip_address, subnet=subnets[f.subnet_id]) for f in port.fixed_ips],
        port_security=port.port_security_enabled,
        security_groups=port.security_groups,
        allowed_address_pairs=port.allowed_address_pairs,
        server_id=port.device_id,
        hostname=port.dns_name or port.server_hostname,
        tag=port.nic_tag,
        floating_ips=floating,
        admin_state_up=port.admin_state_up and network.admin_state_up,
        extra_dhcp_opts=port.extra_dhcp_opts or [],
    )
