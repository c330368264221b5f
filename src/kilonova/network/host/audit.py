"""Is what is loaded what should be? Rule for rule, element for element, whoever changed what.

nft does not list a rule as it was written: it adds what a match implies, names numbers, orders sets, and each
version does so in its own way. So the wanted table is loaded in an empty network namespace too, and two
listings by the same nft are compared.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from kilonova.domain.errors import BuildFailed
from kilonova.network.host import linux, nft

_NOT_CONTENT = ("handle", "index")
"""Of an object as listed: what the kernel numbers, differently each time."""

Content = dict[str, list[str]]
"""Kind of object, or "rules of CHAIN" → each one's JSON; rules in their order, the rest sorted."""


def problems(table: nft.Table) -> list[str]:
    """What is amiss with the table in the caller's namespace; empty if nothing is."""
    found = nft.listed(table.family, table.name)
    if found is None:
        return [f"firewall table {table.family} {table.name} was missing"]
    present = _content(found)
    wanted = _as_listed(table.family, table.name, json.dumps(nft.replace(table)))
    wrong = {what for what in present.keys() | wanted.keys() if present.get(what) != wanted.get(what)}
    if not wrong:
        return []
    what = "sets" if wrong <= {"set", "map"} else "rules"
    return [f"firewall {what} of {table.family} {table.name} were not as they should be"]


@lru_cache(maxsize=8)  # of the few tables that a look asks for, between two looks few change
def _as_listed(family: str, name: str, commands: str) -> Content:
    """What nft lists when these commands (JSON) were all that there is."""

    def load_and_list() -> list[dict[str, Any]] | None:
        nft.apply(json.loads(commands))
        return nft.listed(family, name)

    found = linux.aside(load_and_list)
    if not found:
        raise BuildFailed(f"nft: {family} {name} was loaded, but cannot be listed")
    return _content(found)


def _content(listed: list[dict[str, Any]]) -> Content:
    content: Content = {}
    for entry in listed:
        for kind, thing in entry.items():
            if kind == "rule":
                content.setdefault(f"rules of {thing['chain']}", []).append(_text(thing))
            elif kind != "metainfo":
                content.setdefault(kind, []).append(_text(thing))
    return {what: texts if what.startswith("rules of ") else sorted(texts) for what, texts in content.items()}


def _text(thing: dict[str, Any]) -> str:
    if "timeout" in thing.get("flags", ()):  # what rules put in is no content
        thing = {name: value for name, value in thing.items() if name != "elem"}
    kept = {name: _ordered(name, value) for name, value in thing.items() if name not in _NOT_CONTENT}
    return json.dumps(kept, sort_keys=True)


def _ordered(name: str, value: Any) -> Any:
    """The value with the elements of all sets within it in one order."""
    if isinstance(value, dict):
        return {inner: _ordered(inner, one) for inner, one in value.items()}
    if not isinstance(value, list):
        return value
    values = [_ordered("", one) for one in value]
    return sorted(values, key=json.dumps) if name in ("set", "elem") else values
