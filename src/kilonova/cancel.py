"""The word that work has moved on, for who waits for it and for who waits for something else meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Cancel(threading.Event):
    """An event that, when it is set, also sets those that were asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._others: list[threading.Event] = []

    def set(self) -> None:
        super().set()
        with self._lock:
            for other in self._others:
                other.set()

    @contextmanager
    def sets(self, other: threading.Event) -> Iterator[None]:
        """In the block ``other`` is set together with this one; at once if this one is set."""
        with self._lock:
            self._others.append(other)
        try:
            if self.is_set():
                other.set()
            yield
        finally:
            with self._lock:
                self._others.remove(other)
