"""AggregateInstanceExtraSpecsFilter: what the flavor demands of the host's aggregates.

``aggregate_instance_extra_specs:KEY=VALUE``; the value may begin with an operator, ``s==``, ``<or>``, ``>=``
and the like, or be ``*``: an aggregate says it, whatever it says. Keys of no scope are left to others.
Source: https://docs.openstack.org/nova/latest/admin/scheduling.html#aggregateinstanceextraspecsfilter and
https://docs.openstack.org/nova/latest/configuration/extra-specs.html.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from kilonova.domain.messages import SelectDestinations
from kilonova.scheduler.hosts import HostState
from kilonova.scheduler.rules import Filter, Hosts

_SCOPE = "aggregate_instance_extra_specs:"
_NUMBERS: dict[str, Callable[[float, float], bool]] = {
    "=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
}
_TEXTS: dict[str, Callable[[str, str], bool]] = {
    "s==": operator.eq,
    "s!=": operator.ne,
    "s>=": operator.ge,
    "s>": operator.gt,
    "s<=": operator.le,
    "s<": operator.lt,
    "<in>": lambda found, wanted: wanted in found,
}


def _passing(request: SelectDestinations, hosts: Hosts) -> list[HostState]:
    wanted = _wanted(request)
    if not wanted:
        return list(hosts)
    return [
        host
        for host in hosts
        if all(_matches(host.aggregate_metadata.get(key, ()), value) for key, value in wanted.items())
    ]


def _wanted(request: SelectDestinations) -> dict[str, str]:
    specs = request.spec.flavor.extra_specs
    return {key.removeprefix(_SCOPE): value for key, value in specs.items() if key.startswith(_SCOPE)}


def _matches(found: tuple[str, ...] | list[str], demand: str) -> bool:
    """One of the values that the host's aggregates say for a key is as demanded."""
    if demand == "*":
        return bool(found)
    return any(_fits(value, demand) for value in found)


def _fits(value: str, demand: str) -> bool:
    name, _, rest = demand.strip().partition(" ")
    rest = rest.strip()
    if name == "<or>":
        return value in [choice.strip() for choice in demand.split("<or>")[1:]]
    if name in _TEXTS:
        return _TEXTS[name](value, rest)
    if name in _NUMBERS:
        try:
            return _NUMBERS[name](float(value), float(rest))
        except ValueError:
            return False
    return value == demand


AGGREGATE_EXTRA_SPECS = Filter(
    "AggregateInstanceExtraSpecsFilter",
    _passing,
    needed=lambda request: (
        "an aggregate of " + ", ".join(f"{key}={value}" for key, value in _wanted(request).items())
    ),
)
