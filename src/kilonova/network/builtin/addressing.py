"""The arithmetic of a subnet: its CIDR, its gateway, its pools. Pure: no database, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from itertools import pairwise
from typing import NamedTuple

from kilonova.domain.network import HostRoute, Pool
from kilonova.network.builtin.errors import (
    GatewayConflictWithAllocationPools,
    InvalidAllocationPool,
    InvalidInput,
    OutOfBoundsAllocationPool,
    OverlappingAllocationPools,
)

LINK_LOCAL = IPv4Network("169.254.0.0/16")
_NEVER = (IPv4Network("0.0.0.0/8"), IPv4Network("127.0.0.0/8"), LINK_LOCAL, IPv4Network("224.0.0.0/3"))
"""This network, loopback, link-local (the metadata service lives there), multicast and reserved."""


class Span(NamedTuple):
    """Addresses as numbers, both ends included."""

    first: int
    last: int


def parse_address(text: str, what: str) -> IPv4Address:
    """InvalidInput says that ``what`` is no IPv4 address."""
    try:
        return IPv4Address(text)
    except AddressValueError as error:
        raise InvalidInput(f"'{text}' is not a valid IPv4 address for {what}") from error


def parse_cidr(text: str, reserved: Iterable[IPv4Network]) -> IPv4Network:
    """A network that guests can live in: at least a /30, and nothing that has another meaning."""
    if ":" in text:
        raise InvalidInput(f"'{text}' is not an IPv4 CIDR; IPv6 subnets come later")
    try:
        network = IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise InvalidInput(f"'{text}' is not a valid CIDR: {error}") from error
    if network.prefixlen > 30:
        raise InvalidInput(f"{network} is too small: the smallest subnet is a /30")
    for other in (*_NEVER, *reserved):
        if network.overlaps(other):
            raise InvalidInput(f"{network} overlaps with {other}, which is reserved")
    return network


def hosts(network: IPv4Network) -> Span:
    """Every address but the network's own and the broadcast."""
    return Span(int(network.network_address) + 1, int(network.broadcast_address) - 1)


def parse_gateway(text: str, network: IPv4Network) -> IPv4Address:
    """The gateway is an address of the subnet, since the host holds it there."""
    gateway, span = parse_address(text, "gateway_ip"), hosts(network)
    if not span.first <= int(gateway) <= span.last:
        raise InvalidInput(f"Gateway {gateway} is not a host address of the subnet {network}")
    return gateway


def default_pools(network: IPv4Network, gateway: IPv4Address | None) -> list[Pool]:
    """All host addresses but the gateway."""
    first, last = hosts(network)
    if gateway is None:
        return [_pool(first, last)]
    at = int(gateway)
    return [_pool(low, high) for low, high in ((first, at - 1), (at + 1, last)) if low <= high]


def check_pools(network: IPv4Network, gateway: IPv4Address | None, pools: Sequence[Pool]) -> list[Pool]:
    """The pools in order of their addresses, if they lie in the subnet, apart, and off the gateway."""
    spans = sorted(_span(network, pool) for pool in pools)
    for one, other in pairwise(spans):
        if other.first <= one.last:
            raise OverlappingAllocationPools(
                f"Found overlapping allocation pools: {_text(one)} {_text(other)} for subnet {network}."
            )
    for span in spans:
        if gateway is not None and span.first <= int(gateway) <= span.last:
            raise GatewayConflictWithAllocationPools(
                f"Gateway ip {gateway} conflicts with allocation pool {_text(span)}."
            )
    return [_pool(*span) for span in spans]


def check_routes(routes: Sequence[HostRoute]) -> list[HostRoute]:
    """In their one canonical form, which DHCP hands out."""
    return [_checked(route) for route in routes]


def _checked(route: HostRoute) -> HostRoute:
    try:
        destination = IPv4Network(route.destination)
    except ValueError as error:
        raise InvalidInput(f"'{route.destination}' is not a valid destination of a host route") from error
    nexthop = parse_address(route.nexthop, "nexthop of a host route")
    return HostRoute(destination=str(destination), nexthop=str(nexthop))


def check_nameservers(addresses: Sequence[str]) -> list[str]:
    if len(set(addresses)) != len(addresses):
        raise InvalidInput("dns_nameservers has the same address twice")
    return [str(parse_address(address, "dns_nameservers")) for address in addresses]


def spans(pools: Iterable[Pool], start: int) -> list[Span]:
    """The pools as a ring that begins at ``start``: where to look for a free address, in order."""
    ahead, behind = [], []
    for pool in pools:
        first, last = int(IPv4Address(pool.start)), int(IPv4Address(pool.end))
        if last >= start:
            ahead.append(Span(max(first, start), last))
        if first < start:
            behind.append(Span(first, min(last, start - 1)))
    return ahead + behind


def _span(network: IPv4Network, pool: Pool) -> Span:
    text = f"{pool.start}-{pool.end}"
    try:
        span = Span(int(IPv4Address(pool.start)), int(IPv4Address(pool.end)))
    except AddressValueError as error:
        raise InvalidAllocationPool(f"The allocation pool {text} is not valid.") from error
    if span.first > span.last:
        raise InvalidAllocationPool(f"The allocation pool {text} is not valid.")
    inside = hosts(network)
    if span.first < inside.first or span.last > inside.last:
        raise OutOfBoundsAllocationPool(f"The allocation pool {text} spans beyond the subnet cidr {network}.")
    return span


def _pool(first: int, last: int) -> Pool:
    return Pool(start=str(IPv4Address(first)), end=str(IPv4Address(last)))


def _text(span: Span) -> str:
    return f"{IPv4Address(span.first)}-{IPv4Address(span.last)}"
