"""One flush for all that was committed before it began."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.running import until

from kilonova.store.flush import Flushes


def test_who_comes_during_a_flush_waits_for_the_next_which_all_share() -> None:
    flushes, begun, go_on = Flushes(), [], threading.Event()

    def flush() -> None:
        begun.append(len(begun))
        go_on.wait(30)

    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(flushes.wait, flush, 0.0, 1.0)
        until(lambda: len(begun) == 1, 60, "the first flush")
        rest = [pool.submit(flushes.wait, flush, 0.0, 1.0) for _ in range(5)]
        until(lambda: len(flushes._changed._waiters) == 5, 60, "the others")  # type: ignore[attr-defined]
        go_on.set()
        for one in [first, *rest]:
            one.result(30)
    assert len(begun) == 2


def test_one_alone_flushes_each_time() -> None:
    flushes, begun = Flushes(), []
    for number in range(3):
        flushes.wait(lambda number=number: begun.append(number), 0.0, 1.0)  # type: ignore[misc]
    assert begun == [0, 1, 2]


def test_a_flush_that_fails_is_its_own_callers_alone() -> None:
    flushes, begun, go_on = Flushes(), threading.Event(), threading.Event()

    def fail() -> None:
        begun.set()
        go_on.wait(30)
        raise ZeroDivisionError

    done: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(flushes.wait, fail, 0.0, 1.0)
        begun.wait(30)
        other = pool.submit(flushes.wait, lambda: done.append("flushed"), 0.0, 1.0)
        until(lambda: flushes._changed._waiters, 60, "the other")  # type: ignore[attr-defined]
        go_on.set()
        other.result(30)
        with pytest.raises(ZeroDivisionError):
            failing.result(30)
    assert done == ["flushed"]


def test_a_flush_by_a_connection_that_is_younger_than_the_transaction_does_not_count() -> None:
    """It may be to a database that has come back from a crash, and has forgotten the transaction."""
    flushes, begun, go_on = Flushes(), [], threading.Event()

    def flush() -> None:
        begun.append(len(begun))
        go_on.wait(30)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(flushes.wait, flush, 0.0, 1.0)
        until(lambda: len(begun) == 1, 60, "the first flush")
        rest = [pool.submit(flushes.wait, flush, 2.0, 1.0) for _ in range(2)]
        until(lambda: len(flushes._changed._waiters) == 2, 60, "the others")  # type: ignore[attr-defined]
        go_on.set()
        for one in [first, *rest]:
            one.result(30)
    assert len(begun) == 3
