"""Letting go of an image in bounded time.

librbd's close waits for an OSD that does not answer, whatever the timeouts of its connection say. So it is
done in a thread of its own, which is left to wait where it takes too long.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TookTooLong
from contextlib import contextmanager

from kilonova.domain.errors import Unavailable
from kilonova.rbd.bindings import RawImage


class Closing:
    """Of the images of one connection, which may not be shut down while ``waits``."""

    def __init__(self, within: float) -> None:
        self._within = within
        self._lock = threading.Lock()
        self._waiting = 0

    @property
    def waits(self) -> bool:
        with self._lock:
            return self._waiting > 0

    @contextmanager
    def image(self, opened: RawImage, name: str) -> Iterator[RawImage]:
        """Closed at the end of the block. Unavailable if that takes too long, and nothing else is wrong."""
        try:
            yield opened
        except BaseException as error:
            try:
                self._close(opened, name)
            except Exception as also:  # noqa: BLE001 - told with what was wrong before
                error.add_note(f"and it could not be closed: {also}")
            raise
        self._close(opened, name)

    def _close(self, opened: RawImage, name: str) -> None:
        closed: Future[None] = Future()
        with self._lock:
            self._waiting += 1
        threading.Thread(target=self._wait, args=(opened, closed), name="rbd-close", daemon=True).start()
        try:
            closed.result(self._within)
        except TookTooLong as error:
            if closed.done():
                raise
            raise Unavailable(f"{name}: Ceph does not answer: the image is not closed yet") from error

    def _wait(self, opened: RawImage, closed: Future[None]) -> None:
        try:
            opened.close()
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            closed.set_exception(error)
        else:
            closed.set_result(None)
        finally:
            with self._lock:
                self._waiting -= 1
