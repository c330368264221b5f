"""The threads that work on messages: a pool has one lane for casts and one for calls."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from kilonova import log
from kilonova.bus.rabbit.jobs import Job

_log = log.get("bus")


class Lane:
    """At most ``size`` threads; one is begun when a job comes and none is idle."""

    def __init__(self, name: str, size: int, ahead: int = 0) -> None:
        self.size = size
        self.taken = size + ahead
        """Messages that the broker may give it before any of them is done."""
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads: list[threading.Thread] = []

    def put(self, job: Job) -> None:
        """What ``job`` raises is logged, and nobody hears of it."""
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif len(self._threads) < self.size:
                name = f"{self._name}-{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
                self._threads[-1].start()
        self._jobs.put(job)

    def close(self) -> None:
        """Returns when the last job has ended. Nothing may be put any more."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:  # noqa: BLE001 - the edge of a thread: nobody above to tell
                _log.exception("job_failed", lane=self._name)
            with self._lock:
                if self._jobs.empty():
                    self._idle += 1


class Pool:
    """Casts and calls side by side: work of minutes keeps no caller waiting."""

    def __init__(self, name: str, size: int, ahead: int = 0) -> None:
        """``ahead``: messages that may wait here, for they are worked on together."""
        self.casts = Lane(name, size, ahead)
        self.calls = Lane(f"{name}-calls", size, ahead)

    def close(self) -> None:
        self.casts.close()
        self.calls.close()
