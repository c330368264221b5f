"""SQLite: WAL; one connection that writes, whose writers queue on a lock of ours instead of polling SQLite's,
and as many that read as there are reads at once.

A connection keeps the statements that it has prepared, and pages: half a megabyte of them. Fifty threads that
each had their own would prepare everything fifty times.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from kilonova import log
from kilonova.domain.errors import Unavailable
from kilonova.store import cidrs, regexp

_log = log.get("database")
_EXECUTION = {"isolation_level": "AUTOCOMMIT"}


class SQLite:
    """See store.database.Kind."""

    remote = False

    def __init__(self, url: sa.URL) -> None:
        self._writer = threading.Lock()
        self._write_conn: sa.Connection | None = None
        self._idle: deque[sa.Connection] = deque()
        """Those that read, and nobody uses now. The last one put back is the first one taken."""
        self._opened: list[sa.Connection] = []
        self.engine = sa.create_engine(
            url, poolclass=sa.NullPool, connect_args={"timeout": 30, "check_same_thread": False}
        )
        sa.event.listen(self.engine, "connect", _pragmas)

    def reach(self) -> None:
        """A file is always there."""

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        try:
            conn = self._idle.pop()
        except IndexError:
            conn = self._open()
        try:
            with _transaction(conn, "BEGIN", durable=False):
                yield conn
        finally:
            self._idle.append(conn)

    @contextmanager
    def writing(self, durable: bool) -> Iterator[sa.Connection]:
        with self._writer:
            conn = self._write_conn
            if conn is None:
                conn = self._write_conn = self._open()
            with _transaction(conn, "BEGIN IMMEDIATE", durable):
                yield conn

    def _open(self) -> sa.Connection:
        conn = self.engine.connect().execution_options(**_EXECUTION)
        conn.begin()  # SQLAlchemy's own, which never ends, so that nobody ends one: ours are _transaction's
        self._opened.append(conn)
        return conn

    def connections(self) -> tuple[int, int]:
        idle = len(self._idle) + (self._write_conn is not None and not self._writer.locked())
        return len(self._opened) - idle, idle

    def close(self) -> None:
        for conn in self._opened:
            conn.close()
        self.engine.dispose()


@contextmanager
def _transaction(conn: sa.Connection, begin: str, durable: bool) -> Iterator[None]:
    raw: Any = conn.connection.driver_connection
    try:
        if durable:
            raw.execute("PRAGMA synchronous=FULL")
        raw.execute(begin)
        yield
        raw.execute("COMMIT")
    except (sqlite3.OperationalError, sa.exc.OperationalError) as error:
        if not _passes(error):
            raise
        _log.error("database_unavailable", error=str(error))
        raise Unavailable("The database cannot be used now.", str(error)) from error
    finally:
        if raw.in_transaction:  # it raised, or COMMIT did; a full disk makes SQLite roll back by itself
            raw.execute("ROLLBACK")
        if durable:
            raw.execute("PRAGMA synchronous=NORMAL")


_PASSING = ("SQLITE_FULL", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_CANTOPEN")


def _passes(error: sqlite3.OperationalError | sa.exc.OperationalError) -> bool:
    """A full disk, another process that writes: not a statement that is wrong."""
    cause = error if isinstance(error, sqlite3.OperationalError) else error.orig
    code = str(getattr(cause, "sqlite_errorname", ""))
    return code.startswith(_PASSING)


def _pragmas(raw: Any, _record: Any) -> None:
    raw.isolation_level = None
    _write_ahead(raw)
    raw.execute("PRAGMA synchronous=NORMAL")
    raw.execute("PRAGMA foreign_keys=ON")
    raw.execute("PRAGMA cache_size=-500")  # keep each small, share pages by mmap
    raw.execute("PRAGMA mmap_size=268435456")
    regexp.register(raw)
    cidrs.register(raw)


def _write_ahead(raw: Any) -> None:
    """WAL mode, which stays with the file. Of several who open a new file at once all but one are told BUSY
    at once, whatever their timeout: SQLite sees the deadlock. They wait for that one, as writers do."""
    while True:
        try:
            raw.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
        else:
            return
        raw.execute("BEGIN IMMEDIATE")
        raw.execute("ROLLBACK")
