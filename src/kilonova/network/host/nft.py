"""nftables: rule sets as data, changed in one atomic transaction.

A Table here is what should be; audit.py compares it with what is loaded. Every rule has a comment, by which
``nft list ruleset`` explains itself to the operator. The JSON is libnftables-json(5).
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import msgspec

from kilonova.domain.errors import BuildFailed

_MOST_FADING = 4096

Expression = dict[str, Any]
Command = dict[str, Any]


class Refused(BuildFailed):
    """nft, or the kernel, does not take these commands; nothing of them was done."""


class Rule(msgspec.Struct, frozen=True):
    comment: str
    expressions: list[Expression]


class Hook(msgspec.Struct, frozen=True):
    """Where a base chain meets the packets; without a verdict they pass."""

    type: str
    hook: str
    priority: int


class Chain(msgspec.Struct, frozen=True):
    name: str
    rules: list[Rule]
    hook: Hook | None = None


class Set(msgspec.Struct, frozen=True):
    """A named set of device names; with ``verdicts`` a map of each to the chain it jumps to.

    ``kind``: nft's type of the elements; of several, each element is those with `` . `` between them.
    ``ranges``: they are networks' addresses (10.0.0.0/8). ``fades``: rules put elements in, 4096 at most;
    each goes when no rule has named it for so many seconds.
    """

    name: str
    elements: dict[str, str | None]
    verdicts: bool = False
    kind: str | list[str] = "ifname"
    ranges: bool = False
    fades: int | None = None


class Table(msgspec.Struct, frozen=True):
    family: str
    name: str
    sets: list[Set]
    chains: list[Chain]


# Expressions
ACCEPT: Expression = {"accept": None}
DROP: Expression = {"drop": None}
RETURN: Expression = {"return": None}
"""From the chain, to go on in the one that jumped there."""
MASQUERADE: Expression = {"masquerade": None}


def payload(protocol: str, field: str) -> Expression:
    return {"payload": {"protocol": protocol, "field": field}}


def meta(key: str) -> Expression:
    return {"meta": {"key": key}}


def ct(key: str) -> Expression:
    return {"ct": {"key": key}}


def bits(base: str, offset: int, length: int) -> Expression:
    """So many bits of a packet from there on: "th" is where the transport's header begins."""
    return {"payload": {"base": base, "offset": offset, "len": length}}


def notrack() -> Expression:
    """A statement: no connection is looked up for the packet."""
    return {"notrack": None}


def match(left: Expression, right: Any, op: str = "==") -> Expression:
    return {"match": {"op": op, "left": left, "right": right}}


def concat(*parts: Any) -> Expression:
    return {"concat": list(parts)}


def span(first: int | str, last: int | str) -> Expression:
    return {"range": [first, last]}


def mark(value: int) -> Expression:
    """A statement: the packet has this mark from here on."""
    return {"mangle": {"key": meta("mark"), "value": value}}


def send_to(mac: str) -> Expression:
    """A statement: the frame goes to that MAC, whoever it was for."""
    return {"mangle": {"key": payload("ether", "daddr"), "value": mac}}


def set_ct_mark(value: Any) -> Expression:
    """A statement: its connection has this mark from here on."""
    return {"mangle": {"key": ct("mark"), "value": value}}


def over(rate: int, burst: int) -> Expression:
    """A match: more than so many a second come here, after so many at once."""
    return {"limit": {"rate": rate, "burst": burst, "per": "second", "inv": True}}


def each(key: Expression, named: str, test: Expression) -> Expression:
    """A match: ``test`` fits, for the packets with this key alone. The set of that name, one that fades,
    holds the keys; where it is full, it fits none that is not in it."""
    return {"set": {"op": "update", "elem": key, "set": f"@{named}", "stmt": [test]}}


def zone(number: int) -> Expression:
    """A statement: its connection is one of this zone, apart from all others."""
    return {"mangle": {"key": ct("zone"), "value": number}}


def one_of(values: list[Any]) -> Expression:
    return {"set": values}


def prefix(address: str, length: int) -> Expression:
    return {"prefix": {"addr": address, "len": length}}


# Commands
def replace(table: Table) -> list[Command]:
    """The table is exactly this, whatever was there."""
    name = {"family": table.family, "name": table.name}
    commands: list[Command] = [
        {"add": {"table": name}},
        {"delete": {"table": name}},
        {"add": {"table": name}},
    ]
    # A map's elements name chains, so chains come before sets and rules after both.
    commands += [_add_chain(table, chain) for chain in table.chains]
    for named in table.sets:
        commands.append(_add_set(table, named))
    for chain in table.chains:
        commands += add_rules(table.family, table.name, chain)
    for named in table.sets:
        commands += add_elements(table, named, list(named.elements))
    return commands


