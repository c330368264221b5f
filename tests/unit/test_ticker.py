"""One thread calls many functions at their intervals."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from kilonova.engine.ticker import Ticker

PATIENCE = 60.0


@pytest.fixture
def ticker() -> Iterator[Ticker]:
    made = Ticker("test")
    yield made
    made.close()


class Count:
    """A function that counts its calls."""

    def __init__(self, enough: int = 1, error: Exception | None = None) -> None:
        self.calls = 0
        self.enough = threading.Event()
        self._wanted, self._error = enough, error

    def __call__(self) -> None:
        self.calls += 1
        if self.calls >= self._wanted:
            self.enough.set()
        if self._error is not None:
            raise self._error


def test_it_calls_again_and_again(ticker: Ticker) -> None:
    count = Count(enough=3)
    started = time.monotonic()
    ticker.every(0.02, count)
    assert count.enough.wait(PATIENCE)
    assert time.monotonic() - started >= 0.06


def test_the_first_call_can_come_sooner(ticker: Ticker) -> None:
    count = Count()
    ticker.every(3600, count, first=0)
    assert count.enough.wait(PATIENCE)


def test_once_is_once_and_others_go_on(ticker: Ticker) -> None:
    once, often = Count(), Count(enough=5)
    ticker.every(0.01, often)
    ticker.after(0.001, once)
    assert once.enough.wait(PATIENCE)
    assert often.enough.wait(PATIENCE)
    assert once.calls == 1


def test_a_slow_one_added_first_does_not_hide_a_quick_one(ticker: Ticker) -> None:
    slow, quick = Count(), Count()
    ticker.every(3600, slow)
    ticker.every(0.01, quick)
    assert quick.enough.wait(PATIENCE)
    assert slow.calls == 0


def test_a_function_that_fails_is_called_again_and_stops_no_other(ticker: Ticker) -> None:
    bad, good = Count(enough=3, error=ZeroDivisionError()), Count(enough=3)
    ticker.every(0.01, bad)
    ticker.every(0.01, good)
    assert bad.enough.wait(PATIENCE)
    assert good.enough.wait(PATIENCE)


def test_what_was_missed_is_not_made_up_for(ticker: Ticker) -> None:
    """A function that took ten intervals is not called ten times in a row."""
    calls: list[float] = []
    enough = threading.Event()

    def slow_once() -> None:
        calls.append(time.monotonic())
        if len(calls) == 1:
            time.sleep(0.3)
        if len(calls) == 4:
            enough.set()

    ticker.every(0.05, slow_once, first=0)
    assert enough.wait(PATIENCE)
    assert calls[3] - calls[1] >= 0.04


def test_close_waits_for_the_call_under_way_and_calls_no_more() -> None:
    ticker = Ticker("test")
    begun, end, ended = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert end.wait(PATIENCE)
        ended.set()

    ticker.every(0.001, slow, first=0)
    assert begun.wait(PATIENCE)
    closer = threading.Thread(target=ticker.close)
    closer.start()
    assert not ended.is_set()
    end.set()
    closer.join(PATIENCE)
    assert not closer.is_alive()
    assert ended.is_set()
    ticker.close()  # twice does no harm


def test_closed_without_anything_to_do() -> None:
    Ticker("idle").close()
