"""The firewall's rule sets, as data (see nft.py). Pure.

    bridge kilonova-…  on the host: what a guest may send (anti-spoofing), that it reaches no address of the
                       host through its bridge, and its security groups (security.py)
    inet kilonova-…    on the host: NAT to the outside, the host's own protection, no traffic between
                       networks, and which bridged packets belong to a connection
    ip kilonova        in a network's namespace: NAT from the guests' addresses, which other networks may have
                       too, to the network's own transit address; how often they may ask the metadata service,
                       by a router or not

The host's tables are named from the state folder, so that two agents on a machine do not undo each other.
A rule for a port is in a chain of its own, so that a plug changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from kilonova.domain.network import Vif
from kilonova.network.host import ipv6_guard, names, past_switch, security, tracked
from kilonova.network.host.nft import (
    ACCEPT,
    DROP,
    MASQUERADE,
    Chain,
    Expression,
    Hook,
    Rule,
    Set,
    Table,
    concat,
    ct,
    each,
    mark,
    match,
    meta,
    one_of,
    over,
    payload,
    prefix,
    send_to,
    set_ct_mark,
    zone,
)
from kilonova.network.host.plan import METADATA_ADDRESS

_FOR_METADATA = [
    match(payload("ip", "daddr"), METADATA_ADDRESS),
    match(payload("tcp", "dport"), 80),
]
_UNSET = IPv4Address(0)
"""The sender's address of who has none yet: asking for DHCP, or whether an address is free (RFC 5227)."""
_ETHER = payload("ether", "saddr")
INVALID = match(ct("state"), ["invalid"], op="in")
"""Of no connection: what NAT leaves as it is."""
_ANSWERS = match(ct("state"), ["established", "related"], op="in")
_REPLY = match(ct("direction"), "reply")
_ESTABLISHED = match(ct("state"), ["established"], op="in")
_ANSWER = match(meta("mark"), security.ANSWER)
_ORIGINAL = match(ct("direction"), "original")
_TAGGED = match({"&": [meta("mark"), security.TAGGED]}, security.TAGGED)
_CLOSED = match(ct("mark"), tracked.CLOSED)
_RELATED = match(ct("state"), ["related"], op="in")


# What guests may send, and what may pass between them
def bridge_table(
    name: str,
    vifs: Sequence[Vif],
    gates: Mapping[str, str],
    groups: Mapping[str, list[Chain]] | None = None,
    members: Sequence[Set] = (),
    chains_of: Callable[[Vif], list[Chain]] | None = None,
) -> Table:
    """The whole table, for these ports and these networks' gates: device → the MAC that is behind it.

    ``groups`` and ``members``: the chains of the ports' security groups, and the sets that they name
    (security.py). ``chains_of``: port_chains(), or what remembers its answers.
    """
    guarded = [vif for vif in vifs if vif.port_security]
    grouped = [vif for vif in guarded if vif.security_groups is not None]
    make = chains_of or port_chains
    chains = {vif.port_id: make(vif) for vif in guarded}
    own = [*(vif.tap for vif in vifs), *gates]
    inward, outward = (
        {vif.tap: security.port_chain_name(vif.port_id, direction) for vif in grouped}
        for direction in ("ingress", "egress")
    )
    six = {vif.tap: ipv6_guard.chain_name(vif.port_id) for vif in guarded if _has_six(vif, chains)}
    asking = {vif.tap: f"metadata-{vif.network_id}" for vif in vifs}
    return Table(
        "bridge",
        name,
        sets=[
            Set("guards", {vif.tap: _chain_name(vif.port_id) for vif in guarded}, verdicts=True),
            Set("ports", dict.fromkeys(own)),
            Set("asking", dict[str, str | None](asking), verdicts=True),
            *security.base_sets(inward, outward, six, gates),
            *members,
        ],
        chains=[
            Chain(
                "prerouting",
                [
                    Rule(
                        "who asks for metadata asks the service of its network",
                        [*_FOR_METADATA, {"vmap": {"key": meta("iifname"), "data": "@asking"}}],
                    ),
                    Rule(
                        "each guarded port has its chain",
                        [{"vmap": {"key": meta("iifname"), "data": "@guards"}}],
                    ),
                ],
                Hook("filter", "prerouting", -300),
            ),
            Chain(
                "input",
                # Without this the host would answer ARP for each of its addresses, and IP after that.
                [
                    Rule(
                        "guests do not reach the host through a bridge",
                        [match(meta("iifname"), "@ports"), DROP],
                    )
                ],
                Hook("filter", "input", -300),
            ),
            *security.base_chains(),
            *(chain for chains in (groups or {}).values() for chain in chains),
            *map(_metadata_chain, sorted({vif.network_id for vif in vifs})),
            *(chain for vif in guarded for chain in chains[vif.port_id]),
        ],
    )


