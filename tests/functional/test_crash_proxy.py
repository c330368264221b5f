"""The proxy of `make crash`: what it does to messages breaks no connection; confirmations stay in step."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator

import msgspec
import pytest
from crash.fates import Fates, Rates
from crash.proxy import Proxy
from tests.rabbit import Rabbit
from tests.running import until

from kilonova.bus.rabbit import RabbitBus
from kilonova.config import Bus
from kilonova.domain.errors import Timeout

NONE = Rates(drop=0, duplicate=0, delay=0, reorder=0)
MANY = 80


class Ask(msgspec.Struct):
    number: int


class Ends:
    """One bus that asks and one that serves, each by a proxy of its own."""

    def __init__(self, rabbit: Rabbit, sends: Rates, serves: Rates, heartbeat: float) -> None:
        exchange = f"kilonova-{uuid.uuid4()}"
        self.fates = [Fates("seed", rates) for rates in (sends, serves)]
        self.proxies = [Proxy(name, rabbit.port, fate) for name, fate in zip("ab", self.fates, strict=True)]
        self.buses = [
            RabbitBus(
                Bus(
                    url=rabbit.url.replace(str(rabbit.port), str(proxy.port)),
                    exchange=exchange,
                    heartbeat=heartbeat,
                )
            )
            for proxy in self.proxies
        ]
        self.came: list[int] = []
        self._lock = threading.Lock()
        self.asking, serving = self.buses
        serving.serve("conductor", {"ask": self._answer}, 4)
        assert self.asking.connected(30)

    def _answer(self, message: Ask) -> Ask:
        with self._lock:
            self.came.append(message.number)
        return message

    def cast_many(self) -> None:
        for number in range(MANY):
            self.asking.cast("conductor", "ask", Ask(number))

    def close(self) -> None:
        for bus in self.buses:
            bus.close()
        for proxy in self.proxies:
            proxy.close()


Make = Callable[..., Ends]


@pytest.fixture
def make(rabbit: Rabbit) -> Iterator[Make]:
    made: list[Ends] = []

    def ends(sends: Rates = NONE, serves: Rates = NONE, heartbeat: float = 60.0) -> Ends:
        made.append(Ends(rabbit, sends, serves, heartbeat))
        return made[-1]

    yield ends
    for one in made:
        one.close()


def unbroken(ends: Ends) -> None:
    """No protocol error has broken a connection: each proxy has seen the two that a bus begins with."""
    assert [next(proxy._numbers) for proxy in ends.proxies] == [3, 3]


@pytest.mark.parametrize("where", ["sends", "serves"])
@pytest.mark.parametrize(
    ("rates", "least", "most"),
    [
        (Rates(drop=0.5, duplicate=0, delay=0, reorder=0), 0.3, 0.7),
        (Rates(drop=0, duplicate=0.5, delay=0, reorder=0), 1.3, 1.7),
        (Rates(drop=0.1, duplicate=0.2, delay=0.2, reorder=0.1, longest_delay=0.3), 0.8, 1.4),
    ],
    ids=["drop", "duplicate", "all"],
)
def test_casts_meet_their_fates(make: Make, where: str, rates: Rates, least: float, most: float) -> None:
    ends = make(**{where: rates})
    ends.cast_many()
    until(ends.asking._requests.settled, 60, "every cast to be confirmed")
    until(lambda: len(ends.came) >= least * MANY, 60, "the casts")
    for fates in ends.fates:
        fates.calm()
    assert ends.asking.call("conductor", "ask", Ask(-1), Ask) == Ask(-1)
    assert len(ends.came) - 1 <= most * MANY
    if rates.delay:
        assert ends.came[:-1] != sorted(ends.came[:-1])
    unbroken(ends)


def test_a_cable_that_is_cut_and_mended(make: Make) -> None:
    ends = make(heartbeat=1.0)
    assert ends.asking.call("conductor", "ask", Ask(1), Ask) == Ask(1)
    ends.proxies[1].cut()
    with pytest.raises(Timeout):
        ends.asking.call("conductor", "ask", Ask(2), Ask, timeout=0.5)
    ends.proxies[1].mend()
    assert ends.asking.call("conductor", "ask", Ask(3), Ask) == Ask(3)


def test_a_seed_draws_the_same() -> None:
    streams = [Fates("7", Rates()).of("api-1/1") for _ in range(2)]
    one, other = ([stream.next() for _ in range(200)] for stream in streams)
    assert one == other
