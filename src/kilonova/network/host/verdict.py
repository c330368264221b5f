"""What security groups mean, said plainly: may this packet begin a connection? Pure.

The kernel decides by security.py's rules; this decides which connections a change has ended, and is what the
tests hold the rules against.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import msgspec

from kilonova.domain.security_groups import ICMP, ICMPV6, INGRESS, IPV4, IPV6, NUMBERS, WITH_PORTS, Filter
from kilonova.network.host.plan import DHCPV6_SERVERS, METADATA_ADDRESS


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """``port`` is the destination's; ``icmp`` is type and code."""

    source: str
    destination: str
    protocol: int
    port: int | None = None
    icmp: tuple[int, int] | None = None


Members = Mapping[str, Sequence[str]]
"""Group id → addresses and ranges of those in it."""

_BROADCAST = "255.255.255.255"
_DHCP_SERVER, _DHCP_CLIENT, _DHCPV6_SERVER = 67, 68, 547


def is_always_allowed(packet: Packet, dhcp_servers: Collection[str]) -> bool:
    """Asking for an address, being told one, asking for metadata, by a port that has these DHCP servers.
    (Neighbour discovery is no connection.)"""
    if packet.protocol == NUMBERS["udp"] and packet.port == _DHCPV6_SERVER:
        return packet.destination == DHCPV6_SERVERS
    if packet.protocol == NUMBERS["udp"] and packet.port == _DHCP_SERVER:
        return packet.destination == _BROADCAST or packet.destination in dhcp_servers
    if packet.protocol == NUMBERS["udp"] and packet.port == _DHCP_CLIENT:
        return packet.source in dhcp_servers
    return packet.destination == METADATA_ADDRESS and (packet.protocol, packet.port) == (NUMBERS["tcp"], 80)


def passes(packet: Packet, direction: str, filters: Sequence[Filter], members: Members) -> bool:
    """Whether one of the filters of that direction lets it pass."""
    return Judge(filters, members).passes(packet, direction)


class Judge:
    """Of the groups of one port, which is asked about many packets."""

    def __init__(self, filters: Sequence[Filter], members: Members) -> None:
        self._rules = [(one, _remote(one, members)) for one in filters]

    def passes(self, packet: Packet, direction: str) -> bool:
        return any(one.direction == direction and _fits(packet, one, remote) for one, remote in self._rules)


class _Ranges:
    """Addresses and ranges."""

    def __init__(self, texts: Sequence[str]) -> None:
        networks = [ip_network(text, strict=False) for text in texts]
        self._hosts = {one.network_address for one in networks if one.prefixlen == one.max_prefixlen}
        self._networks = [one for one in networks if one.prefixlen != one.max_prefixlen]

    def hold(self, address: IPv4Address | IPv6Address) -> bool:
        return address in self._hosts or any(
            address.version == one.version and address in one for one in self._networks
        )


_Remote = list[_Ranges]
"""Of who it must be, each; none: it may be anybody."""

_parsed = lru_cache(maxsize=4096)(ip_address)


def _remote(one: Filter, members: Members) -> _Remote:
    found = [] if one.remote_prefix is None else [_Ranges([one.remote_prefix])]
    return found if one.remote_group is None else [*found, _Ranges(members.get(one.remote_group, ()))]


def _fits(packet: Packet, one: Filter, remote: _Remote) -> bool:
    if one.protocol is not None and one.protocol != packet.protocol:
        return False
    address = _parsed(packet.source if one.direction == INGRESS else packet.destination)
    return (
        one.ethertype == (IPV4 if address.version == 4 else IPV6)
        and _fits_ports(packet, one)
        and all(ranges.hold(address) for ranges in remote)
    )


def _fits_ports(packet: Packet, one: Filter) -> bool:
    low, high = one.port_min, one.port_max
    if one.protocol in WITH_PORTS and low is not None and high is not None:
        return packet.port is not None and low <= packet.port <= high
    if one.protocol in (ICMP, ICMPV6):
        kind, code = packet.icmp or (-1, -1)
        return (low is None or low == kind) and (high is None or high == code)
    return True