def _metadata_chain(network_id: str) -> Chain:
    """Whom nobody told a way to it asks its router, which may be on another host."""
    return Chain(f"metadata-{network_id}", [Rule("it is here", [send_to(names.guests_mac(network_id))])])


def port_chains(vif: Vif) -> list[Chain]:
    """What a guarded port may send, and what its security groups let pass."""
    six = [ipv6_guard.chain(vif)] if ipv6_guard.speaks(vif) else []
    return [_port_chain(vif), *six, *([] if vif.security_groups is None else security.port_chains(vif))]


def _has_six(vif: Vif, chains: Mapping[str, list[Chain]]) -> bool:
    """A port that is closed has none."""
    return any(chain.name == ipv6_guard.chain_name(vif.port_id) for chain in chains[vif.port_id])


def closed_port_chains(vif: Vif) -> list[Chain]:
    """The same chains, of a port that nothing leaves and nothing reaches."""
    closed = [Rule("what was told of this port cannot be loaded: see the agent's log", [DROP])]
    ways = () if vif.security_groups is None else ("ingress", "egress")
    inner = (security.port_chain_name(vif.port_id, direction) for direction in ways)
    return [Chain(name, closed) for name in (_chain_name(vif.port_id), *inner)]


def _chain_name(port_id: str) -> str:
    return f"port-{port_id}"


def _port_chain(vif: Vif) -> Chain:
    pairs = allowed(vif)
    macs = sorted({mac for mac, _ in pairs} | {vif.mac.lower()})
    all_macs = sorted({*macs, *(mac for mac, _ in ipv6_guard.allowed(vif))})
    addresses = [concat(mac, _address(ip)) for mac, ip in pairs]
    probing = [mac for mac in macs if not any(mac == m and _UNSET in ip_network(net) for m, net in pairs)]
    unset = [concat(mac, str(_UNSET)) for mac in probing]
    udp, to = payload("udp", "sport"), payload("udp", "dport")
    return Chain(
        _chain_name(vif.port_id),
        [
            Rule("only its MAC", [match(_ETHER, one_of([*all_macs]), "!="), DROP]),
            Rule("no DHCP server", [match(udp, 67), DROP]),
            Rule("no DHCP server, from whatever port", [match(to, 68), DROP]),
            Rule(
                "asking for DHCP without an address",
                [
                    match(payload("ip", "saddr"), str(_UNSET)),
                    match(udp, 68),
                    match(to, 67),
                    ACCEPT,
                ],
            ),
            # What is accepted is named, so that a header which ends early is not.
            Rule(
                "ARP only of its MAC and IP",
                [
                    _untagged("arp"),
                    match(
                        concat(payload("arp", "saddr ether"), payload("arp", "saddr ip")),
                        one_of([*addresses, *unset]),
                    ),
                    ACCEPT,
                ],
            ),
            *_of_its_own(addresses, security.tag(vif.port_id)),
            *(ipv6_guard.rules(vif, security.tag(vif.port_id)) if ipv6_guard.speaks(vif) else []),
            Rule("nothing else", [DROP]),
        ],
    )


def _of_its_own(addresses: list[Expression], tag: int) -> list[Rule]:
    if not addresses:
        return []
    sender = match(concat(_ETHER, payload("ip", "saddr")), one_of(list(addresses)))
    return [Rule("IPv4 only of its MAC and IP", [_untagged("ip"), sender, mark(tag), ACCEPT])]


