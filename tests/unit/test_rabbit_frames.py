"""Our frames are those that py-amqp would write."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import amqp
import pytest
from amqp.method_framing import frame_writer

from kilonova.bus.rabbit.frames import message, publish

FRAME_MAX = 4096


class Wire:
    """A connection and its transport."""

    def __init__(self) -> None:
        self.sent = b""
        self.frame_max = FRAME_MAX
        self.bytes_sent = 0
        self.transport = self

    def write(self, data: Any) -> None:
        self.sent += bytes(data)


def theirs(body: bytes, mandatory: bool, properties: dict[str, Any]) -> bytes:
    wire = Wire()
    arguments = amqp.serialization.dumps("Bssbb", (0, "exchange", "key", mandatory, False))
    frame_writer(wire, wire)(1, 7, (60, 40), arguments, amqp.Message(body, **properties))
    return wire.sent


@pytest.mark.parametrize("size", [0, 1, 300, FRAME_MAX - 8, FRAME_MAX - 7, 3 * FRAME_MAX])
@pytest.mark.parametrize("mandatory", [True, False])
def test_they_are_the_same(size: int, mandatory: bool) -> None:
    properties: dict[str, Any] = {
        "content_type": "application/msgpack",
        "delivery_mode": 1,
        "correlation_id": "12",
        "reply_to": "amq.rabbitmq.reply-to",
        "expiration": "60000",
        "type": "report",
        "user_id": "ü",
    }
    body = bytes(size)
    assert message(7, FRAME_MAX, "exchange", "key", body, mandatory, properties) == theirs(
        body, mandatory, properties
    )


def test_properties_that_are_not_given_are_not_there() -> None:
    some: dict[str, Any] = {"correlation_id": ""}
    assert message(7, FRAME_MAX, "exchange", "key", b"x", False, some) == theirs(b"x", False, some)


def test_a_property_that_is_not_known_is_not_lost_in_silence() -> None:
    with pytest.raises(AssertionError, match="priority"):
        message(7, FRAME_MAX, "exchange", "key", b"x", False, {"priority": 1})


def test_a_closed_channel_takes_nothing() -> None:
    closed = cast(Any, SimpleNamespace(connection=None))
    with pytest.raises(amqp.exceptions.RecoverableConnectionError):
        publish(closed, "exchange", "key", b"")
