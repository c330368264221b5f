"""What a filter and a weigher are: a name and a plain function over a list of hosts.

They see all hosts at once, not one by one: a thousand hosts cost a list comprehension, not a thousand calls.
Third parties add theirs by the entry points ``kilonova.scheduler.filters`` and ``…weighers``
(docs/how-to/add-a-filter.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from kilonova.domain.errors import BadRequest
from kilonova.domain.hosts import Capacity
from kilonova.domain.messages import SelectDestinations
from kilonova.domain.servers import BuildSpec
from kilonova.scheduler.hosts import HostState

Hosts = Sequence[HostState]


@dataclass(frozen=True)
class Filter:
    """``passing(request, hosts)``: the hosts that may take the server.

    For "No valid host", in a few words that name no host: ``needed(request)`` is what it asked for,
    ``found(hosts)`` what there is of it.
    """

    name: str
    passing: Callable[[SelectDestinations, Hosts], list[HostState]]
    needed: Callable[[SelectDestinations], str] = lambda _request: ""
    found: Callable[[Hosts], str] = lambda _hosts: ""


@dataclass(frozen=True)
class Weigher:
    """``weigh(hosts)``: one number a host, more is better; scaled to 0..1 and times the multiplier."""

    name: str
    weigh: Callable[[Hosts], list[float]]
    multiplier: float = 1.0


Rule = TypeVar("Rule", Filter, Weigher)


def chosen(kind: type[Rule], group: str, built_in: Sequence[Rule], names: Sequence[str]) -> list[Rule]:
    """The rules of those names in that order; all built-in ones if none is named.

    Of third parties' only what is named is loaded. BadRequest: there is none of that name, or it is no rule.
    """
    if not names:
        return list(built_in)
    known: dict[str, Rule] = {rule.name: rule for rule in built_in}
    others: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=group)}
    if unknown := [name for name in names if name not in known and name not in others]:
        there_are = ", ".join([*known, *others])
        raise BadRequest(f"no such scheduler rule: {', '.join(unknown)}; there are {there_are}")
    return [known[name] if name in known else _loaded(kind, others[name]) for name in names]


def _loaded(kind: type[Rule], entry: EntryPoint) -> Rule:
    try:
        rule = entry.load()
    except Exception as error:
        raise BadRequest(f"scheduler rule {entry.name} ({entry.value}) cannot be loaded: {error}") from error
    if not isinstance(rule, kind) or rule.name != entry.name:
        raise BadRequest(f"{entry.value} is no {kind.__name__} of the name {entry.name}")
    return rule


def need_of(spec: BuildSpec) -> Capacity:
    """What a server takes of a host, which is what its flavor says; swap counts as disk, rounded up to GiB.

    The system disk of one that boots from a volume is elsewhere.
    """
    flavor = spec.flavor
    swap_gb = -(-flavor.swap_mb // 1024)
    root_gb = 0 if spec.boots_from_volume else flavor.root_gb
    return Capacity(
        vcpus=flavor.vcpus,
        memory_mb=flavor.memory_mb,
        disk_gb=root_gb + flavor.ephemeral_gb + swap_gb,
    )
