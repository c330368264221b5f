"""PostgreSQL in trouble: what callers see when it restarts, is slow, is full, or undoes what they did."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from tests.postgresql import PostgreSQL
from tests.running import until

from kilonova.config import Database as Options
from kilonova.domain.errors import BadRequest, RolledBack, Timeout, Unavailable
from kilonova.store import postgresql, tokens
from kilonova.store.database import Database
from kilonova.store.repeat import TIMES, repeat, repeated
from kilonova.store.schema.quotas import quotas

SLEEP = sa.text("SELECT pg_sleep(30)")


@pytest.fixture
def database_kind() -> str:
    return "postgresql"


@pytest.fixture
def url(new_url: Callable[[], str]) -> str:
    return new_url()


@pytest.fixture
def open_database(url: str) -> Iterator[Callable[..., Database]]:
    """With these options."""
    opened: list[Database] = []

    def make(**options: Any) -> Database:
        opened.append(Database(url, Options(**options)))
        return opened[-1]

    yield make
    for db in opened:
        db.close()


@pytest.fixture
def db(open_database: Callable[..., Database]) -> Database:
    return open_database()


@pytest.fixture
def own_server() -> Iterator[PostgreSQL]:
    """One that a test may stop."""
    server = PostgreSQL()
    try:
        yield server.start()
    finally:
        server.remove()


def bump(db: Database, durable: bool = False) -> None:
    with db.write(durable) as conn:
        tokens.bump(conn)


def bumped(db: Database) -> int:
    with db.read() as conn:
        return tokens.generation(conn)


def end_connections(db: Database) -> None:
    """All but the one that does it, as an operator may."""
    other = sa.create_engine(db.engine.url, isolation_level="AUTOCOMMIT")
    query = "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE datname = current_database()"
    with other.connect() as conn:
        conn.execute(sa.text(f"{query} AND pid != pg_backend_pid()"))
    other.dispose()


class TestLostConnections:
    def test_idle_ones_are_replaced(self, db: Database) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: bump(db), range(8)))
        end_connections(db)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: bump(db), range(8)))
        assert bumped(db) == 16

    def test_one_in_a_transaction_undoes_it(self, db: Database) -> None:
        def write() -> None:
            with db.write() as conn:
                tokens.bump(conn)
                end_connections(db)
                tokens.bump(conn)

        with pytest.raises(RolledBack):
            write()
        assert bumped(db) == 0

    def test_and_it_is_done_again(self, db: Database) -> None:
        times = []

        @repeated
        def write() -> None:
            with db.write() as conn:
                tokens.bump(conn)
                times.append(1)
                if len(times) == 1:
                    end_connections(db)
                tokens.bump(conn)

        write()
        assert bumped(db) == 2

    def test_one_in_a_read(self, db: Database) -> None:
        def read() -> None:
            with db.read() as conn:
                tokens.generation(conn)
                end_connections(db)
                tokens.generation(conn)

        with pytest.raises(RolledBack):
            read()
        assert bumped(db) == 0

    def test_whether_it_committed_is_not_known(self, db: Database) -> None:
        def write() -> None:
            with db.write() as conn:
                tokens.bump(conn)
                end_connections(db)

        with pytest.raises(Unavailable, match="not known") as raised:
            write()
        assert not isinstance(raised.value, RolledBack), "it must not be done again"
        assert bumped(db) == 0


class Speechless:
    """libpq as it is when the server goes in the middle of an answer: a failure that no server explains, on a
    connection that it takes for good."""

    def __init__(self, pgconn: Any) -> None:
        self._pgconn = pgconn

    def exec_(self, _command: bytes) -> Any:
        return self._pgconn.make_empty_result(psycopg.pq.ExecStatus.FATAL_ERROR)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pgconn, name)


def test_a_failure_that_the_server_does_not_explain_is_a_lost_connection(db: Database) -> None:
    with db.engine.connect() as conn:
        raw: Any = conn.connection.driver_connection
        raw.pgconn = Speechless(raw.pgconn)
    assert bumped(db) == 0, "another connection was taken"

    def write() -> None:
        with db.write() as conn:
            raw: Any = conn.connection.driver_connection
            raw.pgconn = Speechless(raw.pgconn)

    with pytest.raises(Unavailable, match="not known"):
        write()


class TestDisk:
    def test_only_a_durable_write_waits_for_it(self, own_server: PostgreSQL) -> None:
        """Nobody else writes the log to the disk here for ten seconds."""
        db = Database(own_server.url())
        db.create()
        _slow_log_writer(db)

        def written_alone() -> bool:
            bump(db)
            return not _all_on_disk(db)

        until(written_alone, 60, "the log writer to be slow")
        bump(db, durable=True)
        assert _all_on_disk(db)
        db.close()

    def test_no_row_is_held_meanwhile(self, own_server: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
        db = Database(own_server.url())
        db.create()
        flush = postgresql._flush

        def flush_later(conn: sa.Connection) -> None:
            monkeypatch.setattr(postgresql, "_flush", flush)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(bump, db).result(timeout=30)
            flush(conn)

        monkeypatch.setattr(postgresql, "_flush", flush_later)
        bump(db, durable=True)
        assert bumped(db) == 2
        db.close()


def _slow_log_writer(db: Database) -> None:
    with sa.create_engine(db.engine.url, isolation_level="AUTOCOMMIT").connect() as conn:
        conn.exec_driver_sql("ALTER SYSTEM SET wal_writer_delay = '10s'")
        conn.exec_driver_sql("SELECT pg_reload_conf()")


def _all_on_disk(db: Database) -> bool:
    with db.read() as conn:
        query = "SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()"
        return bool(conn.exec_driver_sql(query).scalar_one())


class TestRestart:
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
    def test_costs_callers_a_moment(self, own_server: PostgreSQL, how: signal.Signals) -> None:
        """Threads that write all the time: no error but Unavailable, and what returned is there."""
        db = Database(own_server.url())
        db.create()
        done: list[int] = []
        unknown: list[int] = []
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                try:
                    repeat(bump, db, durable=True)
                    done.append(1)
                except Unavailable:
                    unknown.append(1)

        with ThreadPoolExecutor(6) as pool:
            futures = [pool.submit(work) for _ in range(6)]
            for _ in range(2):
                _grows(done)
                own_server.stop(how)
                own_server.start()
            _grows(done)
            stop.set()
            for future in futures:
                future.result()
        assert len(done) <= bumped(db) <= len(done) + len(unknown)
        assert len(unknown) <= 12, "only a commit that was cut off is not known, one a thread"
        db.close()

    def test_longer_than_the_patience(self, own_server: PostgreSQL) -> None:
        db = Database(own_server.url(), Options(reconnect_timeout=0.3))
        db.create()
        own_server.stop()
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(Unavailable, match="does not answer"):
                bump(db)
            assert time.monotonic() - began < 50
        own_server.start()
        bump(db)
        assert bumped(db) == 1
        db.close()


class TestReach:
    """One try to connect: what may pass is Unavailable, what will not is BadRequest."""

    def test_what_it_says(self, own_server: PostgreSQL) -> None:
        self.reach(own_server.url())
        with pytest.raises(BadRequest, match='database "nowhere" does not exist'):
            self.reach(own_server.url("nowhere"))
        # Of several servers one refuses, another is away: that one may come back.
        elsewhere = own_server.url("nowhere").replace("host=", "host=/nowhere,")
        with pytest.raises(Unavailable, match="does not answer"):
            self.reach(elsewhere)
        own_server.stop()
        for database in ("postgres", "nowhere"):
            with pytest.raises(Unavailable, match="does not answer"):
                self.reach(own_server.url(database))

    def test_all_connections_in_use_is_no_absence(self, url: str) -> None:
        db = Database(url, Options(max_pool_size=1, pool_timeout=0.1))
        with db.read():
            db.reach()
        db.close()

    def reach(self, url: str) -> None:
        db = Database(url)
        try:
            db.reach()
        finally:
            db.close()


def _grows(done: list[int]) -> None:
    """Returns when there are 50 more."""
    before = len(done)
    until(lambda: len(done) > before + 50, 60, "writes to succeed")


class TestCollisions:
    def test_a_deadlock_is_resolved_and_done_again(self, db: Database) -> None:
        with db.write() as conn:
            conn.execute(quotas.insert(), [{"project_id": p, "resource": "x", "hard_limit": 0} for p in "ab"])
        both_hold_one = threading.Barrier(2)

        def add(order: str) -> None:
            waits = [True]

            def both() -> None:
                with db.write() as conn:
                    for project in order:
                        grown = quotas.update().where(quotas.c.project_id == project)
                        conn.execute(grown.values(hard_limit=quotas.c.hard_limit + 1))
                        if waits.pop() if waits else False:
                            both_hold_one.wait(60)

            repeat(both)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(add, ["ab", "ba"]))
        with db.read() as conn:
            assert conn.execute(sa.select(quotas.c.hard_limit)).scalars().all() == [2, 2]

    def test_in_vain_it_is_done_again_only_so_often(self) -> None:
        times = []

        @repeated
        def never() -> None:
            times.append(1)
            raise RolledBack("always")

        with pytest.raises(RolledBack):
            never()
        assert len(times) == TIMES


class TestLimits:
    def test_a_statement_that_takes_too_long(self, open_database: Callable[..., Database]) -> None:
        db = open_database(statement_timeout=2.0)
        with pytest.raises(Timeout), db.read() as conn:
            conn.execute(SLEEP)
        bump(db)

    def test_who_sleeps_in_a_transaction_loses_its_locks(
        self, open_database: Callable[..., Database]
    ) -> None:
        """A process that was stopped there must not stop all the others."""
        db, others = open_database(statement_timeout=3.0), open_database()
        bump(db)

        def sleep() -> None:
            with db.write() as conn:
                tokens.bump(conn)
                bump_of_other.append(pool.submit(bump, others))
                bump_of_other[0].result(60)
                tokens.bump(conn)

        bump_of_other: list[Any] = []
        with ThreadPoolExecutor(1) as pool, pytest.raises(RolledBack):
            sleep()
        assert bumped(others) == 2

    def test_all_connections_are_in_use(self, open_database: Callable[..., Database]) -> None:
        db = open_database(max_pool_size=1, pool_timeout=0.1)
        with db.read(), ThreadPoolExecutor(1) as pool, pytest.raises(Unavailable, match="in use"):
            pool.submit(bump, db).result()
        bump(db)

    def test_a_number_too_big(self, db: Database) -> None:
        with pytest.raises(BadRequest), db.write() as conn:
            conn.execute(quotas.insert(), {"project_id": "p", "resource": "x", "hard_limit": 2**40})

    def test_text_too_long(self, db: Database) -> None:
        with pytest.raises(BadRequest), db.write() as conn:
            conn.execute(quotas.insert(), {"project_id": "p" * 65, "resource": "x", "hard_limit": 1})


@pytest.mark.parametrize("url", ["mysql://u@h/d", "no url", "redis://h", ""])
def test_no_such_database(url: str) -> None:
    with pytest.raises(BadRequest, match="connection"):
        Database(url)
