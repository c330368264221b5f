"""Waiting for PostgreSQL's disk: one wait for all that was committed before it began.

A transaction with ``synchronous_commit`` holds its rows until the disk has answered: requests that change one
row (a project's usage) would come one by one, at the pace of the disk. So every transaction commits without
that, and who must not be forgotten waits afterwards. The log of the database is one sequence: when a small
transaction that waits for the disk has returned, all that committed before it began is there too, and with
synchronous standbys it is there as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

FLUSH = (
    b"BEGIN; SET LOCAL synchronous_commit = on; SELECT pg_logical_emit_message(true, 'kilonova', ''); COMMIT"
)
"""Something must be written to wait for: a message in the log that no decoder knows."""


class Flushes:
    """Of one database and process. Who comes first flushes; who comes meanwhile shares the next one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._begun = 0
        self._under_way = False
        self._done = 0
        self._by = 0.0
        """When the connection was opened by which the last one was done."""

    def wait(self, flush: Callable[[], None], opened: float, began: float) -> None:
        """Return when a flush that began after this call has ended well; raise what our own raised.

        ``opened``: when the connection was that ours goes by; ``began``: when the transaction did that is to
        be on the disk. Another's flush counts if its connection is the older: it has seen no crash since. A
        database that came back from one after our commit would flush, and have forgotten us.
        """
        with self._changed:
            wanted = self._begun + 1
            self._changed.wait_for(lambda: self._done >= wanted or not self._under_way)
            if self._done >= wanted and self._by <= began:
                return
            self._changed.wait_for(lambda: not self._under_way)
            self._begun += 1
            number = self._begun
            self._under_way = True
        well = False
        try:
            flush()
            well = True
        finally:
            with self._changed:
                self._under_way = False
                if well:
                    self._done, self._by = number, opened
                self._changed.notify_all()
