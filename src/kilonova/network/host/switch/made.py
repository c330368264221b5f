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

Part = tuple[str, object]
"""What flows are made of: its kind and its id."""
NETWORK = "network"
"""The kind of the ways to a network's ports."""


class Made:
    """Not thread-safe."""

    def __init__(self) -> None:
        self._from: object = None
        self._flows: Flows = {}
        self._parts: dict[Part, tuple[object, Flows]] = {}
        self._refused: dict[Part, object] = {}
        """What the switch did not take."""

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
            if (kind, of) in self._refused and self._refused[kind, of] == source:
                known = source, {}
            elif known is None or known[0] != source:
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
        led = [port for port in guarded if self._parts["port", port.vif.port_id][1]]
        for tag in sorted({port.seat.tag for port in led}):
            there = [port for port in led if port.seat.tag == tag]
            found |= part(NETWORK, tag, there, partial(port_flows.network, tag))
        for group, told in filters.items():
            found |= part("security group", group, told, partial(group_flows.group, group))
        for group, addresses in members.items():
            found |= part("members of security group", group, addresses, partial(group_flows.members, group))
        self._refused = {one: self._refused[one] for one in self._refused.keys() & self._parts.keys()}
        self._from, self._flows = sources, found
        return found

    def parts(self) -> dict[Part, Flows]:
        """Those that the last flows() were made of."""
        return {part: flows for part, (_, flows) in self._parts.items()}

    def close(self, part: Part) -> None:
        """Until another word comes of it, it has no flows: the port passes nothing, the group lets nothing
        pass, it has no members."""
        self._refused[part] = self._parts[part][0]
        self._from = None


def _or_none(what: str, source: T, make: Callable[[T], list[Flow]]) -> Flows:
    """What no flow can say must not keep others from theirs: it is left closed."""
    try:
        return {flow.place: flow for flow in make(source)}
    except ValueError as error:
        _log.error("left_closed", what=what, reason=str(error))
        return {}
