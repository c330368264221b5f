"""Whether hosts could be heard: who could not report is not taken for dead.

A host reports through the broker to a conductor, which writes it. While the broker, the database or all
conductors are away every host is silent; when they are back its word takes some seconds to come.
"""

from __future__ import annotations

from kilonova.bus.base import Bus
from kilonova.config import Config
from kilonova.domain.clock import now


class Hearing:
    """Of one conductor. Its sweeper says again() after each round that worked."""

    def __init__(self, config: Config, bus: Bus) -> None:
        self._bus = bus
        self._time = config.compute.service_down_time
        self._break = max(self._time / 2, 2 * config.operations.sweep_interval)
        """Between two rounds. After a shorter one no host was silent for long enough to count as down."""
        self._last = self._since = now()

    def again(self) -> None:
        """This process runs, and the database answers."""
        last, self._last = self._last, now()
        if not 0 <= self._last - last <= self._break:
            self._since = self._last

    def long_enough(self) -> bool:
        """Whether every host that lives was heard since the last break."""
        return now() - max(self._since, self._bus.up_since) >= self._time
