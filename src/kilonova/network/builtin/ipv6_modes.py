"""How guests of an IPv6 subnet come to their addresses: ``ipv6_ra_mode`` and ``ipv6_address_mode``. Pure.

The rules and the words are Neutron's. ``ipv6_ra_mode``: our hosts, and a router if the subnet has one, send
advertisements that say so. ``ipv6_address_mode``: how ports get their addresses.
"""

from __future__ import annotations

from msgspec import UNSET

from kilonova.domain.addresses import Network
from kilonova.network.builtin.errors import InvalidInput
from kilonova.network.builtin.requests import Ipv6Mode, SubnetCreate

MODES = ("slaac", "dhcpv6-stateful", "dhcpv6-stateless")
MIN_MTU = 1280
"""Octets that every IPv6 link must carry (RFC 8200, 5)."""


def check(body: SubnetCreate, cidr: Network) -> None:
    ra_mode, address_mode = body.ipv6_ra_mode or None, body.ipv6_address_mode or None
    if ra_mode is None and address_mode is None:
        return
    for name, mode in (("ipv6_ra_mode", ra_mode), ("ipv6_address_mode", address_mode)):
        if mode is not None and cidr.version == 4:
            raise InvalidInput(f"{name} is not valid when ip_version is 4")
        if mode not in (None, *MODES):
            raise InvalidInput(f"{name}: '{mode}' is not in {list(MODES)}")
    if body.enable_dhcp is False:
        raise InvalidInput("ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False")
    if ra_mode is not None and address_mode is not None and ra_mode != address_mode:
        raise InvalidInput(
            f"ipv6_ra_mode set to '{ra_mode}' with ipv6_address_mode set to '{address_mode}' is not valid. "
            "If both attributes are set, they must be the same value"
        )
    if {ra_mode, address_mode} & {"slaac", "dhcpv6-stateless"} and cidr.prefixlen != 64:
        raise InvalidInput(
            f"Invalid CIDR {cidr} for IPv6 address mode. OpenStack uses the EUI-64 address format, which "
            "requires the prefix to be /64"
        )


def automatic(body: SubnetCreate) -> bool:
    """Whether each NIC will have an address there that comes of its MAC."""
    return bool({body.ipv6_ra_mode, body.ipv6_address_mode} & {"slaac", "dhcpv6-stateless"})


def of(asked: Ipv6Mode) -> str | None:
    """As it is kept."""
    return None if asked is UNSET else asked
