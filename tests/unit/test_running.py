"""One thing at a time for each server: what waits, what is refused, what is cut off."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from tests.running import until

from kilonova.compute.running import Running, Task
from kilonova.domain.messages import Work
from kilonova.domain.servers import BuildSpec, Flavor

PATIENCE = 60.0


def work(server: str = "s", operation: str = "o", epoch: int = 1, kind: str = "build") -> Work:
    flavor = Flavor(id="1", name="m1", vcpus=1, memory_mb=1, root_gb=1)
    spec = BuildSpec(
        server_id=server, name="", hostname="", project_id="", user_id="", flavor=flavor, image=None
    )
    return Work(
        operation_id=operation,
        epoch=epoch,
        kind=kind,
        server_id=server,
        request_id=str(uuid.uuid4()),
        deadline=0.0,
        spec=spec,
    )


class Worker:
    """A thread that does a piece of work until it is told to end."""

    def __init__(self, running: Running, what: Work) -> None:
        self.task: Task | None = None
        self.begun, self.refused, self._end = threading.Event(), threading.Event(), threading.Event()
        self._running, self._work = running, what
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._running.begin(self._work) as self.task:
            if self.task is None:
                self.refused.set()
                return
            self.begun.set()
            assert self._end.wait(PATIENCE)

    def end(self) -> None:
        self._end.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def is_cancelled(self) -> bool:
        return self.task is not None and self.task.cancel.is_set()


@pytest.fixture
def running() -> Running:
    return Running()


@pytest.fixture
def start(running: Running) -> Iterator[Any]:
    """``start(work(…))``: a worker, joined at the end of the test."""
    workers: list[Worker] = []

    def begin(what: Work) -> Worker:
        workers.append(Worker(running, what))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.end()


def waits(running: Running, server: str = "s") -> bool:
    return server in running._waiting


def test_work_for_different_servers_goes_side_by_side(running: Running, start: Any) -> None:
    one, two = start(work("a", "1")), start(work("b", "2"))
    assert one.begun.wait(PATIENCE)
    assert two.begun.wait(PATIENCE)
    assert running.held() == {"1": 1, "2": 1}
    assert running.busy("a")
    assert not running.busy("c")


@pytest.mark.parametrize("again", [work(epoch=2), work(epoch=1)])
def test_the_same_or_older_words_of_an_operation_are_refused(start: Any, again: Work) -> None:
    first = start(work(epoch=2))
    assert first.begun.wait(PATIENCE)
    assert start(again).refused.wait(PATIENCE)
    assert not first.is_cancelled()


@pytest.mark.parametrize("newer", [work(epoch=2), work(operation="delete", kind="delete")])
def test_newer_work_cuts_the_older_off_and_waits_for_its_end(
    running: Running, start: Any, newer: Work
) -> None:
    older = start(work(epoch=1))
    assert older.begun.wait(PATIENCE)
    younger = start(newer)
    until(older.is_cancelled, PATIENCE, "the older to be cancelled")
    until(lambda: waits(running), PATIENCE, "the younger to wait")
    assert not younger.begun.is_set()
    assert running.superseded(older.task)
    older.end()
    assert younger.begun.wait(PATIENCE)
    assert not running.superseded(younger.task)
    assert not younger.is_cancelled()


def test_of_those_who_wait_only_the_newest_has_its_turn(running: Running, start: Any) -> None:
    current = start(work(epoch=1))
    assert current.begun.wait(PATIENCE)
    second = start(work(epoch=2))
    until(lambda: waits(running), PATIENCE, "the second to wait")
    third = start(work(epoch=3))
    assert second.refused.wait(PATIENCE)
    assert start(work(epoch=2)).refused.wait(PATIENCE)
    current.end()
    assert third.begun.wait(PATIENCE)


def test_when_it_ended_the_same_may_begin_again(running: Running) -> None:
    """Whether it should is for the conductor to say: here it is no news that it ended."""
    for _ in range(2):
        with running.begin(work()) as task:
            assert task is not None
    assert not running.busy("s")
    assert running.held() == {}


def test_work_that_fails_leaves_the_place_free(running: Running) -> None:
    with pytest.raises(ZeroDivisionError), running.begin(work()):
        raise ZeroDivisionError
    assert not running.busy("s")


def test_only_what_was_asked_about_and_not_kept_is_cancelled(running: Running, start: Any) -> None:
    kept, lost, newer = start(work("a", "1")), start(work("b", "2")), start(work("c", "3", epoch=5))
    for worker in (kept, lost, newer):
        assert worker.begun.wait(PATIENCE)
    running.cancel_all_but({"1": 1, "2": 1, "3": 4}, {"1"})
    assert [worker.is_cancelled() for worker in (kept, lost, newer)] == [False, True, False]


def test_all_can_be_cancelled(running: Running, start: Any) -> None:
    workers = [start(work(name, name)) for name in "abc"]
    for worker in workers:
        assert worker.begun.wait(PATIENCE)
    running.cancel_all()
    assert all(worker.is_cancelled() for worker in workers)


# --- a reservation: for who compares the host with the records


def test_work_waits_for_a_reservation_to_end(running: Running, start: Any) -> None:
    with running.reserved("s") as free:
        assert free
        worker = start(work())
        until(lambda: waits(running), PATIENCE, "the work to wait")
        assert not worker.begun.is_set()
        assert not running.held()
    assert worker.begun.wait(PATIENCE)
    assert not worker.is_cancelled()


def test_there_is_no_reservation_beside_work(running: Running, start: Any) -> None:
    worker = start(work())
    assert worker.begun.wait(PATIENCE)
    with running.reserved("s") as free:
        assert not free
    with running.reserved("other") as free:
        assert free
    assert running.busy("s")


def test_there_is_no_second_reservation(running: Running) -> None:
    with running.reserved("s"):
        with running.reserved("s") as free:
            assert not free
        with running.reserved("s") as free:
            assert not free, "the inner one must not have ended the outer"
    with running.reserved("s") as free:
        assert free
