"""All flows of a host's ports, of which most were made before: two hundred ports cost more to make than to
compare."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from kilonova import log
from kilonova.network.host.ruleset import Ruleset
from kilonova.network.host.switch import group_flows, pipeline, port_flows
from kilonova.network.host.switch.flows import Flow
from kilonova.network.host.switch.port_flows import Guarded, Seat

T = TypeVar("T")

Flows = dict[str, Flow]
"""By their places."""

_log = log.get("network.host")

_Key = tuple[str, object]


class Made:
    """Not thread-safe."""

    def __init__(self) -> None:
        self._from: object = None
        self._flows: Flows = {}
        self._parts: dict[_Key, tuple[object, Flows]] = {}

    def flows(self, seats: list[Seat], guarded: list[Guarded], rules: Ruleset) -> Flows:
        """``seats``: of all ports of ours, the guarded ones too."""
        filters = rules.filters(port.vif for port in guarded)
        members = rules.members(filters.values())
        sources = (seats, guarded, filters, members)
        if self._from == sources:
            return self._flows
        before, self._parts = self._parts, {}

        def part(kind: str, of: object, source: T, make: Callable[[T], list[Flow]]) -> Flows:
            known = before.get((kind, of))
            if known is None or known[0] != source:
                known = source, _or_none(f"{kind} {of}", source, make)
            self._parts[kind, of] = known
            return known[1]

        closed = {port.seat for port in guarded}
        found = {flow.place: flow for flow in pipeline.pipeline()}
        for seat in seats:
            if seat not in closed:
                found |= part("open", seat.name, seat, port_flows.open_port)
        for port in guarded:
            found |= part("port", port.vif.port_id, port, port_flows.guarded_port)
        for tag in sorted({port.seat.tag for port in guarded}):
            there = [port for port in guarded if port.seat.tag == tag]
            found |= part("network", tag, there, partial(port_flows.network, tag))
        for group, told in filters.items():
            found |= part("security group", group, told, partial(group_flows.group, group))
        for group, addresses in members.items():
            found |= part("members of security group", group, addresses, partial(group_flows.members, group))
        self._from, self._flows = sources, found
        return found


def _or_none(what: str, source: T, make: Callable[[T], list[Flow]]) -> Flows:
    """What no flow can say must not keep others from theirs: it is left closed."""
    try:
        return {flow.place: flow for flow in make(source)}
    except ValueError as error:
        _log.error("left_closed", what=what, reason=str(error))
        return {}
