"""The database: one object a process, passed to whoever reads or writes.

``with db.read() as conn`` sees one snapshot; ``with db.write() as conn`` is one transaction, committed when
the block ends and rolled back when it raises. Queries live in this package, one file a resource, as plain
functions whose first argument is the connection.

SQLite runs one write at a time. PostgreSQL runs many, each statement on what is committed when it begins
(READ COMMITTED): who reads a row to decide what to write locks it first (``for_update``), or says in the
UPDATE's WHERE what it expects to find, or takes a lock of a name (``dialect.lock``). Locks are taken in one
order: an operation; a network, a port, what a quota counts, subnets; its server, then hosts and usage.
What loses against another transaction all the same is rolled back and told so (RolledBack); ``repeat.py``
runs it again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

import sqlalchemy as sa

from kilonova.config import Database as Options
from kilonova.domain.errors import BadRequest
from kilonova.store.schema import metadata

Row = sa.Row[*tuple[Any, ...]]
"""A row of any table; columns are its attributes."""


class Kind(Protocol):
    """What SQLite and PostgreSQL do differently: to open, to begin, to commit, to fail."""

    engine: sa.Engine

    remote: bool
    """Another process's: it may be away, and come back."""

    def reach(self) -> None: ...

    def reading(self) -> AbstractContextManager[sa.Connection]: ...

    def writing(self, durable: bool) -> AbstractContextManager[sa.Connection]: ...

    def connections(self) -> tuple[int, int]: ...

    def close(self) -> None: ...


class Together:
    """Writes that are one transaction (Database.together)."""

    conn: sa.Connection | None = None
    """In the transaction; None as long as nothing was written."""

    def __init__(self, first: Callable[[sa.Connection], None], closing: ExitStack) -> None:
        self.first = first
        self.closing = closing
        self.after: list[Callable[[], object]] = []


class _Local(threading.local):
    """The transaction that this thread is in."""

    conn: sa.Connection | None = None
    writes = False
    together: Together | None = None
    durable = False
    """Its next write is to be durable."""


class Database:
    """Safe in many threads. BadRequest: no such kind of database."""

    def __init__(self, url: str, options: Options | None = None) -> None:
        self.url = url
        self._kind = _kind(url, options or Options())
        self._local = _Local()
        self.engine = self._kind.engine

    def create(self) -> None:
        """Make every table that is missing."""
        with self.write() as conn:
            metadata.create_all(conn)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view. Nesting shares the outer one; inside a write it is the write's own."""
        local = self._local
        if (joined := local.conn) is not None:
            yield joined
            return
        with self._kind.reading() as conn:
            local.conn, local.writes = conn, False
            try:
                yield conn
            finally:
                local.conn = None

    @contextmanager
    def write(self, durable: bool = False) -> Iterator[sa.Connection]:
        """One transaction. ``durable``: on the disk before it returns, even if the power fails after.

        Without it a commit survives the death of the process but perhaps not of the machine.
        Nesting joins the outer transaction.

        On PostgreSQL it raises RolledBack if the transaction lost against another one or the connection broke
        before it committed; Unavailable if it broke in the commit (nobody knows), or if there is no database;
        Timeout if a statement took too long; BadRequest for text or a number that the database cannot keep.
        """
        local = self._local
        if (joined := local.conn) is not None:
            assert local.writes, "a write inside a read: the snapshot may be old"
            yield joined
            return
        if local.together is not None:
            yield self._begun(local.together)
            return
        after: list[Callable[[], object]] = []
        with self._kind.writing(durable or local.durable) as conn:
            conn.info[_AFTER] = after
            local.conn, local.writes = conn, True
            try:
                yield conn
            finally:
                local.conn = None
        local.durable = False
        for function in after:
            function()

    @contextmanager
    def together(self, first: Callable[[sa.Connection], None]) -> Iterator[Together]:
        """What this thread writes in the block is one durable transaction: it begins with the first write,
        by ``first(conn)``, and commits when the block ends. What is read before that is not part of it.
        """
        local = self._local
        with ExitStack() as closing:
            local.together = one = Together(first, closing)
            try:
                yield one
            finally:
                local.conn = local.together = None
        for function in one.after:
            function()

    @contextmanager
    def durably(self) -> Iterator[None]:
        """The first write that this thread commits in the block is durable."""
        self._local.durable = True
        try:
            yield
        finally:
            self._local.durable = False

    def _begun(self, one: Together) -> sa.Connection:
        """The transaction of a together(), by its first write."""
        conn = one.closing.enter_context(self._kind.writing(durable=True))
        conn.info[_AFTER] = one.after
        self._local.conn, self._local.writes = conn, True
        one.first(conn)
        one.conn = conn
        return conn

    @property
    def remote(self) -> bool:
        """Whether it is another process's, which may be away and come back."""
        return self._kind.remote

    def reach(self) -> None:
        """Connect, with one try. Unavailable says why that failed; BadRequest: it will fail as long as the
        configuration is what it is."""
        self._kind.reach()

    def check(self) -> None:
        """It answers. Unavailable, or an error of the driver's, if it does not."""
        self.reach()
        with self.read() as conn:
            conn.exec_driver_sql("SELECT 1")

    def connections(self) -> tuple[int, int]:
        """Open connections of this process: in use, idle."""
        return self._kind.connections()

    def close(self) -> None:
        self._kind.close()


_AFTER = "kilonova.after"


def after_commit(conn: sa.Connection, function: Callable[[], object]) -> None:
    """Call it when this transaction, begun by ``write`` or ``together``, has committed; never if it does not.

    ``function`` must not raise: what is committed was done.
    """
    conn.info[_AFTER].append(function)


def _kind(url: str, options: Options) -> Kind:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise BadRequest(f"[database] connection: {error}") from error
    if parsed.get_backend_name() == "sqlite":
        from kilonova.store.sqlite import SQLite

        return SQLite(parsed)
    if parsed.get_backend_name() == "postgresql":
        from kilonova.store.postgresql import PostgreSQL

        return PostgreSQL(parsed, options)
    raise BadRequest(
        f"[database] connection: {parsed.drivername} is not served; "
        "there are sqlite:///FILE and postgresql+psycopg://USER:PASSWORD@HOST/NAME"
    )
