"""Asking until there is an answer."""

from __future__ import annotations

import math
import threading
import time

import pytest

from kilonova.compute.insist import ConductorAway, insist
from kilonova.domain.clock import now
from kilonova.domain.errors import Conflict, StaleEpoch, Timeout, Unavailable


class Conductor:
    """Answers the ``heard``th time it is asked."""

    def __init__(self, heard: int, error: Exception | None = None) -> None:
        self.asked = 0
        self._heard = heard
        self._error = error or Unavailable("away")

    def ask(self) -> int:
        self.asked += 1
        if self.asked < self._heard:
            raise self._error
        return self.asked


@pytest.mark.parametrize("error", [Unavailable("away"), Timeout("no answer")])
def test_it_asks_until_there_is_an_answer(error: Exception) -> None:
    conductor = Conductor(3, error)
    assert insist(conductor.ask, now() + 300, threading.Event()) == 3


def test_a_refusal_is_an_answer() -> None:
    conductor = Conductor(9, Conflict("no"))
    with pytest.raises(Conflict):
        insist(conductor.ask, now() + 300, threading.Event())
    assert conductor.asked == 1


class Pauses(threading.Event):
    """A cancel that never comes, and a clock by which time passes only while it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 1000.0

    def wait(self, timeout: float | None = None) -> bool:
        self.time += timeout or 0.0
        return False


def test_after_the_deadline_it_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    conductor, pauses = Conductor(1000), Pauses()
    monkeypatch.setattr("kilonova.compute.insist.now", lambda: pauses.time)
    with pytest.raises(ConductorAway, match="away"):
        insist(conductor.ask, pauses.time + 0.5, pauses)
    assert 2 <= conductor.asked <= 6


def test_before_it_gives_up_it_has_asked_once() -> None:
    assert insist(Conductor(1).ask, now() - 10, threading.Event()) == 1


def test_who_is_cut_off_waits_no_longer() -> None:
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    began = time.monotonic()
    with pytest.raises(StaleEpoch):
        insist(Conductor(1000).ask, math.inf, cancel)
    assert time.monotonic() - began < 60


def test_who_was_cut_off_before_is_heard_once() -> None:
    """The end of the step that was cut off can still be told."""
    cancel = threading.Event()
    cancel.set()
    assert insist(Conductor(1).ask, math.inf, cancel) == 1
    with pytest.raises(StaleEpoch):
        insist(Conductor(2).ask, math.inf, cancel)
