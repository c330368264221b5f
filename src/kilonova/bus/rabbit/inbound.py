"""Messages that come, from their frames; all else that the broker says is py-amqp's to read.

A message is a method frame (basic.deliver), a header and as many of its body as it takes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import amqp
from amqp.method_framing import frame_handler as theirs

from kilonova.bus.rabbit.frames import BODY, FLAGS, HEADER, METHOD

_HEARTBEAT = 8
_DELIVER = struct.pack(">HH", 60, 60)
_SIZE_AND_FLAGS = struct.Struct(">4xQH")
_KNOWN = sum(FLAGS.values())

Frame = tuple[int, int, bytes]


class Message:
    """As much of amqp.Message as we use."""

    __slots__ = (
        *("_chunks", "_missing"),
        *("body", "channel", "damage", "delivery_info", "delivery_tag", "properties", "redelivered"),
    )

    def __init__(self, arguments: bytes) -> None:
        """``arguments``: the payload of basic.deliver's frame."""
        consumer, at = _short(arguments, 4)
        self.delivery_tag = int.from_bytes(arguments[at : at + 8], "big")
        redelivered = at + 8
        exchange, at = _short(arguments, redelivered + 1)
        key, _ = _short(arguments, at)
        self.delivery_info = {"consumer_tag": consumer, "exchange": exchange, "routing_key": key}
        self.redelivered = arguments[redelivered] != 0
        self.channel: Any = None
        self.body = b""
        self.properties: dict[str, Any] = {}
        self.damage = ""
        """What is wrong with the properties: such a message is to be set aside. Those that are no text are
        as os.fsdecode() would have them, so that an answer goes where it was asked for."""
        self._chunks: list[bytes] = []
        self._missing = 0

    def header(self, payload: bytes) -> bool:
        """True: the message is whole, for it has no body."""
        self._missing, flags = _SIZE_AND_FLAGS.unpack_from(payload)
        try:
            if flags & ~_KNOWN:  # somebody else's
                other = amqp.Message()
                other.inbound_header(payload)
                self.properties = other.properties
            else:
                self._read(payload, flags)
        except Exception as error:  # noqa: BLE001 - the broker checks none of it: whoever may send sends anything
            self.damage = f"its properties cannot be read: {error}"
        return self._missing == 0

    def _read(self, payload: bytes, flags: int) -> None:
        at = _SIZE_AND_FLAGS.size
        for name, flag in FLAGS.items():
            if flags & flag and name == "delivery_mode":
                self.properties[name], at = payload[at], at + 1
            elif flags & flag:
                text, at = _short(payload, at)
                self.properties[name] = text
                if not text.isascii() and not _is_text(text):
                    self.damage = f"its {name} is no text"

    def chunk(self, payload: bytes) -> bool:
        """True: the message is whole."""
        self._chunks.append(payload)
        self._missing -= len(payload)
        if self._missing <= 0:
            self.body = b"".join(self._chunks)
        return self._missing <= 0


def frame_handler(connection: Any, callback: Callable[..., Any]) -> Callable[[Frame], bool]:
    """What py-amqp calls for each frame; True if something became whole by it."""
    other = theirs(connection, callback)
    coming: dict[int, Message] = {}

    def on_frame(frame: Frame) -> bool:
        kind, number, payload = frame
        message = coming.get(number)
        if kind == METHOD and message is None and payload.startswith(_DELIVER):
            coming[number] = Message(payload)
        elif message is None or kind == _HEARTBEAT:
            return bool(other(frame))
        elif kind not in {HEADER, BODY}:
            raise amqp.exceptions.UnexpectedFrame(f"frame of type {kind} in the midst of a message")
        elif message.header(payload) if kind == HEADER else message.chunk(payload):
            del coming[number]
            _deliver(connection.channels[number], message)
            connection.bytes_recv += 1
            return True
        connection.bytes_recv += 1  # py-amqp's count, by which it knows that the broker lives
        return False

    return on_frame


def _deliver(channel: Any, message: Message) -> None:
    if channel.is_closing:
        return
    message.channel = channel
    consumer = channel.callbacks.get(message.delivery_info["consumer_tag"])
    if consumer is None:  # cancelled meanwhile
        channel.basic_reject(message.delivery_tag, requeue=True)
    else:
        consumer(message)


def _short(data: bytes, at: int) -> tuple[str, int]:
    """The short text there, and where it ends. Nobody checks that it is UTF-8: see Message.damage."""
    end = at + 1 + data[at]
    return data[at + 1 : end].decode(errors="surrogateescape"), end


def _is_text(text: str) -> bool:
    """Whether all of it was UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
