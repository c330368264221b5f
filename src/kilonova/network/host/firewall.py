"""The firewall's rule sets, as data (see nft.py). Pure.

    bridge kilonova-…  on the host: what a guest may send (anti-spoofing), and that it reaches no address of
                       the host through its bridge
    inet kilonova-…    on the host: NAT to the outside, the host's own protection, no traffic between networks
    ip kilonova        in a network's namespace: NAT from the guests' addresses, which other networks may have
                       too, to the network's own transit address

The host's tables are named from the state folder, so that two agents on a machine do not undo each other.
A rule for a port is in a chain of its own, so that a plug changes nothing else.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from kilonova.domain.network import Vif
from kilonova.network.host import names
from kilonova.network.host.nft import (
    ACCEPT,
    DROP,
    MASQUERADE,
    NOTRACK,
    Chain,
    Command,
    Expression,
    Hook,
    Rule,
    Set,
    Table,
    add_element,
    concat,
    ct,
    delete_chain,
    delete_element,
    match,
    meta,
    one_of,
    payload,
    prefix,
    set_chain,
)

_ETHER = payload("ether", "saddr")
_ANSWERS = match(ct("state"), ["established", "related"], op="in")


# What guests may send
def bridge_table(name: str, vifs: list[Vif], gates: list[str]) -> Table:
    """The whole table, for these ports and these networks' gates."""
    guarded = [vif for vif in vifs if vif.port_security]
    own = [*(vif.tap for vif in vifs), *gates]
    return Table(
        "bridge",
        name,
        sets=[
            Set("guards", {vif.tap: _chain_name(vif.port_id) for vif in guarded}, verdicts=True),
            Set("ports", dict.fromkeys(own)),
        ],
        chains=[
            Chain(
                "prerouting",
                [
                    Rule(
                        "each guarded port has its chain",
                        [{"vmap": {"key": meta("iifname"), "data": "@guards"}}],
                    )
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
            *(_port_chain(vif) for vif in guarded),
        ],
    )


def guard(name: str, vif: Vif) -> list[Command]:
    """This port's part of bridge_table(): set right, whatever was there of it."""
    table = bridge_table(name, [vif], [])
    guards, ports = table.sets
    commands = add_element(table, ports, vif.tap)
    if not vif.port_security:
        return unguard(name, vif.port_id) + commands
    return commands + set_chain(table, table.chains[-1]) + add_element(table, guards, vif.tap)


def unguard(name: str, port_id: str) -> list[Command]:
    """Nothing is left of guard(); fine if there was nothing."""
    chain, tap = _chain_name(port_id), names.tap(port_id)
    table = bridge_table(name, [], [])
    guards, ports = Set("guards", {tap: chain}, verdicts=True), Set("ports", {tap: None})
    return [
        *set_chain(table, Chain(chain, [])),
        *delete_element(table, guards, tap),
        *delete_chain(table, chain),
        *delete_element(table, ports, tap),
    ]


def _chain_name(port_id: str) -> str:
    return f"port-{port_id}"


def _port_chain(vif: Vif) -> Chain:
    pairs = allowed(vif)
    macs = sorted({mac for mac, _ in pairs} | {vif.mac.lower()})
    addresses = [concat(mac, _address(ip)) for mac, ip in pairs]
    unset = [concat(mac, "0.0.0.0") for mac in macs]  # noqa: S104 - an ARP probe's sender, RFC 5227
    udp = payload("udp", "sport")
    return Chain(
        _chain_name(vif.port_id),
        [
            Rule("only its MAC", [match(_ETHER, one_of(list(macs)), "!="), DROP]),
            Rule("no DHCP server", [match(udp, 67), DROP]),
            Rule(
                "asking for DHCP without an address",
                [
                    match(payload("ip", "saddr"), "0.0.0.0"),  # noqa: S104
                    match(udp, 68),
                    match(payload("udp", "dport"), 67),
                    ACCEPT,
                ],
            ),
            Rule(
                "ARP only of its MAC and IP",
                [
                    match(
                        concat(payload("arp", "saddr ether"), payload("arp", "saddr ip")),
                        one_of([*addresses, *unset]),
                        "!=",
                    ),
                    DROP,
                ],
            ),
            Rule("IPv4 only of its MAC and IP", _only_these(addresses)),
            Rule("ARP and IPv4", [match(payload("ether", "type"), one_of(["arp", "ip"])), ACCEPT]),
            Rule("nothing else", [DROP]),
        ],
    )


def _only_these(addresses: list[Expression]) -> list[Expression]:
    if not addresses:
        return [match(payload("ether", "type"), "ip"), DROP]
    return [match(concat(_ETHER, payload("ip", "saddr")), one_of(list(addresses)), "!="), DROP]


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
def host_table(name: str, transits: list[str], bridges: list[str], transit_cidr: str, nat: bool) -> Table:
    from_guests = match(meta("iifname"), "@transits")
    to_guests = match(meta("oifname"), "@transits")
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
            MASQUERADE,
        ],
    )
    if not nat:
        forward.append(Rule("guests do not go out", [from_guests, DROP]))
    return Table(
        "inet",
        name,
        sets=[Set("transits", dict.fromkeys(transits)), Set("bridges", dict.fromkeys(bridges))],
        chains=[
            Chain(
                "bridged",
                # With br_netfilter, bridged frames come by here: networks with the same addresses must not
                # meet in one connection table, nor in the NAT rules of other programs.
                [
                    Rule(
                        "within a network: not the host's business",
                        [match(meta("iifname"), "@bridges"), NOTRACK],
                    )
                ],
                Hook("filter", "prerouting", -300),
            ),
            Chain(
                "input",
                [
                    Rule("answers to the host", [from_guests, _ANSWERS, ACCEPT]),
                    Rule("ping", [from_guests, match(payload("icmp", "type"), "echo-request"), ACCEPT]),
                    Rule("guests do not reach the host", [from_guests, DROP]),
                ],
                Hook("filter", "input", 0),
            ),
            Chain("forward", forward, Hook("filter", "forward", 0)),
            Chain("postrouting", [masquerade] if nat else [], Hook("nat", "postrouting", 100)),
        ],
    )


def namespace_table() -> Table:
    return Table(
        "ip",
        "kilonova",
        sets=[],
        chains=[
            Chain(
                "postrouting",
                [
                    Rule(
                        "guests leave with the network's transit address",
                        [match(meta("oifname"), names.UPLINK), MASQUERADE],
                    )
                ],
                Hook("nat", "postrouting", 100),
            )
        ],
    )


def joined(table: Table) -> list[Command]:
    """The elements of this table's sets are in the sets that are loaded."""
    return [
        command
        for named in table.sets
        for key in named.elements
        for command in add_element(table, named, key)
    ]


def parted(table: Table) -> list[Command]:
    """The elements of this table's sets are in no set."""
    return [
        command
        for named in table.sets
        for key in named.elements
        for command in delete_element(table, named, key)
    ]
