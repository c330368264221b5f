"""What changed is looked at soon, once, and not again and again (compute/alarm.py)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import pytest

from kilonova.compute.alarm import Alarm
from kilonova.engine.ticker import Ticker


class Later:
    """A ticker that only the test turns: what was asked of it, with the seconds."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, Callable[[], object]]] = []

    def after(self, seconds: float, function: Callable[[], object]) -> None:
        self.asked.append((seconds, function))

    def turn(self) -> None:
        _, function = self.asked.pop()
        function()


def test_many_notices_are_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    ticker, looks = Later(), list[float]()
    alarm = Alarm(cast(Ticker, ticker), lambda: looks.append(clock[0]))
    for _ in range(3):
        alarm.ring()
    assert [seconds for seconds, _ in ticker.asked] == [1.0]
    clock[0] += 1
    ticker.turn()
    assert looks == [1001.0]
    alarm.ring()  # what the look mended, or the next damage
    alarm.ring()
    assert [seconds for seconds, _ in ticker.asked] == [5.0]
    clock[0] += 60
    ticker.turn()
    clock[0] += 60
    alarm.ring()
    assert [seconds for seconds, _ in ticker.asked] == [1.0]


def test_what_changes_during_a_look_is_looked_at_again() -> None:
    ticker = Later()

    def look() -> None:
        alarm.ring()

    alarm = Alarm(cast(Ticker, ticker), look)
    alarm.ring()
    ticker.turn()
    assert len(ticker.asked) == 1
