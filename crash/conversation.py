"""One connection through a proxy: what is passed on to either side when messages meet their fates.

Neither side may notice but by what it lost: a message that is dropped is acknowledged to whoever sent it, and
the numbers of confirmations and deliveries stay in step.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from crash import amqp
from crash.amqp import Unit
from crash.fates import Fate, Stream


class Lane(Protocol):
    """One direction, towards a socket."""

    def send(self, channel: int, data: bytes, fate: Fate, passing: Callable[[], None] | None = None) -> None:
        """``passing`` is called when it really goes: delayed and reordered ones go later than others."""

    def flush(self, channel: int) -> None:
        """Whatever is held back of this channel (0: of all) goes now."""


@dataclass
class _Confirms:
    """A channel in confirm mode: the client's numbers of its messages, and the broker's."""

    sent: int = 0
    passed: int = 0
    client_number: dict[int, int] = field(default_factory=dict)


class Conversation:
    def __init__(self, to_broker: Lane, to_client: Lane, publishes: Stream, deliveries: Stream) -> None:
        self._to_broker = to_broker
        self._to_client = to_client
        self._publishes = publishes
        self._deliveries = deliveries
        self._lock = threading.RLock()
        self._confirms: dict[int, _Confirms] = {}
        self._consumes: defaultdict[int, deque[bool]] = defaultdict(deque)
        self._no_ack: set[tuple[int, str]] = set()
        self._doubled: set[tuple[int, int]] = set()
        self._acked: set[tuple[int, int]] = set()

    # --- from the client

    def from_client(self, unit: Unit) -> None:
        with self._lock:
            if unit.method == amqp.PUBLISH:
                self._published(unit)
                return
            if unit.method in {amqp.ACK, amqp.NACK, amqp.REJECT} and self._swallows(unit):
                return
            if unit.method == amqp.CONSUME:
                self._consumes[unit.channel].append(amqp.consume_wants_no_ack(unit.arguments))
            elif unit.method == amqp.CONFIRM_SELECT:
                self._confirms[unit.channel] = _Confirms()
            elif unit.method in {amqp.CHANNEL_CLOSE, amqp.CONNECTION_CLOSE}:
                self._to_broker.flush(unit.channel)
            self._to_broker.send(unit.channel, unit.raw, Fate())

    def _published(self, unit: Unit) -> None:
        fate = self._publishes.next()
        confirms = self._confirms.get(unit.channel)
        number = 0
        if confirms is not None:
            confirms.sent += 1
            number = confirms.sent
        if fate.kind == "drop":
            if number:
                self._to_client.send(unit.channel, amqp.ack(unit.channel, number), Fate())
            return
        for _ in range(2 if fate.kind == "duplicate" else 1):
            self._to_broker.send(unit.channel, unit.raw, fate, lambda: self._passes(confirms, number))

    def _passes(self, confirms: _Confirms | None, number: int) -> None:
        """A message goes to the broker, which counts it in this order."""
        if confirms is not None:
            with self._lock:
                confirms.passed += 1
                confirms.client_number[confirms.passed] = number

    def _swallows(self, unit: Unit) -> bool:
        """Of a delivery that was doubled the broker knows one: only the first answer goes to it."""
        delivery = (unit.channel, amqp.tag_of(unit.arguments)[0])
        if delivery not in self._doubled:
            return False
        if delivery in self._acked:
            self._doubled.remove(delivery)
            self._acked.remove(delivery)
            return True
        self._acked.add(delivery)
        return False

    # --- from the broker

    def from_broker(self, unit: Unit) -> None:
        with self._lock:
            if unit.method == amqp.DELIVER:
                self._delivered(unit)
                return
            if unit.method in {amqp.ACK, amqp.NACK} and unit.channel in self._confirms:
                self._confirmed(unit)
                return
            if unit.method == amqp.CONSUME_OK:
                if self._consumes[unit.channel].popleft():
                    self._no_ack.add((unit.channel, amqp.consumer_of(unit.arguments)))
            elif unit.method in {amqp.CHANNEL_CLOSE_OK, amqp.CONNECTION_CLOSE_OK, amqp.CANCEL_OK}:
                self._to_client.flush(unit.channel)
            self._to_client.send(unit.channel, unit.raw, Fate())

    def _delivered(self, unit: Unit) -> None:
        fate = self._deliveries.next()
        consumer, tag = amqp.delivered(unit.arguments)
        wants_ack = (unit.channel, consumer) not in self._no_ack
        if fate.kind == "drop":
            if wants_ack:
                self._to_broker.send(unit.channel, amqp.ack(unit.channel, tag), Fate())
            return
        if fate.kind == "duplicate":
            if wants_ack:
                self._doubled.add((unit.channel, tag))
            self._to_client.send(unit.channel, unit.raw, fate)
        self._to_client.send(unit.channel, unit.raw, fate)

    def _confirmed(self, unit: Unit) -> None:
        """In the client's numbers, each once."""
        assert unit.method is not None
        confirms = self._confirms[unit.channel]
        last, multiple = amqp.tag_of(unit.arguments)
        numbers = [number for number in confirms.client_number if number <= last] if multiple else [last]
        for number in numbers:
            told = confirms.client_number.pop(number, None)
            if told is not None and told not in confirms.client_number.values():
                self._to_client.send(unit.channel, amqp.ack(unit.channel, told, unit.method), Fate())
