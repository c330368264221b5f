"""SQLite: WAL, a connection a thread; writers queue on a lock of ours instead of polling SQLite's."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import sqlalchemy as sa

from kilonova import log
from kilonova.domain.errors import Unavailable
from kilonova.store import regexp

_log = log.get("database")
_EXECUTION = {"isolation_level": "AUTOCOMMIT"}


class SQLite:
    """See store.database.Kind."""

    def __init__(self, url: sa.URL) -> None:
        self._writer = threading.Lock()
        self._local = threading.local()
        self._opened: list[sa.Connection] = []
        self.engine = sa.create_engine(
            url, poolclass=sa.NullPool, connect_args={"timeout": 30, "check_same_thread": False}
        )
        sa.event.listen(self.engine, "connect", _pragmas)

    def reading(self) -> AbstractContextManager[sa.Connection]:
        return self._transaction("BEGIN", durable=False)

    @contextmanager
    def writing(self, durable: bool) -> Iterator[sa.Connection]:
        with self._writer, self._transaction("BEGIN IMMEDIATE", durable) as conn:
            yield conn

    @contextmanager
    def _transaction(self, begin: str, durable: bool) -> Iterator[sa.Connection]:
        conn = self._connection()
        raw: Any = conn.connection.driver_connection
        try:
            if durable:
                raw.execute("PRAGMA synchronous=FULL")
            raw.execute(begin)
            yield conn
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
    raw.execute("PRAGMA cache_size=-500")  # a connection a thread: keep each small, share pages by mmap
    raw.execute("PRAGMA mmap_size=268435456")
    regexp.register(raw)


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
