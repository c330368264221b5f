"""Turns at one file: one at a time, woken and not looking; who is cancelled leaves, and hinders nobody."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

import pytest
from tests.running import until

from kilonova.cancel import Cancel
from kilonova.domain.errors import StaleEpoch
from kilonova.virt.libvirt.turns import Turn

PATIENCE = 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image.lock"


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


@pytest.fixture
def other_process(path: Path) -> Iterator[TextIO]:
    """It holds the lock until it is closed."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def is_free(path: Path) -> bool:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


class Job:
    """Takes its turn in a thread, and keeps it until it is let go."""

    def __init__(self, pool: ThreadPoolExecutor, turn: Turn) -> None:
        self.cancel, self.has, self.end = Cancel(), threading.Event(), threading.Event()
        self.done: Future[None] = pool.submit(self._work, turn)

    def _work(self, turn: Turn) -> None:
        with turn.taken(self.cancel):
            self.has.set()
            assert self.end.wait(PATIENCE)

    def is_cut_off(self) -> None:
        self.cancel.set()
        with pytest.raises(StaleEpoch):
            self.done.result(PATIENCE)
        assert not self.has.is_set()

    def ends(self) -> None:
        assert self.has.wait(PATIENCE)
        self.end.set()
        self.done.result(PATIENCE)


def waiting(turn: Turn, count: int) -> None:
    until(lambda: len(turn._queue) == count, PATIENCE, f"{count} in the queue")


def test_in_order_of_arrival(path: Path, pool: ThreadPoolExecutor) -> None:
    turn = Turn(path)
    jobs = []
    for number in range(4):
        jobs.append(Job(pool, turn))
        waiting(turn, number + 1)
    for number, job in enumerate(jobs):
        assert job.has.wait(PATIENCE)
        assert not any(later.has.is_set() for later in jobs[number + 1 :])
        assert not is_free(path)
        job.ends()
    assert is_free(path)


def test_who_is_cancelled_leaves_the_queue(path: Path, pool: ThreadPoolExecutor) -> None:
    turn = Turn(path)
    first = Job(pool, turn)
    assert first.has.wait(PATIENCE)
    second, third = Job(pool, turn), Job(pool, turn)
    waiting(turn, 3)
    second.is_cut_off()
    first.ends()
    third.ends()


def test_who_was_cancelled_before_does_not_begin(path: Path) -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(StaleEpoch), Turn(path).taken(cancel):
        raise AssertionError
    assert is_free(path)


def test_another_process_is_waited_for(path: Path, pool: ThreadPoolExecutor, other_process: TextIO) -> None:
    turn = Turn(path)
    first, second = Job(pool, turn), Job(pool, turn)
    waiting(turn, 2)
    assert not first.has.is_set()
    assert not second.has.is_set()
    other_process.close()
    for job in (first, second):
        job.end.set()
    for job in (first, second):
        job.ends()
    assert is_free(path)


def test_a_cancel_ends_the_wait_for_another_process(
    path: Path, pool: ThreadPoolExecutor, other_process: TextIO
) -> None:
    """Those who come later wait on; one thread waits for the lock, however many are cut off."""
    turn = Turn(path)
    before = threading.active_count()
    for _ in range(5):
        job = Job(pool, turn)
        until(lambda: turn._queue and turn._queue[0].is_set(), PATIENCE, "its turn")
        job.is_cut_off()
    assert threading.active_count() <= before + 8 + 1, "the pool's, and one"
    last = Job(pool, turn)
    waiting(turn, 1)
    other_process.close()
    last.ends()
    assert is_free(path)


def test_a_lock_that_comes_when_nobody_wants_it_any_more_is_let_go(
    path: Path, pool: ThreadPoolExecutor, other_process: TextIO
) -> None:
    turn = Turn(path)
    job = Job(pool, turn)
    until(lambda: turn._queue and turn._queue[0].is_set(), PATIENCE, "its turn")
    job.is_cut_off()
    other_process.close()
    until(lambda: is_free(path), PATIENCE, "the lock to be let go")
    Job(pool, turn).ends()


def test_an_error_in_its_turn_wakes_the_next(path: Path, pool: ThreadPoolExecutor) -> None:
    turn = Turn(path)
    others = []

    def fail() -> None:
        with turn.taken(Cancel()):
            others.append(Job(pool, turn))
            waiting(turn, 2)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    others[0].ends()
