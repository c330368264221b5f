"""The bus: three verbs over topics, the same in one process and over a broker.

``call`` waits for an answer, ``cast`` does not, ``serve`` answers. A topic is a name: ``conductor``,
``scheduler``, ``compute.<host>``. Requests and answers are msgspec structs, encoded and decoded on every
hop, so that what works in one process works over a broker. The bus is speed, not truth: a cast may be
lost or doubled, and the operations table recovers it (invariant 2).
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec

from kilonova.domain.errors import KilonovaError, by_name

Reply = TypeVar("Reply")

Handler = Callable[[Any], Any]
"""One argument, annotated with its struct; returns a struct, or None."""


class Envelope(msgspec.Struct, array_like=True):
    """What travels: the method, the encoded request, and the request id for the logs of every hop."""

    method: str
    body: msgspec.Raw
    request_id: str = ""


class ErrorReply(msgspec.Struct):
    kind: str
    message: str
    details: Any = None


class Answer(msgspec.Struct, array_like=True):
    ok: bool
    body: msgspec.Raw


class Subscription(Protocol):
    def close(self) -> None:
        """Stop taking messages; returns when the ones being worked on are done."""


class Bus(Protocol):
    def call(
        self, topic: str, method: str, request: msgspec.Struct, reply: type[Reply], timeout: float = 60.0
    ) -> Reply:
        """The answer of whoever serves ``topic``.

        Raises the KilonovaError that the handler raised; Unavailable if nobody serves the topic;
        Timeout after ``timeout`` seconds.
        """

    def cast(self, topic: str, method: str, request: msgspec.Struct) -> None:
        """Send and forget. A topic that nobody serves loses the message: the sweeper finds the operation."""

    def serve(self, topic: str, handlers: Mapping[str, Handler], workers: int | str = 1) -> Subscription:
        """Answer messages on ``topic`` with ``workers`` threads, or with the shared pool of that name."""


class Dispatcher:
    """Method name → handler, with the request's type read from the handler's annotation."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = {name: (handler, _decoder(handler)) for name, handler in handlers.items()}

    def dispatch(self, envelope: Envelope) -> bytes:
        """Run the handler; its answer or its error, encoded. Unknown errors pass to the caller's log."""
        handler, decoder = self._handlers[envelope.method]
        result = handler(decoder.decode(envelope.body))
        return encode(Answer(True, msgspec.Raw(encode(result))))


def _decoder(handler: Handler) -> msgspec.msgpack.Decoder[Any]:
    """A decoder of the handler's last argument; those before it are bound already."""
    function = handler.func if isinstance(handler, partial) else handler
    hints = {name: kind for name, kind in typing.get_type_hints(function).items() if name != "return"}
    return msgspec.msgpack.Decoder(list(hints.values())[-1])


_encoder = msgspec.msgpack.Encoder()


def encode(value: Any) -> bytes:
    return _encoder.encode(value)


def encode_error(error: KilonovaError) -> bytes:
    body = encode(ErrorReply(type(error).__name__, error.message, error.details))
    return encode(Answer(False, msgspec.Raw(body)))


_answer = msgspec.msgpack.Decoder(Answer)
_error = msgspec.msgpack.Decoder(ErrorReply)


def decode_answer(data: bytes, reply: type[Reply]) -> Reply:
    """The answer as ``reply``, or raise the error that it carries."""
    answer = _answer.decode(data)
    if answer.ok:
        return msgspec.msgpack.decode(answer.body, type=reply)
    error = _error.decode(answer.body)
    raise by_name(error.kind)(error.message, error.details)
