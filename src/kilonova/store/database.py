"""The database: one object a process, passed to whoever reads or writes.

``with db.read() as conn`` sees one snapshot; ``with db.write() as conn`` is one transaction, committed when
the block ends and rolled back when it raises. Queries live in this package, one file a resource, as plain
functions whose first argument is the connection.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from kilonova.store import regexp
from kilonova.store.schema import metadata

Row = sa.Row[*tuple[Any, ...]]
"""A row of any table; columns are its attributes."""

_EXECUTION = {"isolation_level": "AUTOCOMMIT"}


class Database:
    """SQLite by default: WAL, writers queue on a lock of ours instead of polling SQLite's."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._writer = threading.Lock()
        self._local = threading.local()
        self._opened: list[sa.Connection] = []
        self.engine = sa.create_engine(
            url, poolclass=sa.NullPool, connect_args={"timeout": 30, "check_same_thread": False}
        )
        sa.event.listen(self.engine, "connect", _pragmas)

    def create(self) -> None:
        """Make every table that is missing."""
        metadata.create_all(self.engine)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view. Nesting shares the outer one; inside a write it is the write's own."""
        if getattr(self._local, "mode", None):
            yield self._local.conn
            return
        with self._transaction("BEGIN") as conn:
            yield conn

    @contextmanager
    def write(self, durable: bool = False) -> Iterator[sa.Connection]:
        """One transaction. ``durable``: on the disk before it returns, even if the power fails after.

        Without it a commit survives the death of the process but perhaps not of the machine.
        Nesting joins the outer transaction.
        """
        if mode := getattr(self._local, "mode", None):
            assert mode != "BEGIN", "a write inside a read: the snapshot may be old"
            yield self._local.conn
            return
        with self._writer, self._transaction("BEGIN IMMEDIATE", durable) as conn:
            yield conn

    @contextmanager
    def _transaction(self, begin: str, durable: bool = False) -> Iterator[sa.Connection]:
        conn = self._connection()
        raw = conn.connection.driver_connection
        assert raw is not None
        if durable:
            raw.execute("PRAGMA synchronous=FULL")
        raw.execute(begin)
        self._local.mode = begin
        try:
            yield conn
        except BaseException:
            raw.execute("ROLLBACK")
            raise
        else:
            raw.execute("COMMIT")
        finally:
            self._local.mode = None
            if durable:
                raw.execute("PRAGMA synchronous=NORMAL")

    def _connection(self) -> sa.Connection:
        conn: sa.Connection | None = getattr(self._local, "conn", None)
        if conn is None:
            conn = self.engine.connect().execution_options(**_EXECUTION)
            self._local.conn = conn
            self._opened.append(conn)
        return conn

    def close(self) -> None:
        for conn in self._opened:
            conn.close()
        self.engine.dispose()


def _pragmas(raw: Any, _record: Any) -> None:
    raw.isolation_level = None
    raw.execute("PRAGMA journal_mode=WAL")
    raw.execute("PRAGMA synchronous=NORMAL")
    raw.execute("PRAGMA foreign_keys=ON")
    raw.execute("PRAGMA cache_size=-500")  # a connection a thread: keep each small, share pages by mmap
    raw.execute("PRAGMA mmap_size=268435456")
    regexp.register(raw)
