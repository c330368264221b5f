"""How a process is asked to stop, also while it starts."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator

INTERRUPTED = 130
"""Exit status of what Ctrl-C ended before its time, as shells have it."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_ASK = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """Asked to stop while it started."""


def go_on(stop: threading.Event) -> None:
    """Stopped, if somebody has asked for it."""
    if stop.is_set():
        raise Stopped


def back_off() -> Iterator[float]:
    """Seconds to wait between two tries, without end: more and more, and not the same in all processes."""
    pause = _FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        pause = min(pause * 2, _LONGEST_PAUSE)


class Signals:
    """The first one asks to stop. A second one does not wait: then it is as after kill -9, and what was under
    way is taken up at the next start.

    The kernel may give a signal to any thread, and Python runs handlers in the main thread alone, which then
    does not wake from waiting. So a thread of its own hears of them, by a pipe.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._heard, bell = os.pipe()
        os.set_blocking(bell, False)
        signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
        for number in _ASK:
            signal.signal(number, _nothing)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()

    def _listen(self) -> None:
        while True:
            if os.read(self._heard, 1)[0] not in _ASK:
                continue
            if self.asked.is_set():
                os._exit(INTERRUPTED)
            self.asked.set()


def _nothing(_number: int, _frame: object) -> None:
    """Without a handler Python would not ring the bell."""
