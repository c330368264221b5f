"""Some at once, some more that wait, in order of arrival; whoever comes then is sent away."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from kilonova.cancel import Cancel
from kilonova.domain.errors import Unavailable


class Places:
    """``at_once`` have a place; ``waiting`` wait for one, each ``patience`` seconds at most."""

    def __init__(self, at_once: int, waiting: int, patience: float) -> None:
        self._at_once = at_once
        self._most = at_once + waiting
        self._patience = patience
        self._lock = threading.Lock()
        self._queue: deque[threading.Event] = deque()
        """One each; those of the first ``at_once`` are set."""

    @contextmanager
    def taken(self, cancel: Cancel) -> Iterator[None]:
        """The block runs with a place, or once ``cancel`` is set. Unavailable: too many wait, or too long."""
        mine = threading.Event()
        with self._lock:
            if len(self._queue) >= self._most:
                raise Unavailable("Too many images are being made: try again later")
            self._queue.append(mine)
            self._wake()
        try:
            with cancel.sets(mine):
                if not mine.wait(self._patience):
                    raise Unavailable("Other images are being made for long: try again later")
            yield
        finally:
            with self._lock:
                self._queue.remove(mine)
                self._wake()

    def _wake(self) -> None:
        for one in islice(self._queue, self._at_once):
            one.set()
