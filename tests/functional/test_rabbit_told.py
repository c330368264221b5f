"""What is told over RabbitMQ: fetched some at a time by who collects, and believed as a cast would be."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import amqp
import msgspec
import pytest
from tests.rabbit import PASSWORD, Rabbit
from tests.running import until

from kilonova.bus.rabbit import RabbitBus, told
from kilonova.config import Bus as Options

WAIT = 60.0


class Word(msgspec.Struct, frozen=True, kw_only=True):
    host: str = ""
    number: int = 0


class Ears:
    """What came, by number; ``rounds``: how many at a time."""

    def __init__(self) -> None:
        self.heard: Counter[int] = Counter()
        self.rounds: list[int] = []
        self._now = 0

    def word(self, word: Word) -> None:
        self.heard[word.number] += 1
        self._now += 1

    def then(self) -> None:
        self.rounds.append(self._now)
        self._now = 0

    def have(self, *numbers: int) -> None:
        until(lambda: self.heard.keys() >= set(numbers), WAIT, f"{len(numbers)} words; {self.heard}")


Up = Callable[..., RabbitBus]


@pytest.fixture
def up(rabbit: Rabbit) -> Iterator[Up]:
    """Makes buses; those of a host's user are on the exchange that it may use."""
    made: list[RabbitBus] = []
    own = f"kilonova-{uuid.uuid4()}"

    def make(user: str = "kilonova", exchange: str = own) -> RabbitBus:
        made.append(RabbitBus(Options(url=rabbit.url_of(user), exchange=exchange)))
        assert made[-1].connected(WAIT), made[-1].problem
        return made[-1]

    yield make
    for bus in made:
        bus.close()


def collect(bus: RabbitBus, ears: Ears) -> Any:
    """Who collects has declared the queue when this returns."""
    collecting = bus.collect("conductor", {"word": ears.word}, ears.then)
    until(lambda: bus.up_since < float("inf"), WAIT, "the connection")
    return collecting


def test_two_that_collect_share_all_that_is_told_once_each(up: Up) -> None:
    one, two = Ears(), Ears()
    for ears in (one, two):
        collect(up(), ears)
    sender, many = up(), range(1000)
    for number in many:
        sender.tell("conductor", "word", Word(number=number))
    until(lambda: len(one.heard + two.heard) == len(many), WAIT, "all of it")
    assert set((one.heard + two.heard).values()) == {1}
    assert len(one.rounds) + len(two.rounds) < 100, "some at a time"
    assert sender.lost_casts == 0


def test_whoever_is_slow_to_store_loses_one_round_at_most(up: Up) -> None:
    """And what comes meanwhile waits, or is the other's."""
    stuck, let_go = threading.Event(), threading.Event()

    class Dying(Ears):
        def then(self) -> None:
            super().then()
            stuck.set()
            let_go.wait(WAIT)
            raise RuntimeError("the database is away")

    dying, other, sender = Dying(), Ears(), up()
    collect(up(), dying)
    sender.tell("conductor", "word", Word(number=1))
    assert stuck.wait(WAIT)
    collect(up(), other)
    sender.tell("conductor", "word", Word(number=2))
    other.have(2)
    assert set(dying.heard) == {1}
    let_go.set()
    for number in range(3, 2000):  # it goes on after all
        sender.tell("conductor", "word", Word(number=number))
        if len(dying.heard) > 1:
            break
        time.sleep(0.02)
    assert len(dying.heard) > 1


def test_without_a_collector_it_comes_as_a_cast(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as one fetches its queue stays, however short its life without."""
    monkeypatch.setattr(told, "_EXPIRES_MS", 1500)
    collected, served, sender, server = Ears(), Ears(), up(), up()
    server.serve("conductor", {"word": served.word})
    sender.tell("conductor", "word", Word(number=1))
    served.have(1)
    collecting = collect(server, collected)
    for number in range(10, 16):
        sender.tell("conductor", "word", Word(number=number))
        collected.have(number)
    assert set(served.heard) == {1}
    collecting.close()
    for number in range(20, 2000):
        sender.tell("conductor", "word", Word(number=number))
        if len(served.heard) > 1:
            break
        time.sleep(0.1)
    assert len(served.heard) > 1
    assert sender.lost_casts == 0


def test_a_queue_that_somebody_deletes_is_made_anew(up: Up, rabbit: Rabbit) -> None:
    ears, sender = Ears(), up(exchange="made-anew")
    collect(up(exchange="made-anew"), ears)
    connection = amqp.Connection(f"127.0.0.1:{rabbit.port}", "kilonova", PASSWORD)
    connection.connect()
    channel = connection.channel()
    channel.queue_delete("made-anew.told.conductor")
    for number in range(2000):  # what comes meanwhile is a cast that nobody serves
        sender.tell("conductor", "word", Word(number=number))
        if ears.heard:
            break
        time.sleep(0.05)
    assert ears.heard
    channel.exchange_delete("made-anew")
    connection.close()


def test_the_user_of_a_host_tells_of_that_host_alone(up: Up) -> None:
    """With no other rights than before; what it says of others is set aside, where people can look at it."""
    control, ears = up(exchange="kilonova"), Ears()
    collect(control, ears)
    host = up("compute.h1", exchange="kilonova")
    host.tell("conductor", "word", Word(host="h2", number=2))
    host.tell("conductor", "nonsense", Word(host="h1", number=3))
    host.tell("conductor", "word", Word(host="h1", number=1))
    ears.have(1)
    assert set(ears.heard) == {1}
    until(lambda: control.unreadable == 2, WAIT, "the others to be set aside")
