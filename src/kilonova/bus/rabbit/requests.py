"""What this process asks of others: calls with their replies, casts with their confirmations.

A call waits for its reply by direct reply-to. A cast returns at once; it is kept until the broker has
confirmed it, sent again if the connection breaks before that, and given up when it is too old.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import amqp

from kilonova import log
from kilonova.bus.base import cast_lost
from kilonova.bus.rabbit.broker import Connection, Names, call_key, cast_key
from kilonova.bus.rabbit.frames import publish
from kilonova.bus.rabbit.jobs import Job
from kilonova.domain.errors import Timeout, Unavailable

_log = log.get("bus")

REPLY_TO = "amq.rabbitmq.reply-to"
PATIENCE = 1.0
"""Seconds that a call or a cast waits for a connection. What is lost after that the sweeper finds."""
CAST_LIFE = 60.0
"""Seconds after which nobody needs to take a cast any more: its operation has changed hands."""
_TRANSIENT = 1


@dataclass(slots=True)
class _Cast:
    topic: str
    method: str
    message: bytes
    until: float
    told: bool = False
    """Sent past the exchange, to who collects; nobody confirms it."""


class Requests:
    """A link's User. ``lost_casts`` counts, for whoever measures."""

    def __init__(self, names: Names, submit: Callable[[Job], None]) -> None:
        self._names = names
        self._user_id = ""
        self._submit = submit
        self._ids = itertools.count(1)
        self._waiters: dict[str, SimpleQueue[bytes | Unavailable]] = {}
        self._calls: Any = None
        self._casts: Any = None
        self._outbox: deque[_Cast] = deque()
        self._unconfirmed: dict[int, _Cast] = {}
        self._sent = 0
        self.lost_casts = 0

    # --- any thread

    def call(self, topic: str, method: str, message: bytes, timeout: float) -> bytes:
        """The encoded answer. Unavailable, Timeout."""
        number = str(next(self._ids))
        waiter: SimpleQueue[bytes | Unavailable] = SimpleQueue()
        self._waiters[number] = waiter
        try:
            self._submit(partial(self._send_call, number, topic, method, message, timeout))
            answer = waiter.get(timeout=timeout)
        except Empty:
            raise Timeout(f"{topic} did not answer within {timeout:g} seconds") from None
        finally:
            self._waiters.pop(number, None)
        if isinstance(answer, Unavailable):
            raise answer
        return answer

    def cast(self, topic: str, method: str, message: bytes) -> None:
        self._send(_Cast(topic, method, message, time.monotonic() + PATIENCE))

    def tell(self, topic: str, method: str, message: bytes) -> None:
        self._send(_Cast(topic, method, message, time.monotonic() + PATIENCE, told=True))

    def _send(self, cast: _Cast) -> None:
        self._outbox.append(cast)
        self._submit(self._flush)

    # --- the link's thread

    def connected(self, connection: Connection) -> None:
        declare_exchange(connection, self._names)
        self._user_id = connection.user
        self._calls = connection.channel()
        self._calls.events["basic_return"].add(self._returned)
        self._calls.basic_consume(REPLY_TO, no_ack=True, callback=self._replied)
        self._casts = connection.channel()
        self._casts.events["basic_return"].add(self._cast_returned)
        self._casts.events["basic_ack"].add(partial(self._confirmed, True))
        self._casts.events["basic_nack"].add(partial(self._confirmed, False))
        self._casts.confirm_select()
        self._sent = 0
        self._flush()

    def lost(self) -> None:
        self._calls = self._casts = None
        self._outbox.extendleft(reversed(self._unconfirmed.values()))
        self._unconfirmed.clear()
        for waiter in list(self._waiters.values()):
            waiter.put(Unavailable("the connection to the message broker broke"))
        self.waiting()

    def waiting(self) -> None:
        """Casts that have waited too long are given up."""
        while self._outbox and self._outbox[0].until <= time.monotonic():
            self._give_up(self._outbox.popleft(), "the message broker is away")

    def settled(self) -> bool:
        return not self._outbox and not self._unconfirmed

    def abandon(self) -> None:
        """After the link was closed: whatever was not sent by then never will be."""
        while self._outbox:
            self._give_up(self._outbox.popleft(), "this process stops")

    def _send_call(self, number: str, topic: str, method: str, message: bytes, timeout: float) -> None:
        if self._calls is None or number not in self._waiters:
            return  # who called has been told so, or has left
        properties = {
            "correlation_id": number,
            "reply_to": REPLY_TO,
            "expiration": _ms(timeout),
            "type": method,
        }
        self._publish(self._calls, call_key(topic), message, **properties)

    def _replied(self, reply: Any) -> None:
        waiter = self._waiters.get(reply.properties.get("correlation_id"))
        if waiter is not None:
            waiter.put(reply.body)

    def _returned(self, _error: Exception, exchange: str, key: str, message: Any) -> None:
        if not exchange:  # nobody collects what is told there
            topic = key.removeprefix(self._names.told(""))
            self.cast(topic, message.properties["type"], message.body)
            return
        waiter = self._waiters.get(message.properties.get("correlation_id"))
        if waiter is not None:
            waiter.put(Unavailable(f"nobody serves {key.removeprefix('call.')}"))

    def _flush(self) -> None:
        while self._outbox and self._casts is not None:
            cast = self._outbox.popleft()
            if cast.told:
                self._tell(cast)
                continue
            self._sent += 1
            self._unconfirmed[self._sent] = cast
            properties = {
                "correlation_id": str(self._sent),
                "expiration": _ms(CAST_LIFE),
                "type": cast.method,
            }
            self._publish(self._casts, cast_key(cast.topic), cast.message, **properties)

    def _tell(self, cast: _Cast) -> None:
        publish(
            self._calls,
            "",
            self._names.told(cast.topic),
            cast.message,
            mandatory=True,
            delivery_mode=_TRANSIENT,
            type=cast.method,
            user_id=self._user_id,
        )

    def _confirmed(self, taken: bool, number: int, multiple: bool) -> None:
        numbers = [sent for sent in self._unconfirmed if sent <= number] if multiple else [number]
        for sent in numbers:
            cast = self._unconfirmed.pop(sent, None)
            if cast is not None and not taken:
                self._give_up(cast, "the message broker refused it")

    def _cast_returned(self, _error: Exception, _exchange: str, _key: str, message: Any) -> None:
        """It is confirmed all the same, right after."""
        cast = self._unconfirmed.get(int(message.properties["correlation_id"]))
        if cast is not None:
            self._give_up(cast, "nobody serves the topic")

    def _give_up(self, cast: _Cast, reason: str) -> None:
        self.lost_casts += 1
        cast_lost(cast.topic)
        _log.warning("cast_lost", topic=cast.topic, method=cast.method, reason=reason)

    def _publish(self, channel: Any, key: str, body: bytes, **properties: str) -> None:
        publish(
            channel,
            self._names.exchange,
            key,
            body,
            mandatory=True,
            content_type="application/msgpack",
            delivery_mode=_TRANSIENT,
            user_id=self._user_id,
            **properties,
        )


def declare_exchange(connection: Connection, names: Names) -> None:
    """The exchange exists. Asking for it needs no permission; making it does."""
    channel = connection.channel()
    try:
        channel.exchange_declare(names.exchange, "topic", passive=True)
    except amqp.exceptions.NotFound:
        channel = connection.channel()
        channel.exchange_declare(names.exchange, "topic", durable=True, auto_delete=False)
    channel.close()


def _ms(seconds: float) -> str:
    return str(max(1, int(seconds * 1000)))
