"""One thing at a time is done to a volume's exports: who makes a way there, who takes one away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock a name, there as long as somebody has it or waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        with self._lock:
            lock, count = self._waiting.get(name, (threading.Lock(), 0))
            self._waiting[name] = lock, count + 1
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, count = self._waiting[name]
                if count == 1:
                    del self._waiting[name]
                else:
                    self._waiting[name] = lock, count - 1
