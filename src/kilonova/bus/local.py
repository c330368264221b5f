"""The in-process bus of ``kilonova up``: the same verbs, threads instead of a broker.

A cast goes through a queue to a pool of threads. A call runs in a thread that is kept for such, because who
calls may wait no longer than its timeout, whatever the handler is stuck in. Both encode and decode, like a
broker would.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from queue import SimpleQueue

import msgspec

from kilonova import log
from kilonova.bus.base import (
    Dispatcher,
    Handler,
    Reply,
    Timed,
    Unreadable,
    cast_lost,
    decode_answer,
    message_set_aside,
    refusal,
    sealed,
)
from kilonova.domain.errors import Timeout, Unavailable

_log = log.get("bus")


class LocalBus:
    """See bus.base.Bus. ``pools`` names thread pools that several topics share (many hosts, few threads)."""

    up_since = 0.0

    def __init__(self, pools: Mapping[str, int] | None = None) -> None:
        self._pools = {name: _Pool(name, size) for name, size in (pools or {}).items()}
        self._topics: dict[str, _Topic] = {}
        self._calls = _Calls()

    problem = ""
    turned_away = False

    def connected(self, timeout: float) -> bool:
        return True

    def call(
        self, topic: str, method: str, request: msgspec.Struct, reply: type[Reply], timeout: float = 60.0
    ) -> Reply:
        served = self._topics.get(topic)
        if served is None or not served.calls:
            raise Unavailable(f"nobody serves {topic}")
        with Timed(topic, method):
            message = sealed(method, request)
            answer = self._calls.answer(lambda: served.answer(message), timeout)
            if answer is None:
                raise Timeout(f"{topic} did not answer within {timeout:g} seconds")
            return decode_answer(answer, reply)

    def cast(self, topic: str, method: str, request: msgspec.Struct) -> None:
        served = self._topics.get(topic)
        if served is None:
            _log.warning("cast_lost", topic=topic, method=method)
            cast_lost(topic)
            return
        served.pool.submit(served, sealed(method, request))

    def tell(self, topic: str, method: str, request: msgspec.Struct) -> None:
        self.cast(topic, method, request)

    def collect(self, topic: str, handlers: Mapping[str, Handler], then: Callable[[], object]) -> None:
        """What is told comes as casts."""

    def serve(
        self, topic: str, handlers: Mapping[str, Handler], workers: int | str = 1, *, calls: bool = True
    ) -> _Topic:
        shared = isinstance(workers, str)
        pool = self._pools[workers] if isinstance(workers, str) else _Pool(topic, workers)
        served = _Topic(self, topic, Dispatcher(topic, handlers), pool, owns_pool=not shared, calls=calls)
        self._topics[topic] = served
        return served

    def forget(self, served: _Topic) -> None:
        """Unless another serves the topic by now."""
        if self._topics.get(served.name) is served:
            del self._topics[served.name]

    def close(self) -> None:
        for topic in list(self._topics.values()):
            topic.close()
        for pool in self._pools.values():
            pool.close()
        self._calls.close()


class _Topic:
    """One served topic: a dispatcher and the pool that works on its casts.

    Closed, it drops what still queues (the sweeper finds those operations) and waits for what is under way.
    """

    def __init__(
        self, bus: LocalBus, name: str, dispatcher: Dispatcher, pool: _Pool, owns_pool: bool, calls: bool
    ) -> None:
        self.name = name
        self.calls = calls
        self.pool = pool
        self._bus = bus
        self._dispatcher = dispatcher
        self._owns_pool = owns_pool
        self._changed = threading.Condition()
        self._closed = False
        self._under_way: Counter[int] = Counter()
        """By thread: a handler may call its own topic, or close it."""

    def answer(self, message: bytes) -> bytes:
        if not self._enter():
            raise Unavailable(f"nobody serves {self.name}")
        try:
            request = self._dispatcher.read(message)
            with log.bound(request_id=request.request_id):
                return self._dispatcher.answer(request)
        except Unreadable as error:
            return refusal(error)
        finally:
            self._leave()

    def work(self, message: bytes) -> None:
        if not self._enter():
            return
        try:
            self._dispatcher.work(self._dispatcher.read(message))
        except Unreadable as error:
            _log.warning("message_unreadable", topic=self.name, reason=str(error))
            message_set_aside(self.name)
        finally:
            self._leave()

    def close(self) -> None:
        self._bus.forget(self)
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._under_way.keys() - {threading.get_ident()})
        if self._owns_pool:
            self.pool.close()

    def _enter(self) -> bool:
        with self._changed:
            if not self._closed:
                self._under_way[threading.get_ident()] += 1
            return not self._closed

    def _leave(self) -> None:
        with self._changed:
            self._under_way[threading.get_ident()] -= 1
            self._under_way += Counter()  # without those that are at nothing
            self._changed.notify_all()


class _Pool:
    """Threads that take (topic, message) from one queue, in order of arrival."""

    def __init__(self, name: str, size: int) -> None:
        self._queue: SimpleQueue[tuple[_Topic, bytes] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True) for i in range(size)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, topic: _Topic, message: bytes) -> None:
        self._queue.put((topic, message))

    def close(self) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            topic, message = job
            topic.work(message)


class _Calls:
    """Threads for calls: as many as there were calls at once, for a handler may call on. The last that became
    idle is taken first."""

    def __init__(self) -> None:
        self._idle: deque[SimpleQueue[_Call | None]] = deque()
        self._closed = False

    def answer(self, ask: Callable[[], bytes], timeout: float) -> bytes | None:
        """What ``ask`` returns or raises; None if it does neither in time."""
        call = _Call(ask)
        try:
            self._idle.pop().put(call)
        except IndexError:
            threading.Thread(target=self._run, args=(call,), name="bus-call", daemon=True).start()
        if not call.ended.acquire(timeout=timeout):
            return None
        if call.error is not None:
            raise call.error
        return call.answer

    def close(self) -> None:
        """The idle threads end, and the others when they have answered."""
        self._closed = True
        while self._idle:
            self._idle.pop().put(None)

    def _run(self, call: _Call | None) -> None:
        waiting: SimpleQueue[_Call | None] = SimpleQueue()
        while call is not None:
            call.run()
            self._idle.append(waiting)  # before the caller goes on, and perhaps calls again
            call.ended.release()
            if self._closed:
                return
            call = waiting.get()


class _Call:
    __slots__ = ("answer", "ask", "ended", "error")

    def __init__(self, ask: Callable[[], bytes]) -> None:
        self.ask = ask
        self.answer: bytes | None = None
        self.error: BaseException | None = None
        self.ended = threading.Lock()
        self.ended.acquire()

    def run(self) -> None:
        try:
            self.answer = self.ask()
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            self.error = error
