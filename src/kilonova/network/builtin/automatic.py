"""Automatic addresses when their subnet comes to a network that has ports, and when it goes.

Every function runs inside the caller's transaction, which holds the network, and costs it as many statements
for a thousand ports as for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Network

import sqlalchemy as sa
from msgspec import structs

from kilonova.domain.addresses import eui64, number_of
from kilonova.domain.network import FixedIp, Port, Subnet
from kilonova.domain.routers import GATEWAY_OWNER, INTERFACE_OWNER
from kilonova.network.builtin import vifs
from kilonova.network.builtin.changes import membership
from kilonova.network.builtin.errors import IpAddressInUse
from kilonova.store import ports as store
from kilonova.store import subnets as subnet_store
from kilonova.store.subnets import DHCP_OWNER

_OTHERS = (DHCP_OWNER, INTERFACE_OWNER, GATEWAY_OWNER)
"""Whose addresses the service chooses."""


def those_to_come(conn: sa.Connection, network_id: str) -> list[Port]:
    """The ports that get an address of a subnet that comes, locked: call it before quotas and subnets are,
    as who changes a port does."""
    return store.of_network(conn, network_id, _OTHERS)


def those_to_go(conn: sa.Connection, network_id: str) -> list[Port]:
    """The ports that may lose an address with a subnet that goes, locked: before the subnets are."""
    return store.of_network(conn, network_id, [DHCP_OWNER])


def come(conn: sa.Connection, subnet: Subnet, ports: Sequence[Port]) -> None:
    """Each of the ports (``those_to_come``) has its address of the new subnet."""
    addresses = {port.id: eui64(IPv6Network(subnet.cidr), port.mac_address) for port in ports}
    numbers = {number_of(address): address for address in addresses.values()}
    for number in subnet_store.taken_among(conn, subnet.id, sorted(numbers)):
        raise IpAddressInUse(
            f"Unable to complete operation for network {subnet.network_id}. The IP address {numbers[number]} "
            "is in use."
        )
    given = {key: FixedIp(subnet_id=subnet.id, ip_address=str(one)) for key, one in addresses.items()}
    store.add(conn, given)
    now = [structs.replace(port, fixed_ips=[*port.fixed_ips, given[port.id]]) for port in ports]
    _readdressed(conn, subnet, ports, now)


def go(conn: sa.Connection, subnet: Subnet, ports: Sequence[Port]) -> None:
    """None of the ports (``those_to_go``) has an address of the subnet, which is about to go."""
    having = [port for port in ports if any(fixed.subnet_id == subnet.id for fixed in port.fixed_ips)]
    store.take_back_of_subnet(conn, subnet.id)
    _readdressed(conn, subnet, having, [_without(port, subnet) for port in having])


def _without(port: Port, subnet: Subnet) -> Port:
    left = [fixed for fixed in port.fixed_ips if fixed.subnet_id != subnet.id]
    return structs.replace(port, fixed_ips=left)


def _readdressed(conn: sa.Connection, subnet: Subnet, were: Sequence[Port], are: Sequence[Port]) -> None:
    if were:
        store.update(conn, [port.id for port in were], {})
        membership(conn, were, are)
    vifs.show_network(conn, subnet.network_id)
