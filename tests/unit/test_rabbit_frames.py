"""Our frames are those that py-amqp would write."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import amqp
import pytest
from amqp.method_framing import frame_writer

from kilonova.bus.rabbit.frames import message, publish
from kilonova.bus.rabbit.inbound import frame_handler

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


# --- what comes


def deliver(body: bytes, properties: dict[str, Any], *, tag: int = 5) -> list[tuple[int, int, bytes]]:
    """The frames of a message as the broker sends them: our own, but for their first."""
    whole = message(7, FRAME_MAX, "", "", body, False, {})
    header = amqp.Message(body, **properties)._serialize_properties()
    method = b"\0\x3c\0\x3c" + b"\x03tag" + tag.to_bytes(8, "big") + b"\0" + b"\x08exchange" + b"\x03key"
    first = b"\0\x3c\0\0" + len(body).to_bytes(8, "big") + header
    frames: list[tuple[int, int, bytes]] = [(1, 7, method), (2, 7, first)]
    at = whole.index(b"\xce", whole.index(b"\xce") + 1) + 1
    while at < len(whole):
        size = int.from_bytes(whole[at + 3 : at + 7], "big")
        frames.append((3, 7, whole[at + 7 : at + 7 + size]))
        at += 8 + size
    return frames


class Channel:
    is_closing = False

    def __init__(self) -> None:
        self.came: list[Any] = []
        self.rejected: list[int] = []
        self.callbacks = {"tag": self.came.append}

    def basic_reject(self, tag: int, requeue: bool) -> None:
        assert requeue
        self.rejected.append(tag)


def handler() -> tuple[Channel, Any]:
    channel = Channel()
    connection = SimpleNamespace(channels={7: channel}, bytes_recv=0)
    return channel, frame_handler(connection, lambda *_: None)


@pytest.mark.parametrize("size", [0, 1, FRAME_MAX - 8, 3 * FRAME_MAX])
@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"correlation_id": "12", "user_id": "ü", "delivery_mode": 2, "type": "report"},
        {"application_headers": {"a": 1}, "message_id": "m", "reply_to": "r"},
    ],
)
def test_a_message_that_comes_is_read(size: int, properties: dict[str, Any]) -> None:
    channel, on_frame = handler()
    done = [on_frame(frame) for frame in deliver(b"x" * size, properties)]
    assert done == [False] * (len(done) - 1) + [True]
    (came,) = channel.came
    assert (came.body, came.delivery_tag, came.properties) == (b"x" * size, 5, properties)
    assert came.delivery_info["routing_key"] == "key"


def test_properties_that_are_no_text_come_as_damage_and_go_as_they_were() -> None:
    channel, on_frame = handler()
    for frame in deliver(b"x", {"correlation_id": b"\xff", "type": "ü", "user_id": "kilonova"}):
        on_frame(frame)
    (came,) = channel.came
    assert came.damage == "its correlation_id is no text"
    assert (came.body, came.properties["type"], came.properties["user_id"]) == (b"x", "ü", "kilonova")
    back = message(7, FRAME_MAX, "", "", b"", False, {"correlation_id": came.properties["correlation_id"]})
    assert b"\x01\xff\xce" in back


def test_properties_that_end_too_soon_are_damage() -> None:
    channel, on_frame = handler()
    method, (kind, number, payload), body = deliver(b"x", {"type": "report"})
    for frame in (method, (kind, number, payload[:-7]), body):
        on_frame(frame)
    assert "cannot be read" in channel.came[0].damage


def test_a_heartbeat_may_come_in_between() -> None:
    channel, on_frame = handler()
    method, header, *bodies = deliver(b"x" * 3 * FRAME_MAX, {})
    for frame in (method, (8, 0, b""), header, (8, 0, b""), *bodies):
        on_frame(frame)
    assert [came.body for came in channel.came] == [b"x" * 3 * FRAME_MAX]


def test_whom_nobody_waits_for_goes_back() -> None:
    channel, on_frame = handler()
    channel.callbacks.clear()
    for frame in deliver(b"x", {}):
        on_frame(frame)
    assert channel.rejected == [5]
