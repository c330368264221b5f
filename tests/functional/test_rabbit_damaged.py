"""A message that nobody can read harms itself alone, wherever it comes in: those after it are worked on."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import amqp
import msgspec
import pytest
from tests.rabbit import PASSWORD, Rabbit
from tests.running import until

from kilonova.bus.base import Handler, Outcomes, Request, decode_answer, encode, sealed, together
from kilonova.bus.rabbit import RabbitBus, served, told
from kilonova.bus.rabbit.requests import REPLY_TO
from kilonova.config import Bus as Options
from kilonova.domain.errors import KilonovaError

WAIT = 60.0


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    number: int = 0
    info: Any = None


class Nothing(msgspec.Struct, frozen=True):
    pass


def deep(method: str) -> bytes:
    """A call of ``method`` that is nested deeper than anybody reads."""
    return b"\x93" + encode(method) + b"\x81" + encode("info") + b"\x91" * 100_000 + b"\xc0" + encode("")


class Server:
    """Serves ``progress``, whose requests are done together, ``report`` and ``note``."""

    def __init__(self, rabbit: Rabbit) -> None:
        self.exchange = f"kilonova-{uuid.uuid4()}"
        self.bus = RabbitBus(Options(url=rabbit.url, exchange=self.exchange))
        assert self.bus.connected(WAIT), self.bus.problem
        self.begun, self.go_on, self.noted = threading.Event(), threading.Event(), threading.Event()
        self.done: list[int] = []
        progress = together(partial(self._one), self._several)
        handlers: dict[str, Handler] = {"progress": progress, "report": self._report, "note": self._note}
        self.topic = self.bus.serve("conductor", handlers, 4)
        connection = amqp.Connection(f"127.0.0.1:{rabbit.port}", "kilonova", PASSWORD)
        connection.connect()
        self._stranger = connection.channel()

    def _one(self, ask: Ask) -> Nothing:
        self.begun.set()
        assert self.go_on.wait(WAIT)
        self.done.append(ask.number)
        return Nothing()

    def _several(self, asked: list[Ask]) -> Outcomes:
        self.done.extend(ask.number for ask in asked)
        return [Nothing()] * len(asked)

    def _report(self, ask: Ask) -> Nothing:
        self.done.append(ask.number)
        return Nothing()

    def _note(self, _ask: Ask) -> Nothing:
        self.noted.set()
        return Nothing()

    def send(self, key: str, body: bytes, **properties: Any) -> None:
        """To the queue of that key, as ``kilonova`` unless it is said otherwise."""
        message = amqp.Message(body, **({"user_id": "kilonova"} | properties))
        self._stranger.basic_publish(message, "", f"{self.exchange}.{key}")

    def kept(self) -> Any:
        """The next of those that were set aside."""
        return self._stranger.basic_get(f"{self.exchange}.unreadable", no_ack=True)

    def waiting(self, key: str) -> int:
        """How many messages of the queue nobody has taken."""
        return int(self._stranger.queue_declare(f"{self.exchange}.{key}", passive=True).message_count)

    def closed(self, closing: Any) -> None:
        thread = threading.Thread(target=closing.close, daemon=True)
        thread.start()
        thread.join(WAIT)
        assert not thread.is_alive(), "who closes waits for a message that nobody works on"

    def close(self) -> None:
        self._stranger.connection.close()
        self.go_on.set()
        self.closed(self.bus)


@pytest.fixture
def server(rabbit: Rabbit) -> Iterator[Server]:
    server = Server(rabbit)
    yield server
    server.close()


@pytest.mark.parametrize("key", ["conductor", "call.conductor"])
@pytest.mark.parametrize("how", ["deep", "surprising"])
def test_among_those_that_wait_together(
    server: Server, key: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that say to be of a method that is done together, and are of another."""
    bad = deep("report") if how == "deep" else sealed("report", Ask(number=13))
    monkeypatch.setattr(served, "read", _surprised_by_13)
    server.send(key, sealed("progress", Ask(number=1)), type="progress")
    assert server.begun.wait(WAIT)
    for body in (bad, sealed("progress", Ask(number=2)), bad, sealed("progress", Ask(number=3))):
        server.send(key, body, type="progress")
    server.send(key, sealed("note", Ask()), type="note")
    assert server.noted.wait(WAIT), "all of them have come"
    server.go_on.set()
    until(lambda: sorted(server.done) == [1, 2, 3], WAIT, f"the good ones: {server.done}")
    until(lambda: server.bus.unreadable == 2, WAIT, "the bad ones to be set aside")
    server.send(key, sealed("progress", Ask(number=4)), type="progress")
    until(lambda: sorted(server.done) == [1, 2, 3, 4], WAIT, "one that comes later")
    server.closed(server.topic)


