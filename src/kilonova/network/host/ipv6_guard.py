"""What a guest may send of IPv6, as a chain of the host's bridge table. Pure.

A chain returns what is fine and drops the rest: packets of others' addresses, router advertisements (RFC
6105), redirects, DHCPv6 answers, and neighbour discovery that speaks for others: of its two messages the
address that is asked for or told of, and the link-layer address in the first option. nft has no names for
these fields before 1.0.8, so they are said by their place in the message (RFC 4861, 4.3 and 4.4).

It is asked twice: as the packet comes from the tap, and after br_netfilter, which puts fragments together.

A port without an address of IPv6 has no such chain, and sends none.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_network

from kilonova.domain.addresses import link_local
from kilonova.domain.network import Vif
from kilonova.network.host.nft import (
    ACCEPT,
    DROP,
    RETURN,
    Chain,
    Expression,
    Rule,
    bits,
    concat,
    mark,
    match,
    one_of,
    payload,
    prefix,
    span,
)

_NOBODY = "::"
"""The sender's address of who has none yet: asking whether an address is free (RFC 4862, 5.4)."""
_SOLICITATION, _ADVERTISEMENT = 135, 136
_ROUTER_SOLICITATION, _ROUTER_ADVERTISEMENT, _REDIRECT = 133, 134, 137
_REPORTS = [131, 132, 143]
_SOURCE_LINK, _TARGET_LINK = 1, 2
"""Kinds of options."""

_OFFSET = {"exthdr": {"name": "frag", "field": "frag-off"}}

_TYPE = payload("icmpv6", "type")
_SENDER = payload("ip6", "saddr")
_TARGET = bits("th", 64, 128)


def chain_name(port_id: str) -> str:
    return f"six-{port_id}"


def speaks(vif: Vif) -> bool:
    """Whether the port has any address of IPv6."""
    own = [address.ip for address in vif.addresses]
    return any(":" in ip for ip in [*own, *(pair.ip_address for pair in vif.allowed_address_pairs)])


def allowed(vif: Vif) -> list[tuple[str, IPv6Network]]:
    """(MAC, address or range) pairs that the guest may use, each MAC with its link-local address too; none
    within another (nft forbids it)."""
    own = vif.mac.lower()
    found = [(own, ip_network(address.ip)) for address in vif.addresses]
    for pair in vif.allowed_address_pairs:
        found.append(((pair.mac_address or own).lower(), ip_network(pair.ip_address, strict=False)))
    six = {(mac, net) for mac, net in found if isinstance(net, IPv6Network)}
    six |= {(mac, IPv6Network(link_local(mac))) for mac in {mac for mac, _ in six}}
    six.discard((own, IPv6Network(_NOBODY)))
    kept = [(m, n) for m, n in six if not any(m == o and n != w and n.subnet_of(w) for o, w in six)]
    return sorted(kept, key=lambda pair: (pair[0], int(pair[1].network_address), pair[1].prefixlen))


def rules(vif: Vif, tag: int) -> list[Rule]:
    """Of the port's chain, which drops what nothing accepts. ``tag``: the mark of what this port sends."""
    kind = match(payload("ether", "type"), "ip6")
    return [
        Rule("IPv6 only as it may be sent", [kind, {"jump": {"target": chain_name(vif.port_id)}}]),
        # A first fragment that ends before its protocol's header has nothing that could be looked at.
        Rule("IPv6 that can be looked at", [kind, match(bits("th", 0, 8), span(0, 255)), mark(tag), ACCEPT]),
        Rule("later fragments", [kind, match(_OFFSET, 0, "!="), mark(tag), ACCEPT]),
    ]


def chain(vif: Vif) -> Chain:
    pairs = allowed(vif)
    macs: list[Expression | int] = [
        int(mac.replace(":", ""), 16) for mac in sorted({mac for mac, _ in pairs})
    ]
    targets = one_of([_number(net) for net in _apart([net for _, net in pairs])])
    udp, to = payload("udp", "sport"), payload("udp", "dport")
    nobody = match(_SENDER, _NOBODY)
    senders = one_of([concat(mac, _address(net)) for mac, net in pairs])
    return Chain(
        chain_name(vif.port_id),
        [
            Rule("no router", [match(_TYPE, one_of([_ROUTER_ADVERTISEMENT, _REDIRECT])), DROP]),
            Rule("no DHCPv6 server", [match(udp, 547), DROP]),
            Rule("no DHCPv6 server, from whatever port", [match(to, 546), DROP]),
            Rule(
                "asks and tells of its own addresses only",
                [match(_TYPE, _ADVERTISEMENT), match(_TARGET, targets, "!="), DROP],
            ),
            *_options(_ADVERTISEMENT, 192, _TARGET_LINK, macs),
            Rule(
                "asks whether an address of its own is free",
                [nobody, match(_TYPE, _SOLICITATION), match(_TARGET, targets), RETURN],
            ),
            Rule(
                "joins groups before it has an address", [nobody, match(_TYPE, one_of([*_REPORTS])), RETURN]
            ),
            Rule(
                "only its MAC and IP",
                [match(concat(payload("ether", "saddr"), _SENDER), senders, "!="), DROP],
            ),
            *_options(_SOLICITATION, 192, _SOURCE_LINK, macs),
            *_options(_ROUTER_SOLICITATION, 64, _SOURCE_LINK, macs),
        ],
    )


def _options(kind: int, offset: int, option: int, macs: list[Expression | int]) -> list[Rule]:
    """The first option of such a message, if it has one, says its own link-layer address. A message without
    options ends before, so that no rule about them fits."""
    found = match(_TYPE, kind)
    return [
        Rule(
            "says its own MAC",
            [
                found,
                match(bits("th", offset, 8), option),
                match(bits("th", offset + 16, 48), one_of([*macs]), "!="),
                DROP,
            ],
        ),
        Rule("says that first", [found, match(bits("th", offset, 8), option, "!="), DROP]),
    ]


def _apart(nets: list[IPv6Network]) -> list[IPv6Network]:
    """None within another, whatever the MACs."""
    several = set(nets)
    return sorted(net for net in several if not any(net != o and net.subnet_of(o) for o in several))


def _address(net: IPv6Network) -> str | Expression:
    return (
        str(net.network_address) if net.prefixlen == 128 else prefix(str(net.network_address), net.prefixlen)
    )


def _number(net: IPv6Network) -> str | Expression:
    """As nft compares a field without a type."""
    first, last = (_hex(address) for address in (net.network_address, net.broadcast_address))
    return first if first == last else span(first, last)


def _hex(address: IPv6Address) -> str:
    return f"0x{int(address):032x}"
