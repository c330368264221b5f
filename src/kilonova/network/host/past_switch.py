"""The host's own stack does not hear the ports of Open vSwitch, as rules (see nft.py). Pure.

In user space the switch reads its devices beside that stack, which gets each frame too: it would answer ARP
for any address of the host, and take or route what comes after that, past all rules for bridges. With the
kernel's module it hears nothing. The switch reads before these rules, so it misses nothing by them.
"""

from __future__ import annotations

from collections.abc import Iterable

from kilonova.network.host.nft import DROP, Chain, Hook, Rule, Set, Table, match, meta

NAME = "switched"


def devices(ports: Iterable[str]) -> Set:
    """The set that rule() names: ports of the switch, whether they are there yet or not."""
    return Set(NAME, dict.fromkeys(sorted(ports)))


def rule() -> Rule:
    """Belongs before all others of a prerouting hook."""
    return Rule("what a port of the switch takes is the switch's", [match(meta("iifname"), f"@{NAME}"), DROP])


def arp_table(name: str, ports: Iterable[str]) -> Table:
    """ARP has a family of its own."""
    return Table(
        "arp",
        name,
        sets=[devices(ports)],
        chains=[Chain("input", [rule()], Hook("filter", "input", -300))],
    )
