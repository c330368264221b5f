"""The database of one file: transactions that join, that fail, and that never wait for each other in vain."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.domain.errors import BadRequest, Unavailable
from kilonova.store.database import Database

PATIENCE = 60.0


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'k.db'}")
    database.create()
    with database.write() as conn:
        conn.exec_driver_sql("CREATE TABLE words (word TEXT)")
    yield database
    database.close()


def add(conn: sa.Connection, word: str) -> None:
    conn.exec_driver_sql("INSERT INTO words VALUES (?)", (word,))


def words(db: Database) -> list[str]:
    with db.read() as conn:
        return [row[0] for row in conn.exec_driver_sql("SELECT word FROM words ORDER BY word")]


def fail_in_a_write(db: Database, error: BaseException, *before: str) -> None:
    with db.write() as conn:
        add(conn, "lost")
        for statement in before:
            conn.exec_driver_sql(statement)
        raise error


def test_a_block_that_ends_is_committed_and_one_that_raises_is_not(db: Database) -> None:
    with db.write() as conn:
        add(conn, "a")
    with pytest.raises(ZeroDivisionError):
        fail_in_a_write(db, ZeroDivisionError())
    assert words(db) == ["a"]


@pytest.mark.parametrize("durable", [False, True])
def test_a_commit_is_seen_by_every_thread(db: Database, durable: bool) -> None:
    with db.write(durable=durable) as conn:
        add(conn, "a")
    seen: list[list[str]] = []
    thread = threading.Thread(target=lambda: seen.append(words(db)))
    thread.start()
    thread.join(PATIENCE)
    assert seen == [["a"]]


def test_only_a_durable_write_waits_for_the_disk(db: Database) -> None:
    def synchronous(conn: sa.Connection) -> int:
        return int(conn.exec_driver_sql("PRAGMA synchronous").scalar_one())

    with db.write(durable=True) as conn:
        assert synchronous(conn) == 2
    with db.write() as conn:
        assert synchronous(conn) == 1


def test_what_nests_joins_the_outer_transaction(db: Database) -> None:
    def nested() -> None:
        with db.write() as outer:
            add(outer, "a")
            with db.write() as inner:
                add(inner, "b")
                assert inner is outer
            with db.read() as reading:
                assert reading is outer
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        nested()
    assert words(db) == []


def test_reads_nest_and_a_write_inside_a_read_is_refused(db: Database) -> None:
    def wrong() -> None:
        with db.read(), db.write():
            pass

    with db.read() as outer, db.read() as inner:
        assert inner is outer
    with pytest.raises(AssertionError, match="a write inside a read"):
        wrong()
    with db.write() as conn:
        add(conn, "a")
    assert words(db) == ["a"]


def test_a_read_sees_one_moment(db: Database) -> None:
    with db.write() as conn:
        add(conn, "a")

    def write() -> None:
        with db.write() as conn:
            add(conn, "b")

    with db.read() as conn:
        count = "SELECT count(*) FROM words"
        assert conn.exec_driver_sql(count).scalar_one() == 1
        writer = threading.Thread(target=write)
        writer.start()
        writer.join(PATIENCE)
        assert not writer.is_alive(), "a writer does not wait for readers"
        assert conn.exec_driver_sql(count).scalar_one() == 1
    assert words(db) == ["a", "b"]


def test_writers_take_turns(db: Database) -> None:
    """Each reads and writes a number: with two at once some would be lost."""
    with db.write() as conn:
        conn.exec_driver_sql("CREATE TABLE number (n INTEGER)")
        conn.exec_driver_sql("INSERT INTO number VALUES (0)")

    def count() -> None:
        for _ in range(25):
            with db.write() as conn:
                n = conn.exec_driver_sql("SELECT n FROM number").scalar_one()
                conn.exec_driver_sql("UPDATE number SET n = ?", (n + 1,))

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    with db.read() as conn:
        assert conn.exec_driver_sql("SELECT n FROM number").scalar_one() == 200


# --- what fails


def test_a_commit_that_fails_leaves_the_thread_able_to_go_on(db: Database) -> None:
    """SQLite looks at a deferred foreign key when it commits; the transaction is open after that."""

    def orphan() -> None:
        with db.write() as conn:
            conn.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
            conn.exec_driver_sql("INSERT INTO server_tags (server_id, tag) VALUES ('nobody', 't')")

    with pytest.raises(Exception, match="FOREIGN KEY"):
        orphan()
    with db.write() as conn:
        add(conn, "a")
    assert words(db) == ["a"]


def test_an_error_is_not_hidden_by_what_sqlite_rolled_back_already(db: Database) -> None:
    """As after a full disk: there is no transaction any more when the block raises."""
    with pytest.raises(ZeroDivisionError):
        fail_in_a_write(db, ZeroDivisionError(), "ROLLBACK")
    with db.write() as conn:
        add(conn, "a")
    assert words(db) == ["a"]


def limit_pages(db: Database, pages: int) -> None:
    """No more than so many pages from here on, in the connection that writes: a disk that is full."""
    with db.write() as conn:
        conn.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


def test_a_disk_that_is_full_is_unavailable_and_passes(db: Database) -> None:
    limit_pages(db, 1)  # SQLite makes it what the file has
    with pytest.raises(Unavailable, match="The database cannot be used now"):
        fill(db)
    limit_pages(db, 1 << 30)
    with db.write() as conn:
        add(conn, "a")
    assert words(db) == ["a"]


def fill(db: Database) -> None:
    with db.write() as conn:
        for number in range(1000):
            add(conn, f"{number:0>200}")


def test_a_database_that_another_process_holds_is_unavailable(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    with db.write() as conn:
        conn.exec_driver_sql("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(db.url.removeprefix("sqlite:///"))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        fail_in_a_write(db, ZeroDivisionError())
    other.rollback()
    other.close()
    with db.write() as conn:
        add(conn, "a")
    assert words(db) == ["a"]


def test_a_wrong_statement_is_an_error_of_ours(db: Database) -> None:
    """Not Unavailable: nobody should try it again."""
    with pytest.raises(sa.exc.OperationalError), db.read() as conn:
        conn.exec_driver_sql("SELECT * FROM no_such_table")
    assert words(db) == []


@pytest.mark.parametrize("url", ["nonsense", "mysql://u:p@h/d"])
def test_a_database_of_no_known_kind_is_refused(url: Any) -> None:
    with pytest.raises(BadRequest, match=r"\[database\] connection"):
        Database(url)


def test_many_that_open_a_new_file_at_once_all_may(tmp_path: Path) -> None:
    for number in range(15):
        url, at_once = f"sqlite:///{tmp_path / str(number)}.db", threading.Barrier(6)

        def open_it(url: str = url, at_once: threading.Barrier = at_once) -> None:
            database = Database(url)
            at_once.wait(PATIENCE)
            with database.read() as conn:
                conn.exec_driver_sql("SELECT 1")
            database.close()

        with ThreadPoolExecutor(6) as pool:
            for opened in [pool.submit(open_it) for _ in range(6)]:
                opened.result()


def test_the_first_write_of_a_durable_block_waits_for_the_disk(db: Database) -> None:
    seen = []

    def write() -> None:
        with db.write() as conn:
            seen.append(int(conn.exec_driver_sql("PRAGMA synchronous").scalar_one()))
            add(conn, "a")

    with db.durably():
        with pytest.raises(ZeroDivisionError):
            fail_in_a_write(db, ZeroDivisionError())
        write()
        write()
    write()
    with pytest.raises(ZeroDivisionError), db.durably():
        raise ZeroDivisionError
    write()
    assert seen == [2, 1, 1, 1]
