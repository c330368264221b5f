"""What security groups mean, said plainly: may this packet begin a connection? Pure.

The kernel decides by security.py's rules; this decides which connections a change has ended, and is what the
tests hold the rules against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import msgspec

from kilonova.domain.security_groups import ICMP, ICMPV6, INGRESS, IPV4, IPV6, NUMBERS, WITH_PORTS, Filter
from kilonova.network.host.plan import METADATA_ADDRESS


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """``port`` is the destination's; ``icmp`` is type and code."""

    source: str
    destination: str
    protocol: int
    port: int | None = None
    icmp: tuple[int, int] | None = None


Members = Mapping[str, Sequence[str]]
"""Group id → addresses and ranges of those in it."""


def is_always_allowed(packet: Packet) -> bool:
    """Asking for an address, and for metadata. (Neighbour discovery is no connection.)"""
    if packet.protocol == NUMBERS["udp"] and packet.port in (67, 68, 546, 547):
        return True
    return packet.destination == METADATA_ADDRESS and (packet.protocol, packet.port) == (NUMBERS["tcp"], 80)


def passes(packet: Packet, direction: str, filters: Sequence[Filter], members: Members) -> bool:
    """Whether one of the filters of that direction lets it pass."""
    return any(one.direction == direction and _fits(packet, one, members) for one in filters)


def _fits(packet: Packet, one: Filter, members: Members) -> bool:
    address = ip_address(packet.source if one.direction == INGRESS else packet.destination)
    return (
        one.ethertype == (IPV4 if address.version == 4 else IPV6)
        and (one.protocol is None or one.protocol == packet.protocol)
        and _fits_ports(packet, one)
        and (one.remote_prefix is None or _within(address, [one.remote_prefix]))
        and (one.remote_group is None or _within(address, members.get(one.remote_group, ())))
    )


def _fits_ports(packet: Packet, one: Filter) -> bool:
    low, high = one.port_min, one.port_max
    if one.protocol in WITH_PORTS and low is not None and high is not None:
        return packet.port is not None and low <= packet.port <= high
    if one.protocol in (ICMP, ICMPV6):
        kind, code = packet.icmp or (-1, -1)
        return (low is None or low == kind) and (high is None or high == code)
    return True


def _within(address: IPv4Address | IPv6Address, ranges: Sequence[str]) -> bool:
    networks = (ip_network(text, strict=False) for text in ranges)
    return any(address.version == network.version and address in network for network in networks)
