"""The bus: a few verbs over topics, the same in one process and over a broker.

``call`` waits for an answer, ``cast`` does not, ``serve`` answers; beside them ``tell`` and ``collect`` are
for what is said again and again. A topic is a name: ``conductor``, ``scheduler``, ``compute.<host>``.
Requests and answers are msgspec structs, encoded and decoded on every hop, so that what works in one process
works over a broker. The bus is speed, not truth: a cast may be lost or doubled, and the operations table
recovers it (invariant 2).
"""

from __future__ import annotations

import time
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from kilonova import log, metrics
from kilonova.domain import codec
from kilonova.domain.errors import BadRequest, KilonovaError, by_name

_log = log.get("bus")

_calls = metrics.Histogram("bus_call_seconds", "Calls, until answered.", ("topic", "method", "outcome"))
_lost = metrics.Counter("bus_casts_lost", "Casts that never left, or that nobody serves.", ("topic",))
_set_aside = metrics.Counter("bus_messages_set_aside", "Messages that could not be read.", ("topic",))

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
    @property
    def up_since(self) -> float:
        """Since when messages come without a break, in epoch seconds; infinite while none can."""

    @property
    def problem(self) -> str:
        """Why it is not connected."""

    @property
    def turned_away(self) -> bool:
        """Whether that will not pass by waiting: a wrong password, a virtual host that is not there."""

    def connected(self, timeout: float) -> bool:
        """Whether messages can travel, at the latest in so many seconds."""

    def call(
        self, topic: str, method: str, request: msgspec.Struct, reply: type[Reply], timeout: float = 60.0
    ) -> Reply:
        """The answer of whoever serves ``topic``.

        Raises the KilonovaError that the handler raised; Unavailable if nobody serves the topic or the
        bus is away; Timeout after ``timeout`` seconds. After the last two the handler may yet have run.
        """

    def cast(self, topic: str, method: str, request: msgspec.Struct) -> None:
        """Send and forget, without waiting. A topic that nobody serves, or a bus that is away for more than
        about a second, loses the message, with a line in the log: the sweeper finds the operation."""

    def tell(self, topic: str, method: str, request: msgspec.Struct) -> None:
        """Cast what is said again and again: cheaper, but nobody confirms it, and it may wait half a second
        for others. Where nobody collects, it comes as a cast."""

    def collect(
        self, topic: str, handlers: Mapping[str, Handler], then: Callable[[], object]
    ) -> Subscription | None:
        """Take what is told on ``topic``, all that came within half a second together: each by its handler,
        then ``then()``, in a thread of the bus's own.

        These methods are served as well: what was told may come as a cast. In one process all of it does
        (None), as a message costs little there.
        """

    def serve(
        self, topic: str, handlers: Mapping[str, Handler], workers: int | str = 1, *, calls: bool = True
    ) -> Subscription:
        """Answer messages on ``topic`` with ``workers`` threads, or with the shared pool of that name.

        ``calls=False``: casts alone are taken; nobody answers calls there.
        """


class Timed:
    """``with Timed(topic, method):`` around a call; its outcome is ``ok`` or the name of what it raised."""

    __slots__ = ("_began", "_labels")

    def __init__(self, topic: str, method: str) -> None:
        self._labels = kind_of(topic), method

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _calls.observe(time.perf_counter() - self._began, *self._labels, kind.__name__ if kind else "ok")


def kind_of(topic: str) -> str:
    """For a metric's label: ``compute`` for every ``compute.<host>``."""
    return topic.partition(".")[0]


def cast_lost(topic: str) -> None:
    _lost.add(kind_of(topic))


def message_set_aside(topic: str) -> None:
    _set_aside.add(kind_of(topic))


Marked = TypeVar("Marked", bound=Callable[..., Any])


def quick(handler: Marked) -> Marked:
    """Mark a handler that waits for nothing: its casts may be run where they come in, without a thread's
    waking for each."""
    handler.quick = True  # type: ignore[attr-defined]
    return handler


Outcomes = Sequence[Any]
"""Of several requests, in their order: the answer, the KilonovaError that refuses it, or NotYet."""


class NotYet:
    """The outcome of a request that was left as it was: it is to be handled by itself."""


NOT_YET = NotYet()


def together(handler: Marked, several: Callable[[list[Any]], Outcomes]) -> Marked:
    """Let ``several`` handle the requests for ``handler`` that wait together, two or more.

    If it raises, it has done nothing, and each of them goes to ``handler``.
    """
    handler.several = several  # type: ignore[attr-defined]
    return handler


class Unreadable(Exception):
    """A message that cannot be given to a handler here: damaged, or of a newer or foreign sender."""


