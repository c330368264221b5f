"""The bus of one process, where it is more than the contract of tests/contract/test_bus.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from tests.running import until

from kilonova.bus.local import LocalBus
from kilonova.domain.errors import BadRequest, Unavailable

PATIENCE = 60.0


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    text: str = ""
    things: list[Any] = []


class Told(msgspec.Struct, frozen=True, kw_only=True):
    text: str


@pytest.fixture
def bus() -> Iterator[LocalBus]:
    made = LocalBus({"shared": 1})
    yield made
    made.close()


def echo(ask: Ask) -> Told:
    return Told(text=ask.text)


class Slow:
    """A handler that works until it is told to end; counts what it was given."""

    def __init__(self) -> None:
        self.begun, self.end = threading.Event(), threading.Event()
        self.came: list[str] = []

    def __call__(self, ask: Ask) -> None:
        self.came.append(ask.text)
        self.begun.set()
        assert self.end.wait(PATIENCE)


def slow_handler(slow: Slow) -> Any:
    def work(ask: Ask) -> None:
        slow(ask)

    return work


def test_nothing_is_passed_that_a_broker_could_not_pass(bus: LocalBus) -> None:
    """Both ways are encoded and decoded: no object of the caller reaches the handler."""
    got: list[Ask] = []

    def keep(ask: Ask) -> Ask:
        got.append(ask)
        return ask

    bus.serve("t", {"keep": keep})
    mine = Ask(text="x", things=[1, {"a": None}])
    answer = bus.call("t", "keep", mine, Ask)
    assert answer == mine
    assert got[0] is not mine
    assert got[0].things is not mine.things
    with pytest.raises(TypeError):
        bus.call("t", "keep", Ask(things=[object()]), Ask)


def test_an_unknown_method_is_a_clear_error_at_once(bus: LocalBus) -> None:
    bus.serve("t", {"echo": echo})
    with pytest.raises(BadRequest, match="t has no method 'shout'"):
        bus.call("t", "shout", Ask(), Told)
    bus.cast("t", "shout", Ask())  # a line in the log, and the worker lives on
    assert bus.call("t", "echo", Ask(text="still there"), Told).text == "still there"


def test_a_subscription_that_is_closed_late_does_not_close_the_next_ones_topic(bus: LocalBus) -> None:
    """An agent that was started again serves its topic while the one before it is still closing."""
    old = bus.serve("compute.h1", {"echo": echo})
    new = bus.serve("compute.h1", {"echo": new_echo})
    old.close()
    assert bus.call("compute.h1", "echo", Ask(), Told).text == "new"
    new.close()
    with pytest.raises(Unavailable, match=r"nobody serves compute\.h1"):
        bus.call("compute.h1", "echo", Ask(), Told)


def new_echo(_ask: Ask) -> Told:
    return Told(text="new")


@pytest.mark.parametrize("workers", [1, "shared"])
def test_what_still_queues_when_a_topic_closes_is_not_begun(bus: LocalBus, workers: Any) -> None:
    """It is in the database, and is taken up again: a stop must not wait for a long queue."""
    slow = Slow()
    subscription = bus.serve("t", {"work": slow_handler(slow)}, workers)
    for number in range(5):
        bus.cast("t", "work", Ask(text=str(number)))
    assert slow.begun.wait(PATIENCE)
    closing = threading.Thread(target=subscription.close)
    closing.start()
    until(lambda: "t" not in bus._topics, PATIENCE, "the topic to close")
    slow.end.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    bus.close()
    assert slow.came == ["0"]


def test_a_topic_in_a_shared_pool_closes_when_its_own_work_has_ended(bus: LocalBus) -> None:
    slow = Slow()
    subscription = bus.serve("t", {"work": slow_handler(slow)}, "shared")
    bus.cast("t", "work", Ask())
    assert slow.begun.wait(PATIENCE)
    closing = threading.Thread(target=subscription.close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    slow.end.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()


def test_a_topic_in_a_shared_pool_does_not_wait_for_the_others_work(bus: LocalBus) -> None:
    slow = Slow()
    bus.serve("busy", {"work": slow_handler(slow)}, "shared")
    idle = bus.serve("idle", {"echo": echo}, "shared")
    bus.cast("busy", "work", Ask())
    assert slow.begun.wait(PATIENCE)
    closing = threading.Thread(target=idle.close)
    closing.start()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    slow.end.set()


def test_a_handler_may_close_its_own_topic(bus: LocalBus) -> None:
    done = threading.Event()

    def leave(_ask: Ask) -> None:
        subscription.close()
        done.set()

    subscription = bus.serve("t", {"leave": leave})
    bus.cast("t", "leave", Ask())
    assert done.wait(PATIENCE)


def test_closing_twice_does_no_harm() -> None:
    bus = LocalBus({"shared": 2})
    bus.serve("t", {"echo": echo})
    bus.close()
    bus.close()
    with pytest.raises(Unavailable):
        bus.call("t", "echo", Ask(), Told)
    bus.cast("t", "echo", Ask())
