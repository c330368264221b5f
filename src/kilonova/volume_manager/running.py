"""The operations that a manager works on now, and the renewal of their leases."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kilonova.cancel import Cancel
from kilonova.domain.clock import now
from kilonova.domain.errors import StaleEpoch
from kilonova.store import operations
from kilonova.store.database import Database, Row


class Running:
    """Of one volume or snapshot one at a time: who begins cancels the one before, and waits for its end.

    Some stores end nothing before it is done. At most one waits for each volume, and its lease is kept:
    whoever waits has a thread of the manager's.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._works: dict[str, tuple[Row, Cancel]] = {}
        self._waiting: dict[str, tuple[Row, Cancel]] = {}
        """Both by what it happens to."""

    @contextmanager
    def begin(self, work: Row) -> Iterator[Cancel]:
        """``work``: as it was taken; it is newer than what runs and what waits. StaleEpoch if it moved on
        while it waited."""
        cancel = self._enter(work)
        try:
            yield cancel
        finally:
            with self._changed:
                del self._works[work.server_id]
                self._changed.notify_all()

    def _enter(self, work: Row) -> Cancel:
        of, mine = work.server_id, (work, Cancel())
        with self._changed:
            if (older := self._waiting.get(of)) is not None:
                older[1].set()
                self._changed.notify_all()
            self._waiting[of] = mine
            while (before := self._works.get(of)) is not None and not mine[1].is_set():
                before[1].set()
                self._changed.wait()
            if self._waiting.get(of) is mine:
                del self._waiting[of]
            if mine[1].is_set():
                raise StaleEpoch(f"operation {work.id} has moved on")
            self._works[of] = mine
        return mine[1]

    def known(self) -> set[str]:
        """The operations that run or wait."""
        with self._changed:
            return {work.id for work, _ in self._all()}

    def _all(self) -> list[tuple[Row, Cancel]]:
        return [*self._works.values(), *self._waiting.values()]

    def renew(self, db: Database, owner: str, lease: float) -> None:
        """Keep the leases; what moved on to another owner, or ended, is cancelled."""
        with self._changed:
            works = self._all()
        if not works:
            return
        with db.write() as conn:
            held = operations.renew(conn, {work.id: work.epoch for work, _ in works}, owner, now() + lease)
        self._cancel(cancel for work, cancel in works if work.id not in held)

    def cancel_all(self) -> None:
        with self._changed:
            works = self._all()
        self._cancel(cancel for _, cancel in works)

    def _cancel(self, cancels: Iterable[Cancel]) -> None:
        with self._changed:
            for cancel in cancels:
                cancel.set()
            self._changed.notify_all()
