"""What other threads want a link's thread to do, in order; a bell that its poll hears."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

Job = Callable[[], None]


class Jobs:
    def __init__(self) -> None:
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """A descriptor that is readable when something came."""
        self._waiting: deque[Job] = deque()
        self._rung = False
        """The bell was rung, and run() has not begun since: it will see what was handed in by then."""

    def __del__(self) -> None:
        os.close(self.bell)  # not sooner: some thread may still hand in a job

    def submit(self, job: Job) -> None:
        """From any thread. It runs while there is a connection; until then it waits."""
        self._waiting.append(job)
        self.ring()

    def ring(self) -> None:
        if not self._rung:
            self._rung = True
            os.eventfd_write(self.bell, 1)

    def heard(self) -> None:
        os.eventfd_read(self.bell)

    def run(self) -> None:
        self._rung = False
        while self._waiting:
            self._waiting.popleft()()