def difference(before: Table, after: Table) -> list[Command]:
    """What makes ``before``, which is loaded, to ``after``; base chains are alike in both.

    What is new comes first and what goes last, since elements and rules name chains, and rules sets.
    """
    old_sets, new_sets = ({named.name: named for named in table.sets} for table in (before, after))
    old, new = ({chain.name: chain for chain in table.chains} for table in (before, after))
    commands: list[Command] = [
        _add_set(after, named) for name, named in new_sets.items() if name not in old_sets
    ]
    changed = [chain for name, chain in new.items() if old.get(name) != chain]
    commands += [_add_chain(after, chain) for chain in changed if chain.name not in old]
    for name, named in new_sets.items():
        commands += _set_elements(after, old_sets.get(name, Set(name, {})), named)
    for chain in changed:
        commands += [{"flush": {"chain": _chain_at(after, chain.name)}}] if chain.name in old else []
        commands += add_rules(after.family, after.name, chain)
    gone = [name for name in old if name not in new]
    commands += [{"flush": {"chain": _chain_at(after, name)}} for name in gone]
    commands += [{"delete": {"chain": _chain_at(after, name)}} for name in gone]
    commands += [
        {"delete": {"map" if named.verdicts else "set": _chain_at(after, name)}}
        for name, named in old_sets.items()
        if name not in new_sets
    ]
    return commands


def _set_elements(table: Table, old: Set, new: Set) -> list[Command]:
    if old.elements == new.elements:
        return []
    if new.ranges:
        empty = [{"flush": {"set": _chain_at(table, new.name)}}] if old.elements else []
        return empty + add_elements(table, new, list(new.elements))
    gone = [
        key for key, value in old.elements.items() if key not in new.elements or new.elements[key] != value
    ]
    came = [
        key for key, value in new.elements.items() if key not in old.elements or old.elements[key] != value
    ]
    commands: list[Command] = [{"delete": {"element": _element(table, old, [key])}} for key in gone]
    return commands + add_elements(table, new, came)


def _chain_at(table: Table, name: str) -> dict[str, Any]:
    return {"family": table.family, "table": table.name, "name": name}


def delete_table(family: str, name: str) -> list[Command]:
    """The table is gone, also when it was not there."""
    table = {"table": {"family": family, "name": name}}
    return [{"add": table}, {"delete": table}]


def add_rules(family: str, table: str, chain: Chain) -> list[Command]:
    at = {"family": family, "table": table, "chain": chain.name}
    return [
        {"add": {"rule": at | {"comment": rule.comment, "expr": rule.expressions}}} for rule in chain.rules
    ]


def add_elements(table: Table, named: Set, keys: list[str]) -> list[Command]:
    """In one command: each costs the parser as much as ten elements."""
    return [{"add": {"element": _element(table, named, keys)}}] if keys else []


def _element(table: Table, named: Set, keys: list[str]) -> dict[str, Any]:
    elements = [_value(named, key) for key in keys]
    return {"family": table.family, "table": table.name, "name": named.name, "elem": elements}


def _value(named: Set, key: str) -> Any:
    if named.verdicts:
        return [key, {"jump": {"target": named.elements[key]}}]
    if named.ranges:
        address, _, length = key.partition("/")
        return address if length == ("128" if ":" in address else "32") else prefix(address, int(length))
    return key if isinstance(named.kind, str) else concat(*key.split(" . "))


def _add_set(table: Table, named: Set) -> Command:
    at: dict[str, Any] = {"family": table.family, "table": table.name, "name": named.name, "type": named.kind}
    if named.ranges:
        at["flags"] = ["interval"]
    if named.fades:
        at |= {"flags": ["timeout"], "timeout": named.fades, "size": _MOST_FADING}
    return {"add": {"map": at | {"map": "verdict"}}} if named.verdicts else {"add": {"set": at}}


def _add_chain(table: Table, chain: Chain) -> Command:
    at: dict[str, Any] = {"family": table.family, "table": table.name, "name": chain.name}
    if chain.hook:
        at |= {
            "type": chain.hook.type,
            "hook": chain.hook.hook,
            "prio": chain.hook.priority,
            "policy": "accept",
        }
    return {"add": {"chain": at}}


# The tool
def apply(commands: list[Command]) -> None:
    """All of it in one transaction, in the caller's network namespace.

    Refused if it is not taken; BuildFailed if there is no telling: no nft, or one that does not end.
    """
    _run(["-f", "-"], json.dumps({"nftables": commands}))


def listed(family: str, name: str) -> list[dict[str, Any]] | None:
    """What is loaded under that name in the caller's namespace; None if there is no such table.

    Empty if nft's own listing is no JSON (1.0.6 with a table's flags): then it is nothing that we made.
    """
    try:
        text = _run(["list", "table", family, name])
    except Refused:
        return None
    try:
        entries: list[dict[str, Any]] = json.loads(text)["nftables"]
    except json.JSONDecodeError:
        return []
    return entries


def _run(arguments: list[str], text: str | None = None) -> str:
    try:
        done = subprocess.run(
            ["nft", "-j", *arguments], input=text, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildFailed(f"nft: {error}") from error
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.strip()), f"exit {done.returncode}")
        raise Refused(f"nft: {reason}")
    return done.stdout
