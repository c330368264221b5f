"""What comes to this process: consuming, answering, acknowledging, setting aside.

A message is acknowledged when its work is done, so that the death of a process gives it to another one. To
have the same message twice is harmless: operations are fenced by their epochs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import amqp

from kilonova import log
from kilonova.bus.base import message_set_aside
from kilonova.bus.rabbit.broker import Connection, Names, call_key, cast_key, topic_of
from kilonova.bus.rabbit.frames import acknowledge, publish
from kilonova.bus.rabbit.jobs import Job
from kilonova.bus.rabbit.lanes import Lane
from kilonova.bus.rabbit.requests import declare_exchange
from kilonova.bus.rabbit.served import Topic, reply_address

_log = log.get("bus")

_CASTS_EXPIRE_MS = 3_600_000
"""A queue of casts that nobody has consumed for so long (its host is gone) goes away."""
_CALLS_EXPIRE_MS = 10_000
"""A queue of calls outlives a restart of its server; later callers hear at once that nobody serves."""
_STOP_TIMEOUT = 10.0
_KEPT_UNREADABLE = 10_000
_KEPT_A_MINUTE = 100
"""Any host can send what nobody can read, to any queue: more of it is counted alone."""
_KEPT_BYTES = 16_384
"""Of each, its beginning."""
_KEPT_REASON = 1000
"""Letters of the reason: it may quote the message, and has to go into one frame."""
_KEPT_MS = 7 * 86_400_000


class Deliveries:
    """A link's User and a Courier. ``unreadable`` counts the messages set aside."""

    def __init__(self, names: Names, submit: Callable[[Job], None]) -> None:
        self._names = names
        self._submit = submit
        self._topics: list[Topic] = []
        self._connection: Connection | None = None
        self._channels: dict[Lane, Any] = {}
        self.unreadable = 0
        self._minute, self._kept = 0, 0

    # --- any thread

    def add(self, topic: Topic) -> None:
        self._submit(partial(self._add, topic))

    def done(self, message: Any, answer: bytes | None = None) -> None:
        self._submit(partial(self._done, message, answer))

    def give_back(self, message: Any) -> None:
        self._submit(partial(self._give_back, message))

    def set_aside(self, message: Any, reason: str, answer: bytes | None) -> None:
        self._submit(partial(self._set_aside, message, reason, answer))

    def note(self, message: Any, key: str, reason: str) -> None:
        """As set_aside(), of a message that needs no acknowledgement."""
        self._submit(partial(self._note, message, key, reason))

    def stop(self, topic: Topic) -> None:
        stopped = threading.Event()
        self._submit(partial(self._remove, topic, stopped))
        if topic.consuming.is_set():
            stopped.wait(_STOP_TIMEOUT)

    # --- the link's thread

    def connected(self, connection: Connection) -> None:
        self._connection = connection
        declare_exchange(connection, self._names)
        for topic in self._topics:
            if not topic.closing:
                self._consume(topic)

    def lost(self) -> None:
        self._connection = None
        self._channels.clear()
        for topic in self._topics:
            topic.consuming.clear()

    def waiting(self) -> None:
        pass

    def settled(self) -> bool:
        return True

    def _add(self, topic: Topic) -> None:
        self._topics.append(topic)
        self._consume(topic)

    def _remove(self, topic: Topic, stopped: threading.Event) -> None:
        self._topics.remove(topic)
        if topic.consuming.is_set():
            for lane, tag in topic.tags:
                self._channels[lane].basic_cancel(tag)
            topic.consuming.clear()
        stopped.set()

    def _consume(self, topic: Topic) -> None:
        """Its queues exist and are consumed; no more messages at once than the lane takes."""
        casts, calls = topic.pool.casts, topic.pool.calls
        key = cast_key(topic.name)
        topic.tags = [(casts, self._consume_queue(casts, key, topic.cast_came, _CASTS_EXPIRE_MS))]
        if topic.calls:
            key = call_key(topic.name)
            topic.tags.append((calls, self._consume_queue(calls, key, topic.call_came, _CALLS_EXPIRE_MS)))
        topic.consuming.set()

    def _consume_queue(self, lane: Lane, key: str, came: Callable[[Any], None], expires: int) -> str:
        channel = self._channels.get(lane)
        if channel is None:
            assert self._connection is not None
            channel = self._channels[lane] = self._connection.channel()
            channel.auto_decode = False
            channel.basic_qos(0, lane.taken, False)
        queue = self._names.queue(key)
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-expires": expires})
        channel.queue_bind(queue, self._names.exchange, key)
        return str(channel.basic_consume(queue, callback=came))

    def _done(self, message: Any, answer: bytes | None) -> None:
        if not _alive(message):
            return  # the broker gives it to somebody again
        if message.redelivered:  # perhaps because of where its answer goes: it must not come for ever
            acknowledge(message.channel, message.delivery_tag)
            self._answer(message, answer)
        else:
            self._answer(message, answer)
            acknowledge(message.channel, message.delivery_tag)

    def _answer(self, message: Any, answer: bytes | None) -> None:
        address = reply_address(message)
        if answer is not None and address is not None:
            number = message.properties.get("correlation_id", "")
            publish(message.channel, "", address, answer, correlation_id=number)

    def _give_back(self, message: Any) -> None:
        if _alive(message):
            message.channel.basic_reject(message.delivery_tag, requeue=True)

    def _set_aside(self, message: Any, reason: str, answer: bytes | None) -> None:
        if _alive(message):
            self._note(message, message.delivery_info["routing_key"], reason)
            self._done(message, answer)

    def _note(self, message: Any, key: str, reason: str) -> None:
        self.unreadable += 1
        message_set_aside(topic_of(key))
        if self._may_keep():
            key, sender, reason = (_plain(text) for text in (key, message.properties.get("user_id"), reason))
            _log.warning("message_unreadable", key=key, sender=sender, reason=reason, so_far=self.unreadable)
            try:
                self._keep(message, {"reason": reason, "key": key, "sender": sender})
            except amqp.exceptions.ChannelError as error:
                _log.warning("unreadable_message_dropped", reason=str(error))

    def _may_keep(self) -> bool:
        """Whether this minute has seen few of them so far."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._kept = minute, 0
        self._kept += 1
        return self._kept <= _KEPT_A_MINUTE

    def _keep(self, message: Any, headers: dict[str, str]) -> None:
        """In the queue of unreadable messages, confirmed. A channel of its own: it may be forbidden here."""
        assert self._connection is not None
        channel = self._connection.channel()
        channel.queue_declare(
            self._names.unreadable,
            durable=True,
            auto_delete=False,
            arguments={"x-max-length": _KEPT_UNREADABLE},
        )
        beginning = message.body[:_KEPT_BYTES]
        kept = amqp.Message(beginning, application_headers=headers, delivery_mode=2, expiration=str(_KEPT_MS))
        channel.basic_publish_confirm(kept, "", self._names.unreadable)
        channel.close()


def _plain(text: str | None) -> str:
    """As it can be written anywhere, and not without end."""
    return (text or "")[:_KEPT_REASON].encode(errors="backslashreplace").decode()


def _alive(message: Any) -> bool:
    """Whether the channel that it came by is still open: only there can it be acknowledged."""
    return message.channel.connection is not None
