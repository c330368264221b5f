"""The arithmetic of a subnet pool: which CIDR a subnet gets of it. Pure: no database, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from kilonova.domain.addresses import Network, parse_network


def merged(texts: Iterable[str]) -> list[Network]:
    """The ranges, none in another, neighbours as one, in their order. All are of one IP version."""
    found = [parse_network(text) for text in texts]
    fours = [one for one in found if isinstance(one, IPv4Network)]
    sixes = [one for one in found if isinstance(one, IPv6Network)]
    return [*collapse_addresses(fours), *collapse_addresses(sixes)]


def holds(prefixes: Sequence[Network], wanted: Network) -> bool:
    return any(_inside(wanted, prefix) for prefix in prefixes)


def first_free(prefixes: Sequence[Network], taken: Iterable[Network], length: int) -> Network | None:
    """The lowest CIDR of that prefix length that overlaps with none of those taken."""
    busy = sorted((int(one.network_address), int(one.broadcast_address)) for one in taken)
    for prefix in prefixes:
        if prefix.prefixlen > length:
            continue
        size = 1 << (prefix.max_prefixlen - length)
        at, last = int(prefix.network_address), int(prefix.broadcast_address)
        for first, end in busy:
            if first >= at + size:
                break
            if end >= at:
                at = (end // size + 1) * size
        if at + size - 1 <= last:
            return type(prefix)((at, length))
    return None


def units(network: Network) -> int:
    """What counts for a pool's quota: addresses of IPv4, /64s of IPv6 (at least one)."""
    unit = 32 if network.version == 4 else 64
    return 1 << max(0, unit - network.prefixlen)


def _inside(inner: Network, outer: Network) -> bool:
    first, last = int(outer.network_address), int(outer.broadcast_address)
    same = inner.version == outer.version
    return same and first <= int(inner.network_address) and int(inner.broadcast_address) <= last
