"""The DHCP port of a network: it holds, in each subnet with DHCP, the address that answers DHCP.

Every host answers with that address inside its own part of the network. The port follows the subnets and
nobody else may change it.
"""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.domain.network import FixedIp, Network, Subnet
from kilonova.network.builtin import macs
from kilonova.network.builtin.ipam import Allocator
from kilonova.network.builtin.ports import new_port
from kilonova.network.builtin.requests import FixedIpRequest
from kilonova.store import network_tags as tags
from kilonova.store import ports as store
from kilonova.store import subnets as subnet_store


def follow(conn: sa.Connection, network: Network) -> None:
    """The network's DHCP port has one address in each of its subnets with DHCP, and no other."""
    subnets = subnet_store.of_networks(conn, [network.id], for_update=True).get(network.id, [])
    port = store.dhcp_port(conn, network.id)
    have = {fixed.subnet_id: fixed for fixed in port.fixed_ips} if port else {}
    want = [subnet for subnet in subnets if subnet.enable_dhcp]
    if set(have) == {subnet.id for subnet in want}:
        return
    if port and not want:
        _remove(conn, port.id)
        return
    addresses = _addresses(conn, network, want, have)
    if port:
        store.take_back(conn, port.id)
        store.give(conn, {port.id: addresses})
        return
    made = new_port(
        network,
        project_id=network.project_id,
        mac_address=macs.draw(conn, [network.id])[0],
        fixed_ips=addresses,
        device_id=f"dhcp-{network.id}",
        device_owner=subnet_store.DHCP_OWNER,
        port_security_enabled=False,
    )
    store.insert(conn, [made])


def _addresses(
    conn: sa.Connection, network: Network, subnets: list[Subnet], have: dict[str, FixedIp]
) -> list[FixedIp]:
    """One for each subnet: the one it has, or a new one."""
    allocator = Allocator(conn, network, subnets)
    found = [
        have.get(subnet.id) or allocator.requested([FixedIpRequest(subnet_id=subnet.id)])[0]
        for subnet in subnets
    ]
    allocator.finish()
    return found


def _remove(conn: sa.Connection, port_id: str) -> None:
    store.delete(conn, [port_id])
    tags.remove(conn, [port_id])
