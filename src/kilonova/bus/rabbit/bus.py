"""RabbitBus: bus.base.Bus over a broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from kilonova import log
from kilonova.bus.base import Dispatcher, Handler, Reply, Timed, decode_answer, sealed
from kilonova.bus.rabbit.broker import Names, brokers
from kilonova.bus.rabbit.deliveries import Deliveries
from kilonova.bus.rabbit.jobs import Jobs
from kilonova.bus.rabbit.lanes import Pool
from kilonova.bus.rabbit.link import Link
from kilonova.bus.rabbit.requests import PATIENCE, Requests
from kilonova.bus.rabbit.served import Topic
from kilonova.bus.rabbit.several import MOST
from kilonova.bus.rabbit.told import Collector
from kilonova.config import Bus as Options
from kilonova.domain.errors import Unavailable

_SERVE_TIMEOUT = 10.0
_log = log.get("bus")


class RabbitBus:
    """See bus.base.Bus. ``pools`` names thread pools that several topics share (many hosts, few threads).

    It connects by itself, and again whenever it must; BadRequest if ``options.url`` is no broker's address.
    """

    def __init__(self, options: Options, pools: Mapping[str, int] | None = None) -> None:
        found = brokers(options.url)
        self._brokers, self._options = found, options
        self._names = names = Names(options.exchange)
        self._pools = {name: Pool(name, size) for name, size in (pools or {}).items()}
        self._topics: list[Topic] = []
        self._collectors: list[Collector] = []
        asking, serving = Jobs(), Jobs()
        self._requests = Requests(names, asking.submit)
        self._deliveries = Deliveries(names, serving.submit)
        self._asking = Link("requests", found, options, self._requests, asking)
        self._serving = Link("deliveries", found, options, self._deliveries, serving)

    def connected(self, timeout: float) -> bool:
        """Wait until the broker is there; ``problem`` says why it is not."""
        return self._asking.up.wait(timeout) and self._serving.up.wait(timeout)

    @property
    def problem(self) -> str:
        return self._asking.problem if not self._asking.up.is_set() else self._serving.problem

    @property
    def turned_away(self) -> bool:
        return self._asking.refused or self._serving.refused

    @property
    def up_since(self) -> float:
        return max(self._serving.up_since, *(collector.up_since for collector in self._collectors), 0.0)

    @property
    def unreadable(self) -> int:
        """Messages that this process could not read, and set aside."""
        return self._deliveries.unreadable

    @property
    def lost_casts(self) -> int:
        return self._requests.lost_casts

    def call(
        self, topic: str, method: str, request: msgspec.Struct, reply: type[Reply], timeout: float = 60.0
    ) -> Reply:
        if not self._asking.up.wait(min(PATIENCE, timeout)):
            raise Unavailable(f"the message broker is away ({self.problem})")
        with Timed(topic, method):
            return decode_answer(self._requests.call(topic, method, sealed(method, request), timeout), reply)

    def cast(self, topic: str, method: str, request: msgspec.Struct) -> None:
        self._requests.cast(topic, method, sealed(method, request))

    def tell(self, topic: str, method: str, request: msgspec.Struct) -> None:
        self._requests.tell(topic, method, sealed(method, request))

    def collect(self, topic: str, handlers: Mapping[str, Handler], then: Callable[[], object]) -> Collector:
        """By a connection of its own."""
        link = partial(Link, "told", self._brokers, self._options)
        collector = Collector(self._names, Dispatcher(topic, handlers), then, self._deliveries.note, link)
        self._collectors.append(collector)
        return collector

    def serve(
        self, topic: str, handlers: Mapping[str, Handler], workers: int | str = 1, *, calls: bool = True
    ) -> Topic:
        """Messages come when it returns; if the broker is away for long, as soon as it is there."""
        shared = isinstance(workers, str)
        dispatcher = Dispatcher(topic, handlers)
        ahead = MOST if dispatcher.together else 0
        pool = self._pools[workers] if isinstance(workers, str) else Pool(topic, workers, ahead)
        served = Topic(self._deliveries, dispatcher, pool, owns_pool=not shared, calls=calls)
        self._topics.append(served)
        self._deliveries.add(served)
        if not served.consuming.wait(_SERVE_TIMEOUT):
            _log.warning("not_served_yet", topic=topic, problem=self.problem)
        return served

    def close(self) -> None:
        for collector in self._collectors:
            collector.close()
        for topic in self._topics:
            topic.close()
        for pool in self._pools.values():
            pool.close()
        self._serving.close()
        self._asking.close()
        self._requests.abandon()
