"""Threads that work on messages live on, whatever a job does."""

from __future__ import annotations

import threading
from typing import Any

from kilonova.bus.rabbit.lanes import Lane
from kilonova.bus.rabbit.several import Crowd

WAIT = 60.0


def _fail() -> None:
    raise RuntimeError("a job that raises")


def test_a_job_that_raises_costs_no_thread() -> None:
    lane, done = Lane("test", 1), threading.Event()
    lane.put(_fail)
    lane.put(done.set)
    assert done.wait(WAIT)
    lane.close()


def test_work_that_raises_does_not_end_a_crowd() -> None:
    lane = Lane("test", 1)
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def work(messages: list[Any]) -> None:
        if "bad" in messages:
            begun.set()
            assert go_on.wait(WAIT)
            _fail()
        done.set()

    crowd = Crowd(lane, work)
    crowd.came("bad")
    assert begun.wait(WAIT)
    crowd.came("good")
    go_on.set()
    assert done.wait(WAIT)
    lane.close()