@pytest.mark.parametrize("how", ["deep", "surprising"])
def test_among_what_is_told(server: Server, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = deep("word") if how == "deep" else sealed("word", Ask(number=13))
    monkeypatch.setattr(told, "read", _surprised_by_13)
    heard: list[int] = []

    def word(ask: Ask) -> None:
        heard.append(ask.number)

    collecting = server.bus.collect("conductor", {"word": word}, lambda: None)
    until(lambda: server.bus.up_since < float("inf"), WAIT, "the connection")
    server.send("told.conductor", bad, type="word")
    server.send("told.conductor", sealed("word", Ask(number=1)), type="word")
    until(lambda: heard == [1], WAIT, "the good one")
    until(lambda: server.bus.unreadable == 1, WAIT, "the bad one to be set aside")
    server.closed(collecting)


ODD: list[dict[str, Any]] = [
    {"type": b"\xff"},
    {"message_id": b"\xff", "application_headers": {"odd": b"\xff"}},
    {"correlation_id": b"\xff", "reply_to": "amq.rabbitmq.reply-to.nobody"},
    {"reply_to": b"amq.rabbitmq.reply-to.\xff", "correlation_id": "1"},
]
"""Properties that are no text."""


@pytest.mark.parametrize("key", ["conductor", "call.conductor", "told.conductor"])
def test_what_is_around_a_message_breaks_no_connection(server: Server, key: str) -> None:
    """Neither properties that are no text, nor what is said of a message that is set aside."""
    heard: list[int] = []

    def report(ask: Ask) -> None:
        heard.append(ask.number)

    server.bus.collect("conductor", {"report": report}, lambda: None)
    until(lambda: server.bus.up_since < float("inf"), WAIT, "the connection")
    since = server.bus.up_since
    good = sealed("report", Ask(number=1))
    for properties in ODD:
        server.send(key, good, **properties)
    server.send(key, sealed("x" * 300_000, Ask()))
    server.send(key, good, type="report")
    until(lambda: [*heard, *server.done] == [1], WAIT, "the good one")
    until(lambda: server.bus.unreadable == len(ODD) + 1, WAIT, "the others to be set aside")
    until(lambda: server.bus.connected(0), WAIT, "the connection")
    assert server.bus.up_since == since
    headers = [until(server.kept, WAIT, "the next of those set aside").headers for _ in range(len(ODD) + 1)]
    assert [said["sender"] for said in headers].count("kilonova") >= len(ODD)
    assert max(len(said["reason"]) for said in headers) < 2000


def test_an_answer_that_breaks_the_connection_goes_once(server: Server) -> None:
    """RabbitMQ fails at an address that looks like one and is none; the call must not come again for ever."""
    since = server.bus.up_since
    server.send("call.conductor", sealed("report", Ask(number=1)), type="report", reply_to=f"{REPLY_TO}.AA.A")
    until(lambda: server.bus.up_since not in (since, float("inf")), WAIT, "the connection to be made again")
    server.send("call.conductor", sealed("report", Ask(number=2)), type="report")
    until(lambda: server.done.count(2) == 1, WAIT, "the next call")
    until(lambda: server.waiting("call.conductor") == 0, WAIT, "nothing to come again")
    assert server.done.count(1) <= 2


def test_an_answer_that_is_nested_too_deep_is_an_error_like_others() -> None:
    with pytest.raises(KilonovaError, match="no Ask"):
        decode_answer(b"\x92\xc3\x81" + encode("info") + b"\x91" * 100_000 + b"\xc0", Ask)


_read = served.read


def _surprised_by_13(dispatcher: Any, message: Any) -> Request:
    request = _read(dispatcher, message)
    if request.argument.number == 13:
        raise RuntimeError("nobody thought of that")
    return request
