"""PostgreSQL: a pool of connections; lost ones are replaced, and what a failure means is said in our errors.

A read is one snapshot (REPEATABLE READ, READ ONLY): it waits for nobody and fails for nobody. A write is READ
COMMITTED: rows that are fought over are waited for, not failed on. Nothing is asked of an idle connection
before it is used: its BEGIN is the question, and if that fails another connection gets it.

No transaction waits for the disk while it holds its rows: a durable one commits, and then waits (flush.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import chain, repeat
from typing import Any

import sqlalchemy as sa

from kilonova import log
from kilonova.config import Database as Options
from kilonova.domain.errors import BadRequest, RolledBack, Timeout, Unavailable
from kilonova.store.flush import FLUSH, Flushes

try:
    import psycopg
except ModuleNotFoundError as missing:
    raise BadRequest("PostgreSQL needs psycopg: pip install 'kilonova[postgresql]'") from missing

_READ = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITE = b"BEGIN"

_CONNECT: Mapping[str, Any] = {
    "application_name": "kilonova",
    "connect_timeout": 5,
    # A server that went without a word (power, network) is noticed after about 20 s.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20000,
}
"""Of libpq; the connection's URL may say otherwise."""

_LOST = {"40001", "40P01", "55P03", "23503", "23505"}
"""SQLSTATEs of who was in another's way: serialization failure, deadlock, a lock that is not given in time;
and a row that another transaction made or removed since we looked for it (foreign key, unique). Doing it
again finds what is there now."""

_OPENED = "kilonova.opened"

_REFUSED = re.compile(
    r"password authentication failed|no password supplied|no pg_hba\.conf entry|certificate verify failed|"
    r"\b(database|role|user) \"[^\"]*\" does not exist|role \"[^\"]*\" is not permitted to log in"
)
"""What does not pass by waiting. There are only words: libpq keeps the SQLSTATE of a failed login to itself.
A server that speaks another language is waited for, and what it says is shown."""
_SEVERAL = re.compile(r"Multiple connection attempts failed")
"""The URL names several servers, and what one of them said was not what all said."""

_PAUSES = (0.05, 0.1, 0.2, 0.5)
"""Seconds between two tries to connect; the last one again and again."""

_log = log.get("database")


class PostgreSQL:
    """See store.database.Kind."""

    remote = True

    def __init__(self, url: sa.URL, options: Options) -> None:
        self._patience = options.reconnect_timeout
        self._pool_size = options.max_pool_size
        self._timeout = max(1, round(options.statement_timeout * 1000))
        self._flushes = Flushes()
        defaults = {name: str(value) for name, value in _CONNECT.items() if name not in url.query}
        self.engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg").update_query_dict(defaults),
            isolation_level="AUTOCOMMIT",  # BEGIN and COMMIT are ours to say
            skip_autocommit_rollback=True,
            pool_size=options.max_pool_size,
            max_overflow=0,
            pool_timeout=options.pool_timeout,
            pool_use_lifo=True,
            pool_reset_on_return=None,
        )
        sa.event.listen(self.engine, "connect", self._configure)

    def reach(self) -> None:
        try:
            self.engine.connect().close()
        except sa.exc.TimeoutError:
            pass  # all connections are in use: there are some
        except sa.exc.OperationalError as error:
            said = str(error.orig).strip()
            if _REFUSED.search(said) and not _SEVERAL.search(said):
                raise BadRequest(f"The database refuses us: {said}") from error
            raise Unavailable(f"The database does not answer: {said}") from error

    def reading(self) -> AbstractContextManager[sa.Connection]:
        return self._transaction(_READ, durable=False)

    def writing(self, durable: bool) -> AbstractContextManager[sa.Connection]:
        return self._transaction(_WRITE, durable)

    def connections(self) -> tuple[int, int]:
        pool: Any = self.engine.pool
        return pool.checkedout(), pool.checkedin()

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _transaction(self, begin: bytes, durable: bool) -> Iterator[sa.Connection]:
        conn = self._begun(begin)
        began = time.monotonic()
        try:
            try:
                yield conn
            except sa.exc.DBAPIError as error:
                _end(conn, b"ROLLBACK")
                raise _meaning(error.orig, error.connection_invalidated) or error from error
            except psycopg.Error as error:  # of a Statement
                lost = _raw(conn).closed
                if lost:
                    conn.invalidate()
                _end(conn, b"ROLLBACK")
                raise _meaning(error, lost) or error from error
            except BaseException:
                _end(conn, b"ROLLBACK")
                raise
            if begin is _READ:
                _end(conn, b"COMMIT")
            else:
                _commit(conn)
            if durable:
                self._flushes.wait(lambda: _flush(conn), conn.info[_OPENED], began)
        finally:
            conn.close()

    def _begun(self, begin: bytes) -> sa.Connection:
        """A connection in a new transaction. Unavailable if there is none in time."""
        until = time.monotonic() + self._patience
        pauses = chain(_PAUSES, repeat(_PAUSES[-1]))
        lost = 0
        while lost <= self._pool_size:
            try:
                conn = self.engine.connect()
            except sa.exc.TimeoutError as error:
                raise Unavailable("All connections to the database are in use.") from error
            except sa.exc.OperationalError as error:
                if time.monotonic() >= until:
                    _log.warning("database_unavailable", error=str(error.orig).strip())
                    raise Unavailable("The database does not answer.", str(error.orig).strip()) from error
                time.sleep(next(pauses))  # nobody tells when a server that is away is back
            else:
                if _began(conn, begin):
                    return conn
                lost += 1
        raise Unavailable("The database ends every connection.")

    def _configure(self, raw: Any, record: Any) -> None:
        record.info[_OPENED] = time.monotonic()
        raw.autocommit = True
        raw.execute(
            f"SET synchronous_commit = off; SET statement_timeout = {self._timeout}; "
            # What a cloud works on lies in memory: a row by an index costs little more than the next one.
            "SET random_page_cost = 1.1; "
            # A process that was stopped in the middle of a transaction holds its locks no longer than this.
            f"SET idle_in_transaction_session_timeout = {self._timeout}",
            prepare=False,
        )


