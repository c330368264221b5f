"""Has something looked at soon after it changed: not at once, for changes come many at a time, nor again and
again, for what a look mends is a change too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kilonova.engine.ticker import Ticker

_SOON = 1.0
"""Seconds from the first notice to the look."""
_APART = 5.0
"""Seconds between two looks, at least."""


class Alarm:
    """``look()`` is called by the ticker."""

    def __init__(self, ticker: Ticker, look: Callable[[], None]) -> None:
        self._ticker = ticker
        self._look = look
        self._lock = threading.Lock()
        self._rung = False
        self._looked = -_APART

    def ring(self) -> None:
        """There is something to be looked at. In any thread; returns at once."""
        with self._lock:
            if self._rung:
                return
            self._rung = True
            wait = max(_SOON, self._looked + _APART - time.monotonic())
        self._ticker.after(wait, self._due)

    def _due(self) -> None:
        with self._lock:
            self._rung, self._looked = False, time.monotonic()
        self._look()
