"""A question that must not keep its asker waiting, such as one to a database that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from kilonova.domain.errors import Timeout

Answer = TypeVar("Answer")


class Question(Generic[Answer]):
    """``ask`` runs in a thread of its own, one at a time: whoever asks meanwhile gets the same answer."""

    def __init__(self, ask: Callable[[], Answer]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._asked: Future[Answer] | None = None

    def answer(self, seconds: float) -> Answer:
        """What ``ask`` answers or raises; Timeout if that takes longer."""
        return self.answered(self.begin(), seconds)

    def begin(self) -> Future[Answer]:
        """Ask, and do not wait yet."""
        with self._lock:
            asked = self._asked
            if asked is None or asked.done():
                asked = self._asked = Future()
                threading.Thread(target=self._run, args=(asked,), name="question", daemon=True).start()
            return asked

    @staticmethod
    def answered(asked: Future[Answer], seconds: float) -> Answer:
        """As answer(), of what was begun."""
        try:
            return asked.result(seconds)
        except TimeoutError as error:
            if asked.done():
                raise
            raise Timeout(f"no answer within {seconds:g} seconds") from error

    def _run(self, asked: Future[Answer]) -> None:
        try:
            asked.set_result(self._ask())
        except Exception as error:  # noqa: BLE001 - the asker's to handle
            asked.set_exception(error)
