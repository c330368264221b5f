"""IP addresses as numbers that the database can hold, in one spelling, and those that come of MACs. Pure.

A subnet of IPv6 is at most a /64, so that the lower half of an address tells it from its neighbours. Shifted
by half, that half is a BIGINT, in the order of the addresses.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import overload

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LINK_LOCAL = IPv6Network("fe80::/64")
MAX_NUMBER = (1 << 63) - 1

_HALF = 1 << 63
_LOWER = (1 << 64) - 1


def parse(text: str) -> Address:
    """ValueError if it is none, or is one of a zone (``fe80::1%eth0``), which means nothing elsewhere."""
    if "%" in text:
        raise ValueError(f"'{text}' has a zone")
    return ip_address(text)


def parse_network(text: str, strict: bool = True) -> Network:
    if "%" in text:
        raise ValueError(f"'{text}' has a zone")
    return ip_network(text, strict=strict)


def canonical(text: str) -> str:
    """The one spelling of an address (RFC 5952); what is none stays as it is."""
    try:
        return str(parse(text))
    except ValueError:
        return text


@overload
def network_of(prefix: str) -> str: ...
@overload
def network_of(prefix: None) -> None: ...
def network_of(prefix: str | None) -> str | None:
    """The network that an address with a length is in, in its one spelling; ValueError if it is none."""
    return None if prefix is None else str(parse_network(prefix, strict=False))


def number_of(address: Address) -> int:
    """In the order of the addresses of one subnet."""
    return int(address) if address.version == 4 else (int(address) & _LOWER) - _HALF


def address_at(network: Network, number: int) -> Address:
    """What number_of() was asked for, of that subnet."""
    if isinstance(network, IPv4Network):
        return IPv4Address(number)
    return IPv6Address((int(network.network_address) & ~_LOWER) | (number + _HALF))


def eui64(network: IPv6Network, mac: str) -> IPv6Address:
    """The address that a NIC gives itself in a /64 (RFC 4862, RFC 4291 appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]])
    return IPv6Address(network.network_address.packed[:8] + identifier)


def link_local(mac: str) -> str:
    return str(eui64(LINK_LOCAL, mac))
