"""One at a time for each server, among the requests of this process. Between processes the database says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, tuple[threading.Lock, int]] = {}
        """Server → its turn, and how many hold or want it."""

    @contextmanager
    def of(self, server_id: str) -> Iterator[None]:
        """The block runs when no other one's does for this server. Who came first goes first, mostly."""
        with self._lock:
            turn, wanted = self._of.get(server_id, (threading.Lock(), 0))
            self._of[server_id] = turn, wanted + 1
        try:
            with turn:
                yield
        finally:
            with self._lock:
                turn, wanted = self._of.pop(server_id)
                if wanted > 1:
                    self._of[server_id] = turn, wanted - 1