def _untagged(kind: str) -> Expression:
    """The frame itself is of this type, not one that a VLAN tag hides (which ``ip`` matches too)."""
    return match(payload("ether", "type"), kind)


def allowed(vif: Vif) -> list[tuple[str, str]]:
    """(MAC, IPv4 address or prefix) pairs that the guest may use; none within another (nft forbids it)."""
    mac = vif.mac.lower()
    found = [(mac, ip_network(address.ip)) for address in vif.addresses]
    for pair in vif.allowed_address_pairs:
        found.append(((pair.mac_address or mac).lower(), ip_network(pair.ip_address, strict=False)))
    four = {(mac, net) for mac, net in found if net.version == 4}
    kept = [
        (mac, net)
        for mac, net in four
        if not any(mac == m and net != n and net.subnet_of(n) for m, n in four)
    ]
    return sorted((mac, str(net)) for mac, net in kept)


def _address(network: str) -> Any:
    address, _, length = network.partition("/")
    return address if length == "32" else prefix(address, int(length))


# The host's side of the networks' links
def host_table(
    name: str,
    transits: list[str],
    bridges: Mapping[str, int],
    transit_cidr: str,
    nat: bool,
    owners: Mapping[int, Mapping[str, str]] | None = None,
    switched: Collection[str] | None = None,
) -> Table:
    """``bridges``: each one's zone of connections. ``owners``: by zone, which guarded port has an address.
    ``switched``: the ports of the switch, if there is one."""
    owners = owners or {}
    from_guests = match(meta("iifname"), "@transits")
    to_guests = match(meta("oifname"), "@transits")
    bridged = match(meta("iifname"), "@bridges")
    inside, length = transit_cidr.split("/")
    forward = [
        Rule("answers to guests", [to_guests, _ANSWERS, ACCEPT]),
        Rule("only this host opens connections to guests", [to_guests, DROP]),
    ]
    masquerade = Rule(
        "guests go out with the host's address",
        [
            match(payload("ip", "saddr"), prefix(inside, int(length))),
            match(meta("oifname"), "@transits", "!="),
            match(meta("oifname"), "@bridges", "!="),
            MASQUERADE,
        ],
    )
    if nat:
        forward.append(Rule("nothing goes out untranslated", [from_guests, INVALID, DROP]))
    else:
        forward.append(Rule("guests do not go out", [from_guests, DROP]))
    return Table(
        "inet",
        name,
        sets=[
            Set("transits", dict.fromkeys(transits)),
            Set("bridges", dict.fromkeys(bridges)),
            Set("zones", {bridge: f"zone-{number}" for bridge, number in bridges.items()}, verdicts=True),
            Set(
                "askers",
                {bridge: f"askers-{number}" for bridge, number in bridges.items() if number in owners},
                verdicts=True,
            ),
            *(one for number in bridges.values() for one in _asker_sets(number, owners.get(number, {}))),
            *([] if switched is None else [past_switch.devices(switched)]),
        ],
        chains=[
            # Bridged packets come by here, through br_netfilter: networks with the same addresses must not
            # meet in one table of connections.
            Chain(
                "bridged",
                [
                    *([] if switched is None else [past_switch.rule()]),
                    Rule("each network has its zone", [{"vmap": {"key": meta("iifname"), "data": "@zones"}}]),
                ],
                Hook("filter", "prerouting", -300),
            ),
            *(Chain(f"zone-{number}", [Rule("its own", [zone(number)])]) for number in bridges.values()),
            *(
                _askers(number, owners[number])
                for number in sorted(set(bridges.values()))
                if number in owners
            ),
            # After conntrack (-200). See security.py.
            Chain(
                "answers",
                [
                    # Behind a port's own bridge there may be another's: each finds out for itself.
                    Rule("what another bridge found", [bridged, _ANSWER, mark(0)]),
                    Rule("what no rule allows any more", [bridged, _CLOSED, DROP]),
                    Rule("who asks", [bridged, _TAGGED, _ORIGINAL, set_ct_mark(meta("mark"))]),
                    Rule("it is noted", [bridged, _TAGGED, mark(0)]),
                    Rule(
                        "who has asked is answered",
                        [_REPLY, {"vmap": {"key": meta("iifname"), "data": "@askers"}}],
                    ),
                    Rule("what answers", [bridged, _REPLY, _ESTABLISHED, mark(security.ANSWER)]),
                    Rule("errors about it", [bridged, _RELATED, mark(security.ANSWER)]),
                ],
                Hook("filter", "prerouting", -150),
            ),
            keep_out(from_guests, "guests do not reach the host"),
            Chain("forward", forward, Hook("filter", "forward", 0)),
            Chain("postrouting", [masquerade] if nat else [], Hook("nat", "postrouting", 100)),
        ],
    )


