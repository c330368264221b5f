"""Hosts are not taken for dead before they had the time to be heard."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kilonova.bus.local import LocalBus
from kilonova.conductor import hearing
from kilonova.conductor.hearing import Hearing
from kilonova.config import Config


@dataclass
class Clock:
    """Time that a test sets; ``goes`` by rounds of the sweeper."""

    seconds: float = 1000.0

    def goes(self, ears: Hearing, seconds: float) -> None:
        for _ in range(round(seconds / 5)):
            self.seconds += 5
            ears.again()


class Broker(LocalBus):
    up_since = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(hearing, "now", lambda: made.seconds)
    return made


def test_after_the_start(clock: Clock) -> None:
    ears = Hearing(Config(), Broker())
    clock.goes(ears, 55)
    assert not ears.long_enough()
    clock.goes(ears, 5)
    assert ears.long_enough()


@pytest.mark.parametrize("away", [31.0, 300.0, -300.0])
def test_after_a_while_without_a_database_or_asleep(clock: Clock, away: float) -> None:
    ears = Hearing(Config(), Broker())
    clock.goes(ears, 100)
    clock.seconds += away
    ears.again()
    assert not ears.long_enough()
    clock.goes(ears, 60)
    assert ears.long_enough()


def test_a_round_that_takes_long_is_no_break(clock: Clock) -> None:
    ears = Hearing(Config(), Broker())
    clock.goes(ears, 100)
    clock.seconds += 29
    ears.again()
    assert ears.long_enough()


def test_after_a_while_without_a_broker(clock: Clock) -> None:
    broker = Broker()
    ears = Hearing(Config(), broker)
    clock.goes(ears, 100)
    broker.up_since = float("inf")
    assert not ears.long_enough()
    broker.up_since = clock.seconds
    clock.goes(ears, 55)
    assert not ears.long_enough()
    clock.goes(ears, 5)
    assert ears.long_enough()
