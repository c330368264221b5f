"""The purge: what was deleted ``[database] keep_deleted_days`` ago is forgotten, some at a time.

It is the sweeper's to call; an operator's `kilonova db purge` does the same by hand.
"""

from __future__ import annotations

import time

from kilonova import log
from kilonova.conductor.parts import Parts
from kilonova.domain.clock import now
from kilonova.store import purge as store

_log = log.get("purge")

DAY = 86400.0
_INTERVAL = 60.0
"""Seconds between two looks once all is done, or could not be."""
_SECONDS = 0.5
"""Of each round at most: the sweeper has other things to do, and the database too."""


class Purge:
    """Not thread-safe: one thread's."""

    def __init__(self, parts: Parts) -> None:
        self._db = parts.db
        self._days = parts.config.database.keep_deleted_days
        self._due = 0.0

    def round(self) -> None:
        """Batch after batch for a moment, if it is time; the rest in the next round."""
        began = time.monotonic()
        if began < self._due:
            return
        self._due = began + _INTERVAL
        store.forget_expired_revocations(self._db)
        if self._days:
            store.forget_volume_work(self._db, now() - self._days * DAY)
            while any(count == store.BATCH for count in self._batch()):
                if time.monotonic() - began > _SECONDS:
                    self._due = 0.0
                    return

    def _batch(self) -> tuple[int, int]:
        servers, images = store.purge(self._db, now() - self._days * DAY)
        if servers or images:
            _log.info("purged", servers=servers, images=images)
        return servers, images
