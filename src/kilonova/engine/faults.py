"""Fault points: every boundary between steps has a name, at which a test can have the process killed.

``build.fetch_image.before``, ``build.fetch_image.after``, … A process dies at none of them by default.
``python -m crash points`` learns from the running services which there are, and kills at each.
"""

from __future__ import annotations

import os
import signal
import threading

from kilonova.config import Faults


class FaultPoints:
    """Kills the process, as kill -9 does, at the configured visit of the configured point."""

    def __init__(self, config: Faults) -> None:
        self._record = config.record
        self._kill_at = config.kill_at
        self._visits_left = config.kill_at_visit
        self._lock = threading.Lock()

    def reach(self, point: str) -> None:
        if self._record:
            with open(self._record, "a", encoding="utf-8") as record:
                record.write(f"{point}\n")
        if point != self._kill_at:
            return
        with self._lock:
            self._visits_left -= 1
            if self._visits_left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


NO_FAULTS = FaultPoints(Faults())
