"""Power states: what really happens to the guests, told to the conductor as it happens.

While work on a server is under way its own message tells the state; if the hypervisor said something
meanwhile, the guest is looked at after it, and what differs is told.
"""

from __future__ import annotations

import threading

from kilonova.compute.parts import Parts
from kilonova.compute.running import Running
from kilonova.domain.clock import now
from kilonova.domain.errors import KilonovaError
from kilonova.domain.messages import PowerStates
from kilonova.domain.servers import PowerState
from kilonova.virt.base import GuestEvent


class PowerWatch:
    def __init__(self, parts: Parts, running: Running) -> None:
        self._parts = parts
        self._running = running
        self._lock = threading.Lock()
        self._held_back: set[str] = set()

    def on_event(self, event: GuestEvent) -> None:
        """The driver's callback."""
        with self._lock:
            if self._running.busy(event.server_id):
                self._held_back.add(event.server_id)
                return
        self._tell({event.server_id: event.power_state}, now())

    def work_ended(self, server_id: str, told: PowerState | None) -> None:
        """Work on a server has ended, and told this state at its end (None: it told none)."""
        with self._lock:
            if server_id not in self._held_back:
                return
            self._held_back.remove(server_id)
        seen = now()
        try:
            guest = self._parts.driver.guest(server_id)
        except KilonovaError:
            return  # the next report tells it
        if guest is not None and not guest.awaits_start and guest.power_state != told:
            self._tell({server_id: guest.power_state}, seen)

    def tell_all(self) -> None:
        """What all guests do, against whatever was lost. The pause of a build is not a guest's doing."""
        seen = now()
        states = {
            guest.server_id: guest.power_state
            for guest in self._parts.driver.guests()
            if not guest.awaits_start and not self._running.busy(guest.server_id)
        }
        if states:
            self._parts.bus.tell("conductor", "power_states", self._message(states, seen))

    def _tell(self, states: dict[str, PowerState], seen: float) -> None:
        self._parts.bus.cast("conductor", "power_states", self._message(states, seen))

    def _message(self, states: dict[str, PowerState], seen: float) -> PowerStates:
        return PowerStates(host=self._parts.host, states=states, observed_at=seen)
