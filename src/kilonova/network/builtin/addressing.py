"""The arithmetic of a subnet: its CIDR, its gateway, its pools. Pure: no database, no clock.

Numbers are those of domain/addresses.py: they tell apart the addresses of one subnet, in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network
from itertools import pairwise
from typing import NamedTuple

from kilonova.domain import addresses
from kilonova.domain.addresses import Address, Network, address_at, number_of
from kilonova.domain.network import HostRoute, Pool
from kilonova.network.builtin.errors import (
    GatewayConflictWithAllocationPools,
    InvalidAllocationPool,
    InvalidInput,
    OutOfBoundsAllocationPool,
    OverlappingAllocationPools,
)

LINK_LOCAL = IPv4Network("169.254.0.0/16")
_NEVER: tuple[Network, ...] = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("127.0.0.0/8"),
    LINK_LOCAL,
    IPv4Network("224.0.0.0/3"),
    IPv6Network("::/8"),
    IPv6Network("fe80::/10"),
    IPv6Network("ff00::/8"),
)
"""This network, loopback, link-local (the metadata service lives there), multicast and reserved; of IPv6 what
RFC 4291 keeps for itself, with the mapped IPv4 addresses, link-local and multicast."""


class Span(NamedTuple):
    """Addresses as numbers, both ends included."""

    first: int
    last: int


def parse_address(text: str, what: str, version: int | None = None) -> Address:
    """InvalidInput says that ``what`` is no address (of that IP version)."""
    try:
        found = addresses.parse(text)
    except ValueError as error:
        kind = "IP" if version is None else f"IPv{version}"
        raise InvalidInput(f"'{text}' is not a valid {kind} address for {what}") from error
    if version not in (None, found.version):
        raise InvalidInput(f"'{text}' is not a valid IPv{version} address for {what}")
    return found


def parse_cidr(text: str, version: int, reserved: Iterable[IPv4Network]) -> Network:
    """A network that guests can live in: not too small, and nothing that has another meaning."""
    try:
        network = addresses.parse_network(text)
    except ValueError as error:
        raise InvalidInput(f"'{text}' is not a valid CIDR: {error}") from error
    if network.version != version:
        raise InvalidInput(f"cidr '{text}' does not match the ip_version '{version}'")
    if version == 4 and network.prefixlen > 30:
        raise InvalidInput(f"{network} is too small: the smallest subnet is a /30")
    if version == 6 and not 64 <= network.prefixlen <= 126:
        raise InvalidInput(f"{network}: a subnet of IPv6 is a /64 or smaller, and at least a /126")
    for other in (*_NEVER, *reserved):
        if network.overlaps(other):
            raise InvalidInput(f"{network} overlaps with {other}, which is reserved")
    return network


def hosts(network: Network) -> Span:
    """Every address but the network's own (of IPv6: that of any router) and, of IPv4, the broadcast."""
    last = number_of(network.broadcast_address)
    return Span(number_of(network.network_address) + 1, last - 1 if network.version == 4 else last)


def is_host(network: Network, address: Address) -> bool:
    """Whether something of the subnet may have that address."""
    first, last = hosts(network)
    return address in network and first <= number_of(address) <= last


def parse_gateway(text: str, network: Network) -> Address:
    """The gateway is an address of the subnet, since the host or a router holds it there."""
    gateway = parse_address(text, "gateway_ip", network.version)
    if not is_host(network, gateway):
        raise InvalidInput(f"Gateway {gateway} is not a host address of the subnet {network}")
    return gateway


def default_pools(network: Network, gateway: Address | None) -> list[Pool]:
    """All host addresses but the gateway."""
    first, last = hosts(network)
    if gateway is None:
        return [_pool(network, first, last)]
    at = number_of(gateway)
    return [_pool(network, low, high) for low, high in ((first, at - 1), (at + 1, last)) if low <= high]


def check_pools(network: Network, gateway: Address | None, pools: Sequence[Pool]) -> list[Pool]:
    """The pools in order of their addresses, if they lie in the subnet, apart, and off the gateway."""
    spans = sorted(_span(network, pool) for pool in pools)
    for one, other in pairwise(spans):
        if other.first <= one.last:
            raise OverlappingAllocationPools(
                f"Found overlapping allocation pools: {_text(network, one)} {_text(network, other)} "
                f"for subnet {network}."
            )
    for span in spans:
        if gateway is not None and span.first <= number_of(gateway) <= span.last:
            raise GatewayConflictWithAllocationPools(
                f"Gateway ip {gateway} conflicts with allocation pool {_text(network, span)}."
            )
    return [_pool(network, *span) for span in spans]


def check_routes(routes: Sequence[HostRoute], version: int | None = None) -> list[HostRoute]:
    """In their one canonical form, which DHCP hands out; all of one IP version, if that is said."""
    return [_checked(route, version) for route in routes]


def _checked(route: HostRoute, version: int | None) -> HostRoute:
    try:
        destination = addresses.parse_network(route.destination)
    except ValueError as error:
        raise InvalidInput(f"'{route.destination}' is not a valid destination of a host route") from error
    if version not in (None, destination.version):
        raise InvalidInput(f"'{route.destination}' is not a valid destination of an IPv{version} host route")
    nexthop = parse_address(route.nexthop, "nexthop of a host route", destination.version)
    return HostRoute(destination=str(destination), nexthop=str(nexthop))


def check_nameservers(servers: Sequence[str], version: int) -> list[str]:
    found = [str(parse_address(server, "dns_nameservers", version)) for server in servers]
    if len(set(found)) != len(found):
        raise InvalidInput("dns_nameservers has the same address twice")
    return found


def spans(pools: Iterable[Pool], start: int) -> list[Span]:
    """The pools as a ring that begins at ``start``: where to look for a free address, in order."""
    ahead, behind = [], []
    for pool in pools:
        first, last = (number_of(addresses.parse(end)) for end in (pool.start, pool.end))
        if last >= start:
            ahead.append(Span(max(first, start), last))
        if first < start:
            behind.append(Span(first, min(last, start - 1)))
    return ahead + behind


def _span(network: Network, pool: Pool) -> Span:
    text = f"{pool.start}-{pool.end}"
    try:
        start, end = addresses.parse(pool.start), addresses.parse(pool.end)
    except ValueError as error:
        raise InvalidAllocationPool(f"The allocation pool {text} is not valid.") from error
    if start.version != network.version or end.version != network.version or int(start) > int(end):
        raise InvalidAllocationPool(f"The allocation pool {text} is not valid.")
    if not (is_host(network, start) and is_host(network, end)):
        raise OutOfBoundsAllocationPool(f"The allocation pool {text} spans beyond the subnet cidr {network}.")
    return Span(number_of(start), number_of(end))


def _pool(network: Network, first: int, last: int) -> Pool:
    return Pool(start=str(address_at(network, first)), end=str(address_at(network, last)))


def _text(network: Network, span: Span) -> str:
    return f"{address_at(network, span.first)}-{address_at(network, span.last)}"
