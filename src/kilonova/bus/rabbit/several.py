"""Messages of a topic that wait together, given to one thread together.

While a thread works on some, others come: the more a process has to do, the more it does at once, and the
less each costs. One that comes alone is worked on at once, as if there were no such thing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from kilonova.bus.rabbit.lanes import Lane

MOST = 64
"""Messages at once, and so many are taken from the broker in advance."""


class Crowd:
    """Calls ``work`` with a list of messages in a thread of the lane, in one thread at a time."""

    def __init__(self, lane: Lane, work: Callable[[list[Any]], None]) -> None:
        self._lane = lane
        self._work = work
        self._lock = threading.Lock()
        self._waiting: list[Any] = []
        self._under_way = False

    def came(self, message: Any) -> None:
        with self._lock:
            self._waiting.append(message)
            if self._under_way:
                return
            self._under_way = True
        self._lane.put(self._run)

    def _run(self) -> None:
        with self._lock:
            messages, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        try:
            self._work(messages)
        finally:
            with self._lock:
                self._under_way = bool(self._waiting)
            if self._under_way:
                self._lane.put(self._run)  # after what came for other methods meanwhile
