"""What may pass a tunnel, and who may use one, as nft's tables (see nft.py). Pure.

bridge kilonova-tunnels-…   between a network's tunnel and its bridge: nothing of the network's namespace,
                            which each host has for itself with the same MAC and addresses (its DHCP,
                            metadata and gateway), in either direction; nothing of a tunnel reaches the
                            host itself
inet kilonova-tunnels-…     on the host: a network's frames are taken from its other hosts alone; guests
                            do not speak VXLAN through the host, whose address they would have, also while
                            it has no tunnel; what tunnels carry is not tracked twice
arp kilonova-tunnels-…      where the tunnels lead to a switch: the host is deaf to that end
                            (past_switch.py)
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kilonova.network.host import names, past_switch
from kilonova.network.host.nft import (
    DROP,
    Chain,
    Hook,
    Rule,
    Set,
    Table,
    bits,
    match,
    meta,
    notrack,
    one_of,
    payload,
)

_DHCP = [67, 68, 546, 547]
_VNI = (96, 24)
"""Where RFC 7348 has the identifier, and its length: bits after the UDP header's beginning."""


class Guarded(msgspec.Struct, frozen=True, kw_only=True):
    """An open tunnel. ``addresses``: the network's namespace's own; ``bridge``: one that is only the
    tunnel's."""

    network_id: str
    segmentation_id: int
    peers: list[str]
    addresses: list[str] = []
    bridge: str | None = None


def tables(name: str, port: int, tunnels: Mapping[str, Guarded], to_switch: bool) -> tuple[Table, ...]:
    """``to_switch``: that is where tunnels lead on this host."""
    ordered = [tunnels[key] for key in sorted(tunnels)]
    found = _between(name, ordered), _outside(name, port, ordered)
    return (*found, past_switch.arp_table(name, _switched(ordered))) if to_switch else found


def _switched(tunnels: list[Guarded]) -> list[str]:
    return [names.tunnel_outer(one.network_id) for one in tunnels if one.bridge]


def _between(name: str, tunnels: list[Guarded]) -> Table:
    chains = {names.tunnel(one.network_id): f"tunnel-{one.network_id}" for one in tunnels}
    each = [
        Rule(f"what {words} a tunnel", [{"vmap": {"key": meta(key), "data": "@tunnels"}}])
        for key, words in (("iifname", "comes by"), ("oifname", "goes by"))
    ]
    # A bridge that is only the tunnel's has another port, which leads to all guests here.
    inner = [names.tunnel_inner(one.network_id) for one in tunnels if one.bridge]
    ends = match(meta("iifname"), one_of([*chains, *inner]))
    closed = [Rule("no tunnel leads to the host", [ends, DROP])] if tunnels else []
    return Table(
        "bridge",
        name,
        sets=[Set("tunnels", dict[str, str | None](chains), verdicts=True)],
        chains=[
            *(Chain(f"tunnel-{one.network_id}", _of_tunnel(one)) for one in tunnels),
            Chain("forward", each, Hook("filter", "forward", -250)),
            Chain("input", closed, Hook("filter", "input", -250)),
        ],
    )


def _of_tunnel(one: Guarded) -> list[Rule]:
    own = names.guests_mac(one.network_id)
    rules = [
        Rule("each host has this for itself", [match(payload("ether", "saddr"), own), DROP]),
        Rule("and asks nobody else for it", [match(payload("ether", "daddr"), own), DROP]),
        Rule("DHCP is each host's own", [match(payload("udp", "dport"), one_of(list(_DHCP))), DROP]),
    ]
    if one.addresses:
        asked = match(payload("arp", "daddr ip"), one_of(list(one.addresses)))
        rules.append(Rule("nobody elsewhere is asked who has these", [asked, DROP]))
    return rules


def _outside(name: str, port: int, tunnels: list[Guarded]) -> Table:
    to_tunnels = match(payload("udp", "dport"), port)
    switched = _switched(tunnels)
    bridges = sorted(one.bridge for one in tunnels if one.bridge)
    untracked = Rule("connections are known elsewhere", [match(meta("iifname"), one_of(bridges)), notrack()])
    through = match(meta("iifname"), one_of([names.transit("*"), names.external("*")]))
    bridged = match(meta("iifname"), one_of([names.bridge("*"), names.qbr("*"), names.external("*")]), "!=")
    peers = one_of(sorted({peer for one in tunnels for peer in one.peers}))
    outer = "tunnels' own packets are of no connection"
    came = Rule(outer, [bridged, match(payload("ip", "saddr"), peers), to_tunnels, notrack()])
    goes = Rule(outer, [match(payload("ip", "daddr"), peers), to_tunnels, notrack()])
    by_network = [[one.segmentation_id, {"jump": {"target": f"hosts-{one.network_id}"}}] for one in tunnels]
    each = {"vmap": {"key": bits("th", *_VNI), "data": one_of(by_network)}}
    checked = [Rule("each network has its hosts", [to_tunnels, each])]
    return Table(
        "inet",
        name,
        sets=[past_switch.devices(switched)] if switched else [],
        chains=[
            Chain(
                "bridged",
                [*([past_switch.rule(), untracked] if bridges else []), *([came] if tunnels else [])],
                Hook("filter", "prerouting", -310),
            ),
            Chain("sent", [goes] if tunnels else [], Hook("filter", "output", -310)),
            *(Chain(f"hosts-{one.network_id}", [_from_hosts(one)]) for one in tunnels),
            Chain("input", checked if tunnels else [], Hook("filter", "input", -10)),
            Chain(
                "forward",
                [Rule("guests do not speak VXLAN with the host's address", [through, to_tunnels, DROP])],
                Hook("filter", "forward", -10),
            ),
        ],
    )


def _from_hosts(one: Guarded) -> Rule:
    others = match(payload("ip", "saddr"), one_of(list(one.peers)), "!=")
    return Rule("only from its other hosts", [others, DROP])
