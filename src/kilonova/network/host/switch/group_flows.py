"""Security groups as flows. Pure; security.py is the same in nftables' words, flows.py draws the tables.

A group's flows are shared by all ports in it, the members of a group by all rules that name it: two hundred
ports of a group cost a flow more each, five hundred members one each, whatever the rules. A rule lets pass by
raising a flag, so it does not matter which of several that fit the switch takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_network

from kilonova.domain.security_groups import ICMP, ICMPV6, INGRESS, IPV4, NUMBERS, Filter
from kilonova.network.host.security import remotes_of
from kilonova.network.host.switch.flows import (
    ACCEPTED,
    ADDRESS,
    ADDRESS6,
    GROUP,
    INWARDS,
    MEMBER,
    MEMBERS,
    OUR_GROUP,
    REMOTE,
    RULES,
    UNTRACKED,
    Flow,
    call,
    is_set,
    number,
    put,
    put_group,
)

_WITH_PORTS = {NUMBERS[name] for name in ("tcp", "udp", "sctp")}
_PORTS_UNKNOWN = {NUMBERS[name] for name in ("dccp", "udplite")}
"""Their ports a switch cannot see: a rule that names some lets nothing pass."""
_TRACKED = {NUMBERS[name] for name in ("tcp", "udp", "icmp", "icmpv6")}
_WAY = INWARDS | UNTRACKED


def group(group_id: str, filters: list[Filter]) -> list[Flow]:
    own = f"{OUR_GROUP}={number(group_id)}"
    rules = {flow for one in filters for flow in _rule(own, one)}
    return [Flow(GROUP, 10, own, call(RULES)), *_lookups(own, filters), *sorted(rules)]


def members(group_id: str, addresses: list[str]) -> list[Flow]:
    """Of both protocols; none within another."""
    of = f"{REMOTE}={number(group_id)}"
    networks = [ip_network(address, strict=False) for address in addresses]
    four = collapse_addresses(one for one in networks if isinstance(one, IPv4Network))
    six = collapse_addresses(one for one in networks if isinstance(one, IPv6Network))
    matches = [
        *(f"ip,{of},{ADDRESS}={_bits(one)}" for one in four),
        *(f"ipv6,{of},{ADDRESS6}={_bits(one)}" for one in six),
    ]
    return [Flow(MEMBERS, 10, match, put(MEMBER, MEMBER)) for match in matches]


def _bits(network: IPv4Network | IPv6Network) -> str:
    return f"0x{int(network.network_address):x}/0x{int(network.netmask):x}"


def _lookups(own: str, filters: list[Filter]) -> Iterator[Flow]:
    """Where rules name groups, the address is looked for in each before they are asked again."""
    kinds = {(one.direction, one.ethertype) for one in filters if one.remote_group is not None}
    for direction, ethertype in sorted(kinds):
        alike = [one for one in filters if (one.direction, one.ethertype) == (direction, ethertype)]
        looked = [
            f"{put_group(remote, REMOTE)},{put(0, MEMBER)},{call(MEMBERS, RULES)}"
            for remote in sorted(remotes_of(alike))
        ]
        end = "src" if direction == INGRESS else "dst"
        for tracked in {True, all(one.protocol in _TRACKED for one in alike)}:
            words = [_family(ethertype), own, _asked(direction, tracked), *(["ct_state=+trk-inv"] * tracked)]
            actions = [call(RULES), _moved(ethertype, end, tracked), *looked]
            yield Flow(GROUP, 20, ",".join(words), ",".join(actions))


def _moved(ethertype: str, end: str, tracked: bool) -> str:
    if ethertype == IPV4:
        source = f"NXM_NX_CT_NW_{end.upper()}[]" if tracked else f"NXM_OF_IP_{end.upper()}[]"
        return f"move:{source}->NXM_NX_REG12[]"
    source = f"NXM_NX_CT_IPV6_{end.upper()}[]" if tracked else f"NXM_NX_IPV6_{end.upper()}[]"
    return f"move:{source}->NXM_NX_XXREG3[]"


def _rule(own: str, one: Filter) -> Iterator[Flow]:
    """As the switch tracks what it is about, and as it cannot."""
    yield from _flows(own, one, tracked=True)
    if one.protocol not in _TRACKED:
        yield from _flows(own, one, tracked=False)


def _flows(own: str, one: Filter, *, tracked: bool) -> Iterator[Flow]:
    words = [_family(one.ethertype), own, _asked(one.direction, tracked, one.remote_group is not None)]
    if tracked:
        words.append("ct_state=+trk-inv")
    if one.remote_group is not None:
        words.append(f"{REMOTE}={number(one.remote_group)}")
    if one.remote_prefix is not None:
        words.append(f"{_remote(one, tracked)}={_prefix(one.remote_prefix)}")
    if one.protocol is not None:
        words.append(f"{'ct_' if tracked else ''}nw_proto={one.protocol}")
    for more in _ports(one, tracked):
        yield Flow(RULES, 10, ",".join([*words, *more]), put(ACCEPTED, ACCEPTED))


def _asked(direction: str, tracked: bool, member: bool = False) -> str:
    flags = (INWARDS if direction == INGRESS else 0) | (0 if tracked else UNTRACKED)
    return is_set(flags | MEMBER, _WAY | MEMBER) if member else is_set(flags, _WAY)


def _family(ethertype: str) -> str:
    return "ip" if ethertype == IPV4 else "ipv6"


def _remote(one: Filter, tracked: bool) -> str:
    end = "src" if one.direction == INGRESS else "dst"
    if tracked:
        return f"ct_nw_{end}" if one.ethertype == IPV4 else f"ct_ipv6_{end}"
    return f"nw_{end}" if one.ethertype == IPV4 else f"ipv6_{end}"


def _prefix(text: str) -> str:
    """As numbers say it: whatever else was in the text is not in the flow."""
    network = ip_network(text, strict=False)
    if isinstance(network, IPv6Network):
        return f"{IPv6Address(int(network.network_address))}/{network.prefixlen}"
    return str(network)


def _ports(one: Filter, tracked: bool) -> list[list[str]]:
    """One flow for each; of ICMP, type and code stand where ports do."""
    low, high = one.port_min, one.port_max
    if one.protocol in _PORTS_UNKNOWN and low is not None:
        return []
    if one.protocol in _WITH_PORTS and low is not None and high is not None:
        field = "ct_tp_dst" if tracked else "tp_dst"
        return [[f"{field}=0x{value:x}/0x{mask:x}"] for value, mask in masks(low, high)]
    if one.protocol in (ICMP, ICMPV6):
        fields = (("ct_tp_src", low), ("ct_tp_dst", high))
        return [[f"{field}={value}" for field, value in fields if value is not None]]
    return [[]]


def masks(low: int, high: int) -> list[tuple[int, int]]:
    """(value, mask) pairs of 16 bits that together fit just the numbers from low to high."""
    found = []
    while low <= high:
        size = low & -low or 1 << 16
        while low + size - 1 > high:
            size >>= 1
        found.append((low, 0xFFFF & ~(size - 1)))
        low += size
    return found
