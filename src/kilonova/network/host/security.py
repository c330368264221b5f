"""Security groups as rules of the host's bridge table. Pure.

A chain for each group and direction, which all ports in the group share; a named set for the members of each
group that a rule names, so that five hundred of them are one lookup; a chain for each port and direction,
which jumps to its groups' and drops what none of them accepted.

What belongs to a connection that was let out or in is accepted before that. This table cannot ask for it
(nf_conntrack_bridge is missing in many kernels): bridged packets come by the inet table first, through
br_netfilter, and that marks them (firewall.host_table). Only the answers are marked. Packets in a
connection's own direction are held against the rules each time, so that a rule that goes cuts at once what it
had let in.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Any
from zlib import crc32

from kilonova.domain.network import Vif
from kilonova.domain.security_groups import ICMP, ICMPV6, INGRESS, IPV4, IPV6, WITH_PORTS, Filter
from kilonova.network.host.nft import (
    ACCEPT,
    DROP,
    Chain,
    Expression,
    Hook,
    Rule,
    Set,
    concat,
    match,
    meta,
    one_of,
    payload,
    prefix,
    span,
)
from kilonova.network.host.plan import DHCPV6_SERVERS, METADATA_ADDRESS

_OUT, _IN = 10, 20
"""Priorities of these chains. More than 0: br_netfilter takes a packet away at that and gives it back to what
comes after; chains at 0 see it or not, as it happens (br_nf_hook_thresh() of Linux)."""
ANSWER = 0x4B4E
"""The mark of a packet that answers one which was let through."""
TAGGED = 1 << 31
"""The bit of a mark that says by which guarded port a packet was sent (tag())."""

_PROTOCOL = meta("l4proto")
_FAMILY = {IPV4: ("ip", "ipv4_addr"), IPV6: ("ip6", "ipv6_addr")}
_NEIGHBOURS = [135, 136]
"""IPv6 finds its neighbours by ICMP, as IPv4 by ARP: solicitation, advertisement."""
_LISTENERS = [130, 131, 132, 143]
_ROUTER_SOLICITATION, _ROUTER_ADVERTISEMENT = 133, 134
_BROADCAST = "255.255.255.255"
_FROM, _TO = payload("udp", "sport"), payload("udp", "dport")
_ASKING_DHCP = [match(_FROM, 68), match(_TO, 67)]
_ASKING_DHCPV6 = [match(payload("ip6", "daddr"), DHCPV6_SERVERS), match(_FROM, 546), match(_TO, 547)]


def base_chains() -> list[Chain]:
    """What goes out of a guest, then what comes to a guest: both must let a packet pass."""
    return [
        Chain(
            "egress",
            [_six(), *_always("out"), _each("iifname", "@outward")],
            Hook("filter", "forward", _OUT),
        ),
        Chain("ingress", [*_always("in"), _each("oifname", "@inward")], Hook("filter", "forward", _IN)),
    ]


def _six() -> Rule:
    """Fragments are whole only now (br_netfilter)."""
    expressions = [match(payload("ether", "type"), "ip6"), {"vmap": {"key": meta("iifname"), "data": "@six"}}]
    return Rule("IPv6 only as it may be sent", expressions)


def tag(port_id: str) -> int:
    """The port's own mark: with it goes a connection that the port began, and an answer is one only for whom
    has asked (firewall.host_table)."""
    return TAGGED | crc32(port_id.encode())


def base_sets(
    inward: dict[str, str], outward: dict[str, str], six: dict[str, str], gates: Mapping[str, str]
) -> list[Set]:
    """``inward``, ``outward``, ``six``: tap → its port's chain. ``gates``: the devices that lead to networks'
    namespaces → the MAC of the namespace, for others may be behind the same device."""
    return [
        Set("inward", dict[str, str | None](inward), verdicts=True),
        Set("outward", dict[str, str | None](outward), verdicts=True),
        Set("six", dict[str, str | None](six), verdicts=True),
        Set(
            "gates",
            {f"{device} . {mac}": None for device, mac in gates.items()},
            kind=["ifname", "ether_addr"],
        ),
    ]


def _each(key: str, where: str) -> Rule:
    return Rule("each guarded port has its chain", [{"vmap": {"key": meta(key), "data": where}}])


def _always(way: str) -> list[Rule]:
    rules = [
        Rule("ARP", [match(payload("ether", "type"), "arp"), ACCEPT]),
        Rule("answers", [match(meta("mark"), ANSWER), ACCEPT]),
    ]
    if way == "out":
        metadata = [match(payload("ip", "daddr"), METADATA_ADDRESS), match(payload("tcp", "dport"), 80)]
        asking = [*_NEIGHBOURS, *_LISTENERS, _ROUTER_SOLICITATION]
        return [
            *rules,
            Rule("asking for DHCP", [match(payload("ip", "daddr"), _BROADCAST), *_ASKING_DHCP, ACCEPT]),
            Rule(
                "asking for DHCPv6", [match(payload("ip6", "daddr"), DHCPV6_SERVERS), *_ASKING_DHCPV6, ACCEPT]
            ),
            Rule("asking for metadata", [*metadata, ACCEPT]),
            Rule("IPv6 finds its neighbours", [match(payload("icmpv6", "type"), one_of(asking)), ACCEPT]),
        ]
    from_gate = match(concat(meta("iifname"), payload("ether", "saddr")), "@gates")
    told = [match(_FROM, 67), match(_TO, 68)]
    heard = [*_NEIGHBOURS, *_LISTENERS]
    router = match(payload("icmpv6", "type"), _ROUTER_ADVERTISEMENT)
    return [
        *rules,
        Rule("DHCP of the network", [from_gate, *told, ACCEPT]),
        Rule("IPv6 finds its neighbours", [match(payload("icmpv6", "type"), one_of(heard)), ACCEPT]),
        Rule("DHCPv6 of the network", [from_gate, match(_FROM, 547), match(_TO, 546), ACCEPT]),
        # Guarded ports send none (ipv6_guard.py).
        Rule("routers", [router, ACCEPT]),
    ]


def port_chain_name(port_id: str, direction: str) -> str:
    return f"{direction}-{port_id}"


def port_chains(vif: Vif) -> list[Chain]:
    """What its groups accept, and nothing else."""
    return [
        Chain(
            port_chain_name(vif.port_id, direction),
            [
                *(_own_dhcp(vif) if direction == "egress" else []),
                *(
                    Rule("its group", [{"jump": {"target": group_chain_name(group, direction)}}])
                    for group in sorted(set(vif.security_groups or []))
                ),
                Rule("nothing else", [DROP]),
            ],
        )
        for direction in ("ingress", "egress")
    ]


def _own_dhcp(vif: Vif) -> list[Rule]:
    four = [one.subnet for one in vif.addresses if one.subnet.ip_version == 4]
    servers = sorted({subnet.dhcp_address for subnet in four if subnet.dhcp_address})
    to_them = match(payload("ip", "daddr"), one_of(list(servers)))
    return [Rule("asking its DHCP server", [to_them, *_ASKING_DHCP, ACCEPT])] if servers else []


def group_chain_name(group_id: str, direction: str) -> str:
    return f"group-{direction}-{group_id}"


def group_chains(group_id: str, filters: list[Filter]) -> list[Chain]:
    return [
        Chain(
            group_chain_name(group_id, direction),
            [_rule(one) for one in filters if one.direction == direction],
        )
        for direction in ("ingress", "egress")
    ]


def member_sets(group_id: str, addresses: list[str]) -> list[Set]:
    """Of both protocols, as ranges that do not overlap."""
    four, six = _collapsed(addresses)
    return [
        Set(_set_name(group_id, ethertype), dict.fromkeys(found), kind=_FAMILY[ethertype][1], ranges=True)
        for ethertype, found in ((IPV4, four), (IPV6, six))
    ]


def remotes_of(filters: list[Filter]) -> set[str]:
    """The groups that these rules name."""
    return {one.remote_group for one in filters if one.remote_group is not None}


def _collapsed(addresses: list[str]) -> tuple[list[str], list[str]]:
    four: list[IPv4Network] = []
    six: list[IPv6Network] = []
    for address in addresses:
        network = ip_network(address, strict=False)
        if isinstance(network, IPv4Network):
            four.append(network)
        else:
            six.append(network)
    return [str(n) for n in collapse_addresses(four)], [str(n) for n in collapse_addresses(six)]


def _set_name(group_id: str, ethertype: str) -> str:
    return f"members-{_FAMILY[ethertype][0]}-{group_id}"


def _rule(one: Filter) -> Rule:
    family = _FAMILY[one.ethertype][0]
    expressions: list[Expression] = [match(payload("ether", "type"), family)]
    remote = payload(family, "saddr" if one.direction == INGRESS else "daddr")
    if one.remote_prefix is not None:
        network = ip_network(one.remote_prefix, strict=False)
        expressions.append(match(remote, prefix(str(network.network_address), network.prefixlen)))
    if one.remote_group is not None:
        expressions.append(match(remote, f"@{_set_name(one.remote_group, one.ethertype)}"))
    if one.protocol is not None:
        expressions.append(match(_PROTOCOL, one.protocol))
        expressions += _ports(one)
    return Rule("rule", [*expressions, ACCEPT])


def _bits(at: int) -> Expression:
    """Eight of them, of the header after IP's."""
    return {"payload": {"base": "th", "offset": at, "len": 8}}


def _ports(one: Filter) -> list[Expression]:
    low, high = one.port_min, one.port_max
    if one.protocol in WITH_PORTS and low is not None and high is not None:
        wanted: Any = low if low == high else span(low, high)
        return [match(payload("th", "dport"), wanted)]
    if one.protocol in (ICMP, ICMPV6):
        # By their place: nft knows no ICMP in IPv6, nor ICMPv6 in IPv4, which the API lets rules name.
        fields = ((0, low), (8, high))
        return [match(_bits(at), value) for at, value in fields if value is not None]
    return []
