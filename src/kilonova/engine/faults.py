"""Fault points: every boundary between steps has a name, at which a test can have the process killed.

``build.image.before``, ``build.image.after``, … A process reaches none of them by default.
"""

from __future__ import annotations

import os
import signal
import threading

from kilonova.config import Faults


class FaultPoints:
    """Kills the process, as kill -9 does, at the configured visit of the configured point."""

    def __init__(self, config: Faults) -> None:
        self._kill_at = config.kill_at
        self._visits_left = config.kill_at_visit
        self._lock = threading.Lock()

    def reach(self, point: str) -> None:
        if point != self._kill_at:
            return
        with self._lock:
            self._visits_left -= 1
            if self._visits_left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
