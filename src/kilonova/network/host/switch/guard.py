"""The flows of this host's ports in the switch, in memory as they should be; perimeter.py's counterpart.

What should be is made anew, each time, of what is known of ports and groups and of where the ports are on the
bridge, and the difference to what was loaded is one bundle: no packet meets half of a change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

from kilonova import log
from kilonova.domain.errors import BuildFailed, Unavailable
from kilonova.domain.network import INTEGRATION_BRIDGE
from kilonova.network.host import faults
from kilonova.network.host.ruleset import Rules
from kilonova.network.host.switch import cache, flows, openflow, pipeline
from kilonova.network.host.switch.disturbance import Disturbance
from kilonova.network.host.switch.flows import TRIAL, Flow
from kilonova.network.host.switch.made import NETWORK, Flows, Made, Part
from kilonova.network.host.switch.port_flows import Guarded
from kilonova.network.host.switch.switch import Switch

_log = log.get("network.host")

T = TypeVar("T")


class Guard:
    """One lock, so that a look never mistakes a change under way for damage.

    ``zone_of``: the number that a port's connections have on this host, always the same.
    """

    def __init__(self, switch: Switch, rules: Rules, zone_of: Callable[[str], int]) -> None:
        self._switch = switch
        self._rules = rules
        self._zone_of = zone_of
        self._loaded: tuple[object, Flows] | None = None
        """Into which bridge, and what. None: whatever an earlier process left."""
        self._made = Made()
        self._to_await = False
        """The switch may still remember what is no more."""
        self._lock = threading.Lock()

    def load(self) -> None:
        """What should be there is; whether it still is later, ensure() sees."""
        with self._lock, self._unless_gone():
            self._load()

    def change(self) -> None:
        """load(), and when it returns nothing passes any more that the flows do not let pass."""
        with self._lock, self._unless_gone():
            self._load()
            if not self._to_await:
                return
            # The look that ends first may have begun before the change. The next has not.
            folder = self._switch.folder()
            with Disturbance(self._switch.control()) as disturb:
                cache.await_look(folder, disturb)
                cache.await_look(folder, disturb)
            self._to_await = False

    def _try(self, tried: Iterable[Flow]) -> None:
        """In one bundle they come, into a table where no packet does, and go."""
        gone = f"delete cookie={flows.cookie(self._switch.owner)}/-1,table={TRIAL}"
        self._change([], tried, [gone])

    @contextmanager
    def _unless_gone(self) -> Iterator[None]:
        """What failed because the bridge went meanwhile, with its last port, has nothing left to do."""
        bridge = self._switch.identity()
        try:
            yield
        except (BuildFailed, Unavailable):
            if bridge is None or not self._switch.is_gone(bridge):
                raise

    def _load(self) -> None:
        bridge = self._switch.identity()
        if bridge is None:
            self._loaded, self._to_await = None, False
            return
        self._heeding(lambda: self._load_into(bridge))

    def _heeding(self, load: Callable[[], T]) -> T:
        """``load()``; while the switch refuses flows, again, with what is at fault left closed."""
        while True:
            try:
                return load()
            except openflow.Refused:
                if not self._close_faults():
                    raise

    def _close_faults(self) -> bool:
        """Whether something was at fault, which is left closed from now on, and named in the log."""
        parts = {part: flows_ for part, flows_ in self._made.parts().items() if flows_}

        def takes(some: Sequence[Part]) -> str | None:
            tried = [flow._replace(table=TRIAL) for part in some for flow in parts[part].values()]
            try:
                self._try(tried)
            except openflow.Refused as error:
                return error.message
            return None

        if takes([]) is not None:  # it is not the flows
            return False
        # The way to a port says its MAC too: without what is wrong with a port it may be right.
        found = faults.find([part for part in parts if part[0] != NETWORK], takes)
        found = found or faults.find([part for part in parts if part[0] == NETWORK], takes)
        for part, reason in found.items():
            _log.error("left_closed", what=" ".join(map(str, part)), reason=reason)
            self._made.close(part)
        return bool(found)

    def _load_into(self, bridge: object) -> None:
        wanted = self._wanted()
        if self._loaded is None or self._loaded[0] != bridge:
            self._replace_all(wanted)
            self._loaded, self._to_await = (bridge, wanted), True
            return
        loaded = self._loaded[1]
        if wanted == loaded:
            return
        gone = [place for place in loaded if place not in wanted]
        new = [place for place, flow in wanted.items() if loaded.get(place) != flow]
        self._delete(gone, [wanted[place] for place in new])
        self._loaded = bridge, wanted
        self._to_await |= bool(gone) or any(place in loaded for place in new)

    def dismiss(self, port_id: str) -> None:
        """The port is on the bridge no more: neither are its flows nor, for who has its zone next, its
        connections. Both end with the switch; what it may restore, ensure() removes."""
        with suppress(Unavailable), self._unless_gone():
            self.load()
            known = any(vif.port_id == port_id for vif in self._rules().vifs)
            if known and self._switch.identity() is not None:
                openflow.forget_connections(self._switch.control(), self._zone_of(port_id))

    def ensure(self) -> list[str]:
        """Exactly these flows are ours."""
        with self._lock:
            return self._heeding(self._ensure)

    def _ensure(self) -> list[str]:
        bridge, wanted = self._switch.identity(), self._wanted()
        if bridge is None or not wanted:
            return []
        wrong = not self._are(wanted)
        if wrong:
            self._replace_all(wanted)
            self._to_await = True
        self._loaded = bridge, wanted
        return [f"flows of {INTEGRATION_BRIDGE} were not as they should be"] if wrong else []

    def look(self) -> list[str]:
        """What ensure() would find, with nothing changed."""
        wanted = self._wanted()
        if not wanted or self._are(wanted):
            return []
        return [f"the flows of {INTEGRATION_BRIDGE} are not as they should be"]

    def _are(self, wanted: Flows) -> bool:
        owner = self._switch.owner
        said = [flows.text(owner, flow) for flow in wanted.values()]
        return openflow.are(self._switch.control(), flows.cookies(owner), said)

    def _wanted(self) -> Flows:
        seats, ours = self._switch.seats(), self._switch.is_ours()
        if not seats:
            return {}
        rules, by_name = self._rules(), {seat.name: seat for seat in seats}
        guarded = [
            Guarded(vif, seat, self._zone_of(vif.port_id))
            for vif in rules.vifs
            if vif.port_security and (seat := by_name.get(vif.tap))
        ]
        guarded.sort(key=lambda port: port.seat)  # of the same ports always the same flows
        base = {flow.place: flow for flow in ([pipeline.base()] if ours else [])}
        return base | self._made.flows(seats, guarded, rules)

    def _replace_all(self, wanted: Flows) -> None:
        self._change([f"delete cookie={flows.cookies(self._switch.owner)}"], wanted.values())

    def _delete(self, places: list[str], new: Iterable[Flow] = ()) -> None:
        cookie = flows.cookie(self._switch.owner)
        self._change([f"delete_strict cookie={cookie}/-1,{place}" for place in places], new)

    def _change(self, deletions: list[str], new: Iterable[Flow], last: Sequence[str] = ()) -> None:
        additions = [f"add {flows.text(self._switch.owner, flow)}" for flow in new]
        openflow.change(self._switch.control(), [*deletions, *additions, *last])
