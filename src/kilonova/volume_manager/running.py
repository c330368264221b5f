"""The operations that a manager works on now, and the renewal of their leases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kilonova.cancel import Cancel
from kilonova.domain.clock import now
from kilonova.store import operations
from kilonova.store.database import Database, Row


class Running:
    """Of one volume or snapshot one at a time: who begins cancels the one before, and waits for its end."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._works: dict[str, tuple[Row, Cancel]] = {}
        """By what it happens to."""

    @contextmanager
    def begin(self, work: Row) -> Iterator[Cancel]:
        """``work``: as it was taken; it is newer than what runs."""
        cancel = Cancel()
        with self._changed:
            while (before := self._works.get(work.server_id)) is not None:
                before[1].set()
                self._changed.wait()
            self._works[work.server_id] = work, cancel
        try:
            yield cancel
        finally:
            with self._changed:
                del self._works[work.server_id]
                self._changed.notify_all()

    def renew(self, db: Database, owner: str, lease: float) -> None:
        """Keep the leases; what moved on to another owner, or ended, is cancelled."""
        with self._changed:
            works = list(self._works.values())
        if not works:
            return
        with db.write() as conn:
            held = operations.renew(conn, {work.id: work.epoch for work, _ in works}, owner, now() + lease)
        for work, cancel in works:
            if work.id not in held:
                cancel.set()

    def cancel_all(self) -> None:
        with self._changed:
            for _, cancel in self._works.values():
                cancel.set()