def _raw(conn: sa.Connection) -> Any:
    raw = conn.connection.driver_connection
    assert raw is not None
    return raw


def _run(raw: Any, command: bytes) -> bytes | None:
    """Begin or end a transaction: what has become of it. By libpq itself: half the price of a cursor's."""
    result = raw.pgconn.exec_(command)
    if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
        error = psycopg.errors.error_from_result(result)
        if error.sqlstate is None:  # not the server's words but libpq's: it has lost the connection
            raw.close()
            raise psycopg.OperationalError(str(error)) from error
        raise error
    status: bytes | None = result.command_status
    return status


def _began(conn: sa.Connection, begin: bytes) -> bool:
    """False if the connection was lost while it lay in the pool; it is gone from there then."""
    try:
        _run(_raw(conn), begin)
    except psycopg.OperationalError as error:
        _log.info("connection_replaced", error=str(error).strip())
        conn.invalidate()
        conn.close()
        return False
    return True


def _end(conn: sa.Connection, how: bytes) -> None:
    """Leave a transaction that has nothing to keep. A connection that cannot even do that is thrown away."""
    if conn.invalidated:
        return
    try:
        _run(_raw(conn), how)
    except psycopg.Error:
        conn.invalidate()


def _commit(conn: sa.Connection) -> None:
    raw = _raw(conn)
    try:
        done = _run(raw, b"COMMIT")
    except psycopg.Error as error:
        lost = raw.closed
        conn.invalidate()
        if lost:
            _log.error("commit_unknown", error=str(error).strip())
            raise Unavailable(
                "The database went away while it committed: whether it did is not known."
            ) from error
        raise RolledBack(f"The database did not commit: {error}") from error
    # PostgreSQL answers COMMIT so, and without an error, where a statement of the transaction has failed.
    assert done == b"COMMIT", "the block went on after a statement that failed"


def _flush(conn: sa.Connection) -> None:
    """What was committed until now is on the disk."""
    raw = _raw(conn)
    try:
        _run(raw, FLUSH)
    except psycopg.Error as error:
        conn.invalidate()
        _log.error("flush_unknown", error=str(error).strip())
        raise Unavailable("Whether the database has it on the disk is not known.") from error


def _meaning(error: BaseException | None, lost: bool) -> Exception | None:
    """What a failed statement means to the caller; None: a bug of ours. ``lost``: the connection too."""
    state = getattr(error, "sqlstate", None) or ""
    said = str(error).strip()
    if lost or state in _LOST:
        _log.info("rolled_back", sqlstate=state, error=said)
        return RolledBack("The database was busy with something that changed this. Try again.")
    if state == "57014":
        _log.warning("statement_timeout", error=said)
        return Timeout("The database took too long.")
    if state[:2] in {"53", "57", "58"}:  # no resources, an operator, the system
        _log.error("database_failed", sqlstate=state, error=said)
        return Unavailable("The database cannot do this now.")
    if isinstance(error, psycopg.DataError):
        return BadRequest(f"A value that cannot be kept: {said.splitlines()[0]}")
    return None
