"""The DHCP port of a network: it holds, in each subnet with DHCP, the address that answers DHCP; in one of
IPv6, that advertises it too. One of IPv6 without modes is not served, whatever its ``enable_dhcp``.

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
    want = [subnet for subnet in subnets if _served(subnet)]
    if port and not want:
        _remove(conn, port.id)
        return
    if set(have) == {subnet.id for subnet in want}:
        return
    mac = port.mac_address if port else macs.draw(conn, [network.id])[0]
    addresses = _addresses(conn, network, want, have, mac)
    if port:
        store.take_back(conn, port.id)
        store.give(conn, {port.id: addresses})
        return
    made = new_port(
        network,
        project_id=network.project_id,
        mac_address=mac,
        fixed_ips=addresses,
        device_id=f"dhcp-{network.id}",
        device_owner=subnet_store.DHCP_OWNER,
        port_security_enabled=False,
    )
    store.insert(conn, [made])


def _addresses(
    conn: sa.Connection, network: Network, subnets: list[Subnet], have: dict[str, FixedIp], mac: str
) -> list[FixedIp]:
    """One for each subnet: the one it has, or a new one."""
    allocator = Allocator(conn, network, subnets)
    new = [FixedIpRequest(subnet_id=subnet.id) for subnet in subnets if subnet.id not in have]
    found = have | {fixed.subnet_id: fixed for fixed in allocator.requested(new, mac, only=True)}
    allocator.finish()
    return [found[subnet.id] for subnet in subnets]


def _served(subnet: Subnet) -> bool:
    return subnet.enable_dhcp and (subnet.ip_version == 4 or _has_modes(subnet))


def _has_modes(subnet: Subnet) -> bool:
    return bool(subnet.ipv6_ra_mode or subnet.ipv6_address_mode)


def _remove(conn: sa.Connection, port_id: str) -> None:
    store.delete(conn, [port_id])
    tags.remove(conn, [port_id])