def keep_out(who: Expression, why: str) -> Chain:
    """The host answers their pings, they answer the host, and reach nothing else of it."""
    return Chain(
        "input",
        [
            Rule("answers to the host", [who, _ANSWERS, ACCEPT]),
            Rule("ping", [who, match(payload("icmp", "type"), "echo-request"), ACCEPT]),
            Rule(why, [who, DROP]),
        ],
        Hook("filter", "input", 0),
    )


_KINDS = ((4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr"))


def _asker_sets(zone_number: int, owners: Mapping[str, str]) -> list[Set]:
    """The addresses of a zone's guarded ports, and each with what its port's connections are marked by."""
    sets = []
    for version, family, kind in _KINDS:
        tags = {ip: security.tag(owner) for ip, owner in owners.items() if ip_address(ip).version == version}
        if tags:
            pairs = [f"{ip} . {number}" for ip, number in tags.items()]
            sets.append(Set(f"guarded-{family}-{zone_number}", dict.fromkeys(tags), kind=kind))
            sets.append(Set(f"askers-{family}-{zone_number}", dict.fromkeys(pairs), kind=[kind, "mark"]))
    return sets


def _askers(zone_number: int, owners: Mapping[str, str]) -> Chain:
    """What comes to a guarded port's own address answers it only if that port has asked. Not if somebody did
    who may use others' addresses, nor who had this one before."""
    rules = []
    for version, family, _ in _KINDS:
        if any(ip_address(ip).version == version for ip in owners):
            to = payload(family, "daddr")
            own = match(to, f"@guarded-{family}-{zone_number}")
            other = match(concat(to, ct("mark")), f"@askers-{family}-{zone_number}", "!=")
            rules.append(Rule("another has asked", [own, other, ACCEPT]))
    return Chain(f"askers-{zone_number}", rules)


_ASKERS = "askers"
_OF_ONE, _OF_ALL = (20, 100), (200, 400)
"""Connections a second to the metadata service, and at once: of an address; of all on a network. Who starts
makes some sixty, one after another."""


def namespace_table() -> Table:
    leaves = match(meta("oifname"), names.UPLINK)
    begins = match({"&": [payload("tcp", "flags"), ["syn", "ack"]]}, "syn")
    asks = [begins, match(payload("tcp", "dport"), 80)]
    often = each(payload("ip", "saddr"), _ASKERS, over(*_OF_ONE))
    return Table(
        "ip",
        "kilonova",
        sets=[Set(_ASKERS, {}, kind="ipv4_addr", fades=60)],
        chains=[
            # Each costs the agent, which answers, some of its time.
            Chain(
                "input",
                [
                    Rule("who asks the metadata service so often waits", [*asks, often, DROP]),
                    Rule("so do all, where many ask so often", [*asks, over(*_OF_ALL), DROP]),
                ],
                Hook("filter", "input", 0),
            ),
            Chain(
                "forward",
                [Rule("nothing leaves untranslated", [leaves, INVALID, DROP])],
                Hook("filter", "forward", 0),
            ),
            Chain(
                "postrouting",
                [
                    Rule(
                        "guests leave with the network's transit address",
                        [leaves, MASQUERADE],
                    )
                ],
                Hook("nat", "postrouting", 100),
            ),
        ],
    )
