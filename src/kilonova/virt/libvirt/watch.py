"""Waiting for a guest to change, and telling the agent that it did: by libvirt's events, never by polling.

An event says only *look*: what is told is what is seen when looking. So an event that is late, doubled or
lost with a connection cannot tell a lie.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

from kilonova import log
from kilonova.cancel import Cancel
from kilonova.domain.errors import KilonovaError, StaleEpoch

Found = TypeVar("Found")
_log = log.get("virt.libvirt")


class Watch:
    """``look`` is called in a thread of the watch, once after each event, with the server's id."""

    def __init__(self, look: Callable[[str], None]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._waiting: dict[str, set[threading.Event]] = defaultdict(set)
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="guest-events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._queue.put(None)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def changed(self, server_id: str) -> None:
        """Something happened to this server's guest: waiters look again, and so does the watch."""
        self.wake(server_id)
        self._queue.put(server_id)

    def wake_all(self) -> None:
        """Every waiter looks again (the connection was lost, or came back)."""
        with self._lock:
            everybody = list(self._waiting)
        for server_id in everybody:
            self.wake(server_id)

    def wait(
        self,
        server_id: str,
        look: Callable[[], Found | None],
        timeout: float,
        cancel: Cancel | None = None,
    ) -> Found | None:
        """What ``look`` gives as soon as it is not None; None after ``timeout`` seconds.

        ``look`` runs now and then after each event of this server; its errors pass to the caller.
        StaleEpoch as soon as ``cancel`` is set.
        """
        deadline = time.monotonic() + timeout
        cancel = cancel or Cancel()
        with self._signal(server_id) as signal, cancel.sets(signal):
            while (found := look()) is None:
                if cancel.is_set():
                    raise StaleEpoch(f"the operation moved on while guest {server_id} was waited for")
                if not signal.wait(max(0.0, deadline - time.monotonic())):
                    return look()
                signal.clear()
            return found

    def wake(self, server_id: str) -> None:
        """Who waits for something of this server's guest looks again."""
        with self._lock:
            for signal in self._waiting.get(server_id, ()):
                signal.set()

    @contextmanager
    def _signal(self, server_id: str) -> Iterator[threading.Event]:
        signal = threading.Event()
        with self._lock:
            self._waiting[server_id].add(signal)
        try:
            yield signal
        finally:
            with self._lock:
                self._waiting[server_id].discard(signal)
                if not self._waiting[server_id]:
                    del self._waiting[server_id]

    def _run(self) -> None:
        while (server_id := self._queue.get()) is not None:
            try:
                self._look(server_id)
            except KilonovaError as error:
                _log.warning("guest_event_unread", server=server_id, reason=error.message)
            except Exception:  # noqa: BLE001 - the edge of a thread: nobody above to tell
                _log.exception("guest_event_failed", server=server_id)