class Request(NamedTuple):
    """A message that was read: what will run, and with what."""

    method: str
    request_id: str
    handler: Handler
    argument: Any


class Dispatcher:
    """Method name → handler, with the request's type read from the handler's annotation."""

    def __init__(self, topic: str, handlers: Mapping[str, Handler]) -> None:
        self.topic = topic
        self._handlers = {name: (handler, _decoder(handler)) for name, handler in handlers.items()}
        self.quick = frozenset(name for name, handler in handlers.items() if getattr(handler, "quick", False))
        self._several = {
            name: handler.several for name, handler in handlers.items() if hasattr(handler, "several")
        }
        self.together = frozenset(self._several)
        """The methods whose requests are handled together when they wait together."""

    def read(self, message: bytes) -> Request:
        """The message as a request; Unreadable says why it is none."""
        try:
            envelope = _envelope.decode(message)
            handler, decoder = self._handlers[envelope.method]
            return Request(envelope.method, envelope.request_id, handler, decoder.decode(envelope.body))
        except KeyError as error:
            raise Unreadable(f"{self.topic} has no method {error}") from error
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Unreadable(f"no message that {self.topic} understands: {error}") from error

    def answer(self, request: Request) -> bytes:
        """Run the handler of a call: its answer or its error, encoded."""
        try:
            return encode_outcome(request.handler(request.argument))
        except KilonovaError as error:
            return encode_error(error)
        except Exception:  # noqa: BLE001 - the edge: the caller waits, maybe in another process
            _log.exception("call_failed", topic=self.topic, method=request.method)
            why = f"{request.method} of the {self.topic} met an unexpected error; its log says which"
            return encode_error(KilonovaError(why))

    def outcomes(self, method: str, requests: Sequence[Request]) -> Outcomes:
        """Of requests for one of ``together``. Those that are NotYet must be given to answer() or work()."""
        if len(requests) > 1:
            try:
                outcomes: Outcomes = self._several[method]([request.argument for request in requests])
                assert len(outcomes) == len(requests)
                return outcomes
            except KilonovaError as error:
                _log.info("done_one_by_one", topic=self.topic, method=method, error=error.message)
            except Exception:  # noqa: BLE001 - the edge: each may yet go well by itself
                _log.exception("several_failed", topic=self.topic, method=method)
        return [NOT_YET] * len(requests)

    def work(self, request: Request) -> None:
        """Run the handler of a cast; nobody waits, so its error goes to the log."""
        with log.bound(request_id=request.request_id):
            try:
                request.handler(request.argument)
            except Exception:  # noqa: BLE001 - the edge of a thread: nobody above to tell
                _log.exception("cast_failed", topic=self.topic, method=request.method)


def _decoder(handler: Handler) -> msgspec.msgpack.Decoder[Any]:
    """A decoder of the handler's last argument; those before it are bound already."""
    function = handler.func if isinstance(handler, partial) else handler
    hints = {name: kind for name, kind in typing.get_type_hints(function).items() if name != "return"}
    return codec.msgpack_decoder(list(hints.values())[-1])


_encoder = msgspec.msgpack.Encoder()


def encode(value: Any) -> bytes:
    return _encoder.encode(value)


_envelope = msgspec.msgpack.Decoder(Envelope)


def sealed(method: str, request: msgspec.Struct) -> bytes:
    """The message that asks for ``method``; it takes the request id of this thread's log along."""
    request_id = log.current().get("request_id", "")
    return encode(Envelope(method, msgspec.Raw(encode(request)), request_id))


def encode_outcome(outcome: Any) -> bytes:
    """An answer, or the error that refuses the request."""
    if isinstance(outcome, KilonovaError):
        return encode_error(outcome)
    return encode(Answer(True, msgspec.Raw(encode(outcome))))


def encode_error(error: KilonovaError) -> bytes:
    body = encode(ErrorReply(type(error).__name__, error.message, error.details))
    return encode(Answer(False, msgspec.Raw(body)))


_answer = msgspec.msgpack.Decoder(Answer)
_error = msgspec.msgpack.Decoder(ErrorReply)


def refusal(error: Unreadable) -> bytes:
    """The answer to a call that could not be read."""
    return encode_error(BadRequest(str(error)))


def decode_answer(data: bytes, reply: type[Reply]) -> Reply:
    """The answer as ``reply``, or raise the error that it carries."""
    try:
        answer = _answer.decode(data)
        if answer.ok:
            return codec.from_msgpack(answer.body, reply)
        error = _error.decode(answer.body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as failure:
        raise KilonovaError(f"an answer came that is no {reply.__name__}: {failure}") from failure
    raise by_name(error.kind)(error.message, error.details)
