"""A ticker: one thread that calls functions when it is time, for as many hosts as there are."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from kilonova import log
from kilonova.domain.errors import Unavailable

_log = log.get("ticker")


class Ticker:
    """``every(seconds, function)``; a function that raises is logged and called again next time.

    ``after(seconds, function)`` calls it once.
    """

    def __init__(self, name: str) -> None:
        self._due: list[tuple[float, int, float | None, Callable[[], object]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"ticker-{name}", daemon=True)
        self._thread.start()

    def every(self, seconds: float, function: Callable[[], object], first: float | None = None) -> None:
        """Begin to call ``function``, first after ``first`` seconds (one interval by default)."""
        self._push(seconds if first is None else first, seconds, function)

    def after(self, seconds: float, function: Callable[[], object]) -> None:
        self._push(seconds, None, function)

    def _push(self, first: float, seconds: float | None, function: Callable[[], object]) -> None:
        with self._changed:
            entry = (time.monotonic() + first, next(self._order), seconds, function)
            heapq.heappush(self._due, entry)
            if self._due[0] is entry:
                self._changed.notify()

    def close(self) -> None:
        """Stop; returns when the call under way has ended."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (function := self._next()) is not None:
            try:
                function()
            except Unavailable as error:
                _log.warning("tick_failed", error=error.message)
            except Exception:  # noqa: BLE001 - the loop must go on for all the others
                _log.exception("tick_failed")

    def _next(self) -> Callable[[], object] | None:
        """Wait for the function that is due first; None when closing."""
        with self._changed:
            while not self._closing:
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is not None and wait <= 0:
                    due, order, seconds, function = heapq.heappop(self._due)
                    if seconds is not None:
                        again = max(due, time.monotonic() - seconds) + seconds
                        heapq.heappush(self._due, (again, order, seconds, function))
                    return function
                self._changed.wait(wait)
            return None
