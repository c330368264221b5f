"""The firewall's rule sets for routers, as data (see nft.py). Pure.

ip kilonova          in a router's namespace: SNAT, floating IPs and ports of some that lead elsewhere, and
                     that from outside nothing comes in but by a floating IP
inet kilonova-r-…    on the host: what external networks may reach of it, and NAT to the outside
bridge kilonova-r-…  on the host: routers do not reach it through the bridges of projects' networks
arp kilonova-r-…     on the host, with a switch: nor past that, as inet kilonova-r-… says of IP
"""

from __future__ import annotations

from typing import Any

from kilonova.domain.routers import RouterForwarding
from kilonova.network.host import past_switch
from kilonova.network.host.firewall import INVALID, keep_out
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
    ct,
    match,
    meta,
    one_of,
    payload,
    prefix,
    span,
)
from kilonova.network.host.router_plan import RouterPlan

_ANSWERS = match(ct("state"), ["established", "related"], op="in")
_TRANSLATED = match(ct("status"), "dnat", "in")
_UNTRANSLATED = match({"&": [ct("status"), "dnat"]}, 0)
_SOURCE, _TARGET = payload("ip", "saddr"), payload("ip", "daddr")


# In the router's namespace
def router_table(plan: RouterPlan) -> Table:
    """Without a gateway there is nothing to translate, and nobody to keep out."""
    chains = [] if plan.outside is None or plan.gateway_ip is None else _chains(plan, plan.gateway_ip)
    return Table("ip", "kilonova", sets=[], chains=chains)


def _chains(plan: RouterPlan, gateway_ip: str) -> list[Chain]:
    outside = plan.outside
    from_inside = match(meta("iifname"), outside, "!=")
    to_inside = match(meta("oifname"), outside, "!=")
    leaves = match(meta("oifname"), outside)
    out, inwards, translated = [], [], []
    if plan.floating:
        own = match(_SOURCE, one_of(sorted(plan.floating.values())))
        translated.append(
            Rule("no floating IP's guest leaves untranslated", [from_inside, leaves, own, INVALID, DROP])
        )
        inwards.append(Rule("floating IPs lead in", [_nat("dnat", _TARGET, plan.floating)]))
        by_fixed = {fixed: floating for floating, fixed in plan.floating.items()}
        out.append(Rule("who has a floating IP goes out with it", [_nat("snat", _SOURCE, by_fixed)]))
    inwards += [Rule("a port leads in", _forward(one)) for one in plan.forwardings]
    if plan.snat:
        translated = [Rule("nothing leaves untranslated", [from_inside, leaves, INVALID, DROP])]
        out.append(Rule("others go out with the gateway's address", [leaves, _snat(gateway_ip)]))
    out.append(
        Rule(
            "who asks a floating IP from inside is answered through the router",
            [from_inside, _TRANSLATED, _snat(gateway_ip)],
        )
    )
    within = Rule(
        "between the router's networks nothing is translated",
        [from_inside, to_inside, _UNTRANSLATED, ACCEPT],
    )
    closed = [
        Rule("answers", [_ANSWERS, ACCEPT]),
        Rule("in by a floating IP", [_TRANSLATED, ACCEPT]),
        Rule("nothing else comes in", [match(meta("iifname"), outside), to_inside, DROP]),
    ]
    return [
        Chain("prerouting", inwards, Hook("nat", "prerouting", -100)),
        Chain("forward", [*translated, *(closed if plan.snat else [])], Hook("filter", "forward", 0)),
        Chain("postrouting", [within, *out], Hook("nat", "postrouting", 100)),
    ]


def _nat(verb: str, key: Expression, addresses: dict[str, str]) -> Expression:
    """Translated by a map; what is not in it stays as it is."""
    elements = [[source, target] for source, target in sorted(addresses.items())]
    return {verb: {"addr": {"map": {"key": key, "data": {"set": elements}}}}}


def _forward(one: RouterForwarding) -> list[Expression]:
    """nft has no range that is shifted: of such, each port has an element."""
    port = payload(one.protocol, "dport")
    outer = one.external_first
    matches = [match(_TARGET, one.floating_ip), match(port, span(outer, one.external_last))]
    if one.external_first == one.external_last:
        matches[1] = match(port, outer)
    to: dict[str, Any] = {"addr": one.fixed_ip}
    if one.internal_first == one.internal_last:
        to["port"] = one.internal_first
    elif one.internal_first != outer:
        shift = one.internal_first - outer
        each = [[number, number + shift] for number in range(outer, one.external_last + 1)]
        to["port"] = {"map": {"key": port, "data": {"set": each}}}
    return [*matches, {"dnat": to}]


def _snat(address: str) -> Expression:
    return {"snat": {"addr": address}}


# On the host
def host_table(
    name: str, outer: list[str], cidrs: list[str], nat: bool, switched: list[str] | None = None
) -> Table:
    """``outer``: the bridges of external networks, whose subnets are ``cidrs``. ``switched``: the
    routers' ports of the switch, if there is one."""
    leave = [_masquerade(cidrs)] if nat and cidrs else []
    from_outer = match(meta("iifname"), "@outer")
    untranslated = [from_outer, match(meta("oifname"), "@outer", "!="), INVALID, DROP]
    forward = [Rule("nothing goes out untranslated", untranslated)] if leave else []
    return Table(
        "inet",
        name,
        sets=[
            Set("outer", dict.fromkeys(outer)),
            *([] if switched is None else [past_switch.devices(switched)]),
        ],
        chains=[
            *([] if switched is None else [_past_switch()]),
            keep_out(match(meta("iifname"), "@outer"), "routers and their guests do not reach the host"),
            Chain("forward", forward, Hook("filter", "forward", 0)),
            Chain("postrouting", leave, Hook("nat", "postrouting", 100)),
        ],
    )


def _past_switch() -> Chain:
    return Chain("switched", [past_switch.rule()], Hook("filter", "prerouting", -300))


def _masquerade(cidrs: list[str]) -> Rule:
    ranges: list[Any] = [prefix(*_parts(cidr)) for cidr in cidrs]
    return Rule(
        "external networks go out with the host's address",
        # What comes from there, not what is bridged elsewhere: br_netfilter leads that by here too.
        [
            match(meta("iifname"), "@outer"),
            match(_SOURCE, one_of(ranges)),
            match(meta("oifname"), "@outer", "!="),
            MASQUERADE,
        ],
    )


def bridge_table(name: str, links: list[str]) -> Table:
    """``links``: the ends of routers' interfaces on the bridges of projects' networks."""
    return Table(
        "bridge",
        name,
        sets=[Set("routers", dict.fromkeys(links))],
        chains=[
            Chain(
                "input",
                [
                    Rule(
                        "routers do not reach the host through a project's bridge",
                        [match(meta("iifname"), "@routers"), DROP],
                    )
                ],
                Hook("filter", "input", -300),
            )
        ],
    )


def _parts(cidr: str) -> tuple[str, int]:
    address, _, length = cidr.partition("/")
    return address, int(length)
