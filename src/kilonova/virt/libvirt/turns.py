"""One at a time: in this process, and among processes over the same folder. A cancel ends the wait at once.

Nobody waits by looking again. In the process who is done wakes the next one. The kernel's file lock cannot be
waited for together with anything else, so a thread waits for it, for the one whose turn it is.
"""

from __future__ import annotations

import fcntl
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from kilonova.cancel import Cancel
from kilonova.domain.errors import StaleEpoch


class Turn:
    """Over one file, which is made and stays. In order of arrival in this process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._queue: deque[threading.Event] = deque()
        """One each; the first one's is set: it is its turn."""
        self._asked: _Asked | None = None
        """For the file lock, by one who was cancelled before it came."""

    @contextmanager
    def taken(self, cancel: Cancel) -> Iterator[None]:
        """The block runs while nobody else's does. StaleEpoch as soon as ``cancel`` is set before that."""
        mine = threading.Event()
        try:
            with self._lock:
                self._queue.append(mine)
                self._queue[0].set()
            with cancel.sets(mine):
                mine.wait()
            _stop_if(cancel)
            with self._file_lock(cancel):
                _stop_if(cancel)
                yield
        finally:
            with self._lock:
                self._queue.remove(mine)
                if self._queue:
                    self._queue[0].set()

    @contextmanager
    def _file_lock(self, cancel: Cancel) -> Iterator[None]:
        """Released by the kernel when the holder closes it or dies."""
        asked, self._asked = self._asked, None
        if asked is None or not asked.wanted_again():
            asked = _Asked(self._path)
        if not asked.wait(cancel):
            self._asked = asked
            _stop_if(cancel)
        with asked.file:
            yield


class _Asked:
    """A file lock that is held, or will be when others let go of it."""

    def __init__(self, path: Path) -> None:
        self.file: TextIO = path.open("w")
        self._changed = threading.Lock()
        self._held = self._left = False
        self._waiter: threading.Event | None = None
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._held = True
        except BlockingIOError:
            threading.Thread(target=self._wait, name="image-lock", daemon=True).start()

    def wait(self, cancel: Cancel) -> bool:
        """Whether it is held; if ``cancel`` was set sooner it is not, and is let go of when it comes."""
        came = threading.Event()
        with self._changed:
            self._waiter = came
            if self._held:
                came.set()
        with cancel.sets(came):
            came.wait()
        with self._changed:
            self._left = not self._held
            return self._held

    def wanted_again(self) -> bool:
        """Whether somebody may wait() for it once more; if not, it came meanwhile and was let go of."""
        with self._changed:
            self._left = False
            return not self.file.closed

    def _wait(self) -> None:
        fcntl.flock(self.file, fcntl.LOCK_EX)
        with self._changed:
            if self._left:
                self.file.close()
                return
            self._held = True
            if self._waiter is not None:
                self._waiter.set()


def _stop_if(cancel: Cancel) -> None:
    if cancel.is_set():
        raise StaleEpoch("the build moved on while it waited for its image")
