"""AMQP 0-9-1 on the wire, as far as a proxy must understand it to treat a message as one thing.

A unit is what must not be torn apart: a method, or a method with its content (header and body frames).
Source: the specification, https://www.rabbitmq.com/amqp-0-9-1-reference.html, chapters 2.3 and 4.2.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

Method = tuple[int, int]

CONNECTION_CLOSE: Method = (10, 50)
CONNECTION_CLOSE_OK: Method = (10, 51)
CHANNEL_CLOSE: Method = (20, 40)
CHANNEL_CLOSE_OK: Method = (20, 41)
CONSUME: Method = (60, 20)
CONSUME_OK: Method = (60, 21)
CANCEL_OK: Method = (60, 31)
PUBLISH: Method = (60, 40)
RETURN: Method = (60, 50)
DELIVER: Method = (60, 60)
GET_OK: Method = (60, 71)
ACK: Method = (60, 80)
REJECT: Method = (60, 90)
NACK: Method = (60, 120)
CONFIRM_SELECT: Method = (85, 10)

_WITH_CONTENT = {PUBLISH, RETURN, DELIVER, GET_OK}
_METHOD, _HEADER, _BODY = 1, 2, 3
_FRAME = struct.Struct(">BHI")
_END = b"\xce"
_GREETING = b"AMQP"


class Unit(NamedTuple):
    """``method`` None: a heartbeat, or the greeting. ``arguments``: the method's, encoded."""

    channel: int
    method: Method | None
    arguments: bytes
    raw: bytes


class Units:
    """Cuts one direction of a connection into units."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun: dict[int, tuple[Unit, list[bytes], int | None]] = {}
        """Channel → a method that waits for its content: the frames so far, and bytes of body that lack."""

    def feed(self, data: bytes) -> list[Unit]:
        """The units that are complete now."""
        self._rest += data
        found = []
        while (frame := self._frame()) is not None:
            unit = self._take(*frame)
            if unit is not None:
                found.append(unit)
        return found

    def _frame(self) -> tuple[int, int, bytes, bytes] | None:
        """(type, channel, payload, all of it)"""
        if self._rest.startswith(_GREETING):
            if len(self._rest) < 8:
                return None
            greeting, self._rest = self._rest[:8], self._rest[8:]
            return 0, 0, b"", greeting
        if len(self._rest) < _FRAME.size:
            return None
        kind, channel, size = _FRAME.unpack_from(self._rest)
        end = _FRAME.size + size + 1
        if len(self._rest) < end:
            return None
        raw, self._rest = self._rest[:end], self._rest[end:]
        return kind, channel, raw[_FRAME.size : -1], raw

    def _take(self, kind: int, channel: int, payload: bytes, raw: bytes) -> Unit | None:
        if kind == _METHOD:
            method: Method = struct.unpack_from(">HH", payload)
            unit = Unit(channel, method, payload[4:], raw)
            if method not in _WITH_CONTENT:
                return unit
            self._begun[channel] = (unit, [raw], None)
            return None
        if kind not in {_HEADER, _BODY}:
            return Unit(channel, None, b"", raw)
        unit, frames, lacks = self._begun.pop(channel)
        frames.append(raw)
        left = struct.unpack_from(">Q", payload, 4)[0] if lacks is None else lacks - len(payload)
        if left > 0:
            self._begun[channel] = (unit, frames, left)
            return None
        return unit._replace(raw=b"".join(frames))


def frame(channel: int, method: Method, arguments: bytes) -> bytes:
    payload = struct.pack(">HH", *method) + arguments
    return _FRAME.pack(_METHOD, channel, len(payload)) + payload + _END


def ack(channel: int, tag: int, method: Method = ACK) -> bytes:
    """basic.ack (or basic.nack, without requeueing) of one message."""
    return frame(channel, method, struct.pack(">QB", tag, 0))


def tag_of(arguments: bytes) -> tuple[int, bool]:
    """Of basic.ack, nack, reject: (delivery tag, whether all before it are meant; of a reject: requeue)."""
    tag, bits = struct.unpack_from(">QB", arguments)
    return tag, bool(bits & 1)


def delivered(arguments: bytes) -> tuple[str, int]:
    """Of basic.deliver: (consumer tag, delivery tag)."""
    consumer, rest = _short_string(arguments, 0)
    return consumer, struct.unpack_from(">Q", arguments, rest)[0]


def consume_wants_no_ack(arguments: bytes) -> bool:
    _, rest = _short_string(arguments, 2)
    _, rest = _short_string(arguments, rest)
    return bool(arguments[rest] & 2)


def consumer_of(arguments: bytes) -> str:
    """Of basic.consume-ok."""
    return _short_string(arguments, 0)[0]


def _short_string(data: bytes, at: int) -> tuple[str, int]:
    """The string, and where what follows it begins."""
    end = at + 1 + data[at]
    return data[at + 1 : end].decode(), end
