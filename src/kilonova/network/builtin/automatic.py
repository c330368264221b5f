"""Automatic addresses when their subnet comes to a network that has ports, and when it goes.

Every function runs inside the caller's transaction, which holds the network.
"""

from __future__ import annotations

import sqlalchemy as sa
from msgspec import structs

from kilonova.domain.network import Network, Port, Subnet
from kilonova.domain.routers import GATEWAY_OWNER, INTERFACE_OWNER
from kilonova.network.builtin import vifs
from kilonova.network.builtin.changes import membership
from kilonova.network.builtin.ipam import Allocator
from kilonova.network.builtin.requests import FixedIpRequest
from kilonova.store import ports as store
from kilonova.store.subnets import DHCP_OWNER

_OTHERS = (DHCP_OWNER, INTERFACE_OWNER, GATEWAY_OWNER)
"""Whose addresses the service chooses."""


def come(conn: sa.Connection, network: Network, subnet: Subnet) -> None:
    """Each port of the network has its address of the new subnet."""
    if not subnet.automatic:
        return
    allocator = Allocator(conn, network, [subnet])
    for port in store.of_network(conn, network.id, _OTHERS):
        (fixed,) = allocator.requested([FixedIpRequest(subnet_id=subnet.id)], port.mac_address)
        store.add(conn, port.id, fixed)
        _readdressed(conn, port, structs.replace(port, fixed_ips=[*port.fixed_ips, fixed]))
    vifs.show_network(conn, network.id)


def go(conn: sa.Connection, subnet: Subnet) -> None:
    """No port has an address of the subnet, which is about to go."""
    if not subnet.automatic:
        return
    ports = store.of_network(conn, subnet.network_id, [DHCP_OWNER])
    store.take_back_of_subnet(conn, subnet.id)
    for port in ports:
        left = [fixed for fixed in port.fixed_ips if fixed.subnet_id != subnet.id]
        if len(left) < len(port.fixed_ips):
            _readdressed(conn, port, structs.replace(port, fixed_ips=left))
    vifs.show_network(conn, subnet.network_id)


def _readdressed(conn: sa.Connection, was: Port, port: Port) -> None:
    store.update(conn, [port.id], {})
    membership(conn, [was], [port])
