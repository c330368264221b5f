"""A word that several threads may wait for, told to all of them each time it is said."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kilonova.cancel import Cancel
from kilonova.domain.errors import StaleEpoch


class Word:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[threading.Event] = set()

    def say(self) -> None:
        with self._lock:
            for heard in self._waiting:
                heard.set()

    @contextmanager
    def listen(self) -> Iterator[threading.Event]:
        """An event that is set whenever it is said in the block."""
        heard = threading.Event()
        with self._lock:
            self._waiting.add(heard)
        try:
            yield heard
        finally:
            with self._lock:
                self._waiting.remove(heard)


def wait(heard: threading.Event, cancel: Cancel, seconds: float) -> None:
    """Until it is said, at most so long. StaleEpoch as soon as ``cancel`` is set."""
    with cancel.sets(heard):
        heard.wait(seconds)
    heard.clear()
    if cancel.is_set():
        raise StaleEpoch("the work moved on while it waited")
