"""What is told again and again, fetched twice a second: all that has come, for the price of a message or two.

RabbitMQ needs half a millisecond for a message that comes alone to a consumer: several of its processes and
of our threads wake up for it, and for its acknowledgement. Where nobody consumes it lays the message by; who
consumes for a moment gets all of them in one piece.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import amqp

from kilonova import log
from kilonova.bus.base import Dispatcher, Unreadable
from kilonova.bus.rabbit.broker import Connection, Names, cast_key
from kilonova.bus.rabbit.jobs import Jobs
from kilonova.bus.rabbit.link import Link
from kilonova.bus.rabbit.served import read
from kilonova.domain.errors import Forbidden

_log = log.get("bus")

_SECONDS = 0.5
"""Between two fetches."""
_EXPIRES_MS = 10_000
"""The queue outlives a restart of who fetches. Where there is none, what is told comes as casts: who does not
know of collecting hears it so."""
_LIFE_MS = 30_000
"""A sign of life that is older is none."""
_MANY = 100
"""The broker gives some 200 at once: after so many there may be more."""
_TAG = "told"

Note = Callable[[Any, str, str], None]
"""Sets a message aside that nobody can read; its key, and the reason."""
MakeLink = Callable[["Collector", Jobs], Link]


class Collector:
    """A link's User, and a Subscription. Who dies after a fetch has lost what it got: it is said again."""

    def __init__(
        self,
        names: Names,
        dispatcher: Dispatcher,
        then: Callable[[], object],
        note: Note,
        make_link: MakeLink,
    ) -> None:
        self._queue = names.told(dispatcher.topic)
        self._dispatcher = dispatcher
        self._then = then
        self._note = note
        self._connection: Connection | None = None
        self._channel: Any = None
        self._fetching = False
        self._came: SimpleQueue[list[Any]] = SimpleQueue()
        self._closing = threading.Event()
        self._jobs = Jobs()
        self._link = make_link(self, self._jobs)
        self._thread = threading.Thread(target=self._run, name="bus-collector", daemon=True)
        self._thread.start()

    @property
    def up_since(self) -> float:
        """As of a link."""
        return self._link.up_since

    def close(self) -> None:
        """Returns when what was fetched is worked on."""
        self._closing.set()
        self._thread.join()
        self._link.close()

    # --- its own thread

    def _run(self) -> None:
        many = False
        while not self._closing.wait(0 if many else _SECONDS):
            if not self._fetching:
                self._fetching = True
                self._jobs.submit(self._fetch)
            try:
                came = self._came.get(timeout=_SECONDS)
            except Empty:
                continue  # the broker is away, or slow
            many = len(came) >= _MANY
            if came:
                self._work(came)

    def _work(self, came: list[Any]) -> None:
        for message in came:
            try:
                request = read(self._dispatcher, message)
            except (Unreadable, Forbidden) as error:
                self._note(message, cast_key(self._dispatcher.topic), str(error))
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the others are heard
                _log.exception("message_failed", topic=self._dispatcher.topic)
                self._note(message, cast_key(self._dispatcher.topic), f"{type(error).__name__}: {error}")
            else:
                self._dispatcher.work(request)
        try:
            self._then()
        except Exception:  # noqa: BLE001 - the edge of a thread: nobody above to tell
            _log.exception("collected_in_vain", topic=self._dispatcher.topic, messages=len(came))

    # --- the link's thread

    def connected(self, connection: Connection) -> None:
        self._connection = connection
        self._declare()

    def lost(self) -> None:
        self._connection = self._channel = None

    def waiting(self) -> None:
        pass

    def settled(self) -> bool:
        return True

    def _declare(self) -> None:
        assert self._connection is not None
        self._channel = self._connection.channel()
        self._channel.auto_decode = False
        arguments = {"x-expires": _EXPIRES_MS, "x-message-ttl": _LIFE_MS}
        self._channel.queue_declare(self._queue, durable=True, auto_delete=False, arguments=arguments)

    def _fetch(self) -> None:
        came: list[Any] = []
        try:
            self._channel.basic_consume(self._queue, _TAG, no_ack=True, nowait=True, callback=came.append)
            self._channel.basic_cancel(_TAG)  # its answer comes after all messages
        except amqp.exceptions.NotFound:  # nobody fetched for long, or somebody has deleted it
            self._declare()
        finally:
            self._fetching = False
            self._came.put(came)
