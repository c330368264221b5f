"""Security groups as Neutron's API knows them, and as a host enforces them."""

from __future__ import annotations

import msgspec

INGRESS, EGRESS = "ingress", "egress"
IPV4, IPV6 = "IPv4", "IPv6"

NUMBERS = {
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "egp": 8,
    "udp": 17,
    "dccp": 33,
    "ipv6-encap": 41,
    "ipv6-route": 43,
    "ipv6-frag": 44,
    "rsvp": 46,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ipv6-icmp": 58,
    "ipv6-nonxt": 59,
    "ipv6-opts": 60,
    "ospf": 89,
    "vrrp": 112,
    "pgm": 113,
    "sctp": 132,
    "udplite": 136,
}
"""The protocols that have a name in Neutron's API."""

ICMP, ICMPV6 = NUMBERS["icmp"], NUMBERS["icmpv6"]
WITH_PORTS = frozenset(NUMBERS[name] for name in ("tcp", "udp", "dccp", "sctp", "udplite"))


class SecurityGroup(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    project_id: str
    name: str
    description: str
    revision_number: int = 0
    created_at: float
    updated_at: float


class AddressGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Networks' addresses that rules name together. ``addresses``: as ``10.0.0.0/24``, sorted, each once."""

    id: str
    project_id: str
    name: str
    description: str
    addresses: list[str]
    revision_number: int = 0
    created_at: float
    updated_at: float


class SecurityGroupRule(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule lets pass; there are none that forbid. ``port_range_*`` are ICMP's type and code there.

    ``protocol`` is a name of NUMBERS or a number as text; None: all.
    """

    id: str
    security_group_id: str
    project_id: str
    direction: str
    ethertype: str
    protocol: str | None = None
    port_range_min: int | None = None
    port_range_max: int | None = None
    remote_ip_prefix: str | None = None
    remote_group_id: str | None = None
    remote_address_group_id: str | None = None
    description: str = ""
    revision_number: int = 0
    created_at: float
    updated_at: float


PARENT = "PARENT"
"""In a default rule the group that gets it, in Neutron's word."""


class DefaultRule(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that groups are made with: projects' default ones, those that users make, or both.

    ``remote_group_id``: PARENT, or None.
    """

    id: str
    direction: str
    ethertype: str
    protocol: str | None = None
    port_range_min: int | None = None
    port_range_max: int | None = None
    remote_ip_prefix: str | None = None
    remote_group_id: str | None = None
    description: str = ""
    used_in_default_sg: bool
    used_in_non_default_sg: bool


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """A rule as a host enforces it: its protocol a number, its prefix a network's address."""

    direction: str
    ethertype: str
    protocol: int | None = None
    port_min: int | None = None
    port_max: int | None = None
    remote_prefix: str | None = None
    remote_group: str | None = None
    """Id of a security group or of an address group: hosts know the addresses of either as its members."""


def protocol_number(name: str | None, ethertype: str) -> int | None:
    """``icmp`` of IPv6 is that of IPv6: an old way to write it that Neutron still takes."""
    if name is None:
        return None
    number = NUMBERS[name] if name in NUMBERS else int(name)
    return ICMPV6 if ethertype == IPV6 and name == "icmp" else number
