"""One topic that this process serves, and what becomes of each of its messages."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from kilonova import log
from kilonova.bus.base import (
    Dispatcher,
    NotYet,
    Request,
    Unreadable,
    encode_error,
    encode_outcome,
    refusal,
)
from kilonova.bus.rabbit import trust
from kilonova.bus.rabbit.lanes import Lane, Pool
from kilonova.bus.rabbit.requests import REPLY_TO
from kilonova.bus.rabbit.several import Crowd
from kilonova.domain.errors import Forbidden

_log = log.get("bus")
_DIRECT = re.compile(re.escape(REPLY_TO) + r"(\.[A-Za-z0-9+/=_-]+){2}")


class Courier(Protocol):
    """What the deliveries do for a topic, from any thread."""

    def done(self, message: Any, answer: bytes | None = None) -> None:
        """The broker may forget the message; its answer, if any, goes first."""

    def give_back(self, message: Any) -> None:
        """Somebody else shall have it."""

    def set_aside(self, message: Any, reason: str, answer: bytes | None) -> None:
        """Nobody can read it: keep it where people can look at it."""

    def stop(self, topic: Topic) -> None:
        """Take no more messages of the topic; returns when none comes any more."""


class Topic:
    """A Subscription. ``consuming`` is set while messages come."""

    def __init__(
        self, courier: Courier, dispatcher: Dispatcher, pool: Pool, owns_pool: bool, calls: bool
    ) -> None:
        self.name = dispatcher.topic
        self.pool = pool
        self.calls = calls
        self.consuming = threading.Event()
        self.closing = False
        self.tags: list[tuple[Lane, str]] = []
        """Of the consumers, each with the lane that it fills."""
        self._courier = courier
        self._dispatcher = dispatcher
        self._owns_pool = owns_pool
        self._here = 0
        self._changed = threading.Condition()
        self._casts = Crowd(pool.casts, partial(self._do_several, self._work, pool.casts))
        self._calls = Crowd(pool.calls, partial(self._do_several, self._answer, pool.calls))

    def cast_came(self, message: Any) -> None:
        self._took()
        method = message.properties.get("type")
        if method in self._dispatcher.quick:
            self._finally(self._work, message)
        elif method in self._dispatcher.together:
            self._casts.came(message)
        else:
            self.pool.casts.put(lambda: self._finally(self._work, message))

    def call_came(self, message: Any) -> None:
        self._took()
        if message.properties.get("type") in self._dispatcher.together:
            self._calls.came(message)
        else:
            self.pool.calls.put(lambda: self._finally(self._answer, message))

    def close(self) -> None:
        """Take no more; what came and has not begun goes back, but for calls: somebody waits for those."""
        if self.closing:
            return
        self.closing = True
        self._courier.stop(self)
        with self._changed:
            self._changed.wait_for(lambda: self._here == 0)
        if self._owns_pool:
            self.pool.close()

    def _do_several(self, alone: Callable[[Any], None], lane: Lane, messages: list[Any]) -> None:
        """Messages that wait together. What is not done with others is done ``alone``, by other threads."""
        if len(messages) == 1 or self.closing:
            for message in messages:
                self._finally(alone, message)
            return
        left = list(messages)
        try:
            self._do_together(messages, left)
        finally:
            for message in left:
                lane.put(partial(self._finally, alone, message))

    def _do_together(self, messages: list[Any], left: list[Any]) -> None:
        """What is done is removed from ``left``."""
        by_method: dict[str, list[tuple[Any, Request]]] = {}
        for message in messages:
            try:
                request = self._read(message)
            except Exception:  # noqa: BLE001, S112 - whatever is wrong with it: who does it alone says so
                continue
            if request.method in self._dispatcher.together:
                by_method.setdefault(request.method, []).append((message, request))
        for method, several in by_method.items():
            outcomes = self._dispatcher.outcomes(method, [request for _, request in several])
            for (message, _), outcome in zip(several, outcomes, strict=True):
                if not isinstance(outcome, NotYet):
                    self._courier.done(message, encode_outcome(outcome))
                    left.remove(message)
                    self._left()

    def _took(self) -> None:
        with self._changed:
            self._here += 1

    def _left(self) -> None:
        with self._changed:
            self._here -= 1
            if self._here == 0:
                self._changed.notify_all()

    def _finally(self, function: Callable[[Any], None], message: Any) -> None:
        try:
            function(message)
        except Exception as error:  # noqa: BLE001 - the edge of a thread
            _log.exception("message_failed", topic=self.name)
            self._courier.set_aside(message, f"{type(error).__name__}: {error}", None)
        finally:
            self._left()

    def _work(self, message: Any) -> None:
        if self.closing:
            self._courier.give_back(message)
            return
        try:
            request = self._read(message)
        except (Unreadable, Forbidden) as error:
            self._courier.set_aside(message, str(error), None)
            return
        self._dispatcher.work(request)
        self._courier.done(message)

    def _answer(self, message: Any) -> None:
        try:
            request = self._read(message)
        except Unreadable as error:
            self._courier.set_aside(message, str(error), refusal(error))
            return
        except Forbidden as error:
            self._courier.set_aside(message, error.message, encode_error(error))
            return
        with log.bound(request_id=request.request_id):
            answer = self._dispatcher.answer(request)
        self._courier.done(message, answer)

    def _read(self, message: Any) -> Request:
        return read(self._dispatcher, message)


def read(dispatcher: Dispatcher, message: Any) -> Request:
    """The request, from a sender who may make it. Unreadable, Forbidden."""
    if message.damage:
        raise Unreadable(message.damage)
    sender = message.properties.get("user_id")
    if not sender:
        raise Unreadable("the message does not say who sent it")
    request = dispatcher.read(message.body)
    trust.check(sender, dispatcher.topic, request.argument)
    return request


def reply_address(message: Any) -> str | None:
    """Where the answer goes; None unless it is a direct reply-to, which names nothing but its asker.

    RabbitMQ breaks the connection by which an answer goes to what only begins like one.
    """
    address = message.properties.get("reply_to")
    return address if isinstance(address, str) and _DIRECT.fullmatch(address) else None
