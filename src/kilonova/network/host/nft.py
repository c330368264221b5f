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

Expression = dict[str, Any]
Command = dict[str, Any]


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
    """A named set of device names; with ``verdicts`` a map of each to the chain it jumps to."""

    name: str
    elements: dict[str, str | None]
    verdicts: bool = False


class Table(msgspec.Struct, frozen=True):
    family: str
    name: str
    sets: list[Set]
    chains: list[Chain]


# Expressions
ACCEPT: Expression = {"accept": None}
DROP: Expression = {"drop": None}
MASQUERADE: Expression = {"masquerade": None}
NOTRACK: Expression = {"notrack": None}


def payload(protocol: str, field: str) -> Expression:
    return {"payload": {"protocol": protocol, "field": field}}


def meta(key: str) -> Expression:
    return {"meta": {"key": key}}


def ct(key: str) -> Expression:
    return {"ct": {"key": key}}


def match(left: Expression, right: Any, op: str = "==") -> Expression:
    return {"match": {"op": op, "left": left, "right": right}}


def concat(*parts: Any) -> Expression:
    return {"concat": list(parts)}


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
        commands += [c for key in named.elements for c in add_element(table, named, key)]
    return commands


def delete_table(family: str, name: str) -> list[Command]:
    """The table is gone, also when it was not there."""
    table = {"table": {"family": family, "name": name}}
    return [{"add": table}, {"delete": table}]


def set_chain(table: Table, chain: Chain) -> list[Command]:
    """A regular chain has exactly these rules."""
    at = {"family": table.family, "table": table.name, "name": chain.name}
    return [
        {"add": {"chain": at}},
        {"flush": {"chain": at}},
        *add_rules(table.family, table.name, chain),
    ]


def delete_chain(table: Table, name: str) -> list[Command]:
    at = {"family": table.family, "table": table.name, "name": name}
    return [{"add": {"chain": at}}, {"flush": {"chain": at}}, {"delete": {"chain": at}}]


def add_rules(family: str, table: str, chain: Chain) -> list[Command]:
    at = {"family": family, "table": table, "chain": chain.name}
    return [
        {"add": {"rule": at | {"comment": rule.comment, "expr": rule.expressions}}} for rule in chain.rules
    ]


def add_element(table: Table, named: Set, key: str) -> list[Command]:
    return [{"add": {"element": _element(table, named, key)}}]


def delete_element(table: Table, named: Set, key: str) -> list[Command]:
    """Gone, also when it was not there."""
    element = {"element": _element(table, named, key)}
    return [{"add": element}, {"delete": element}]


def _element(table: Table, named: Set, key: str) -> dict[str, Any]:
    target = named.elements.get(key)
    value = [key, {"jump": {"target": target}}] if named.verdicts else key
    return {"family": table.family, "table": table.name, "name": named.name, "elem": [value]}


def _add_set(table: Table, named: Set) -> Command:
    at: dict[str, Any] = {"family": table.family, "table": table.name, "name": named.name, "type": "ifname"}
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
    """All of it in one transaction, in the caller's network namespace. BuildFailed if nft refuses."""
    _run(["-f", "-"], json.dumps({"nftables": commands}))


def listed(family: str, name: str) -> list[dict[str, Any]] | None:
    """What is loaded under that name in the caller's namespace; None if there is no such table.

    Empty if nft's own listing is no JSON (1.0.6 with a table's flags): then it is nothing that we made.
    """
    try:
        text = _run(["list", "table", family, name])
    except BuildFailed:
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
        raise BuildFailed(f"nft: {reason}")
    return done.stdout
