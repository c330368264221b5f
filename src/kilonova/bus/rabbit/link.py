"""A link: one connection to the broker and the one thread that touches it, for as long as it takes.

Others hand the thread jobs, which run in order while the connection is up. When it breaks it is made anew,
with growing pauses, and whoever uses the link declares again what they need.
"""

from __future__ import annotations

import math
import random
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from kilonova import log
from kilonova.bus.rabbit.broker import Broker, Connection, connect, is_refusal
from kilonova.bus.rabbit.jobs import Jobs
from kilonova.config import Bus
from kilonova.domain.clock import now

_log = log.get("bus")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_LOOK = 0.5
"""Seconds between two looks, while there is no connection, at what has waited too long."""
_FAREWELL = 2.0
"""Seconds that close() gives to what is not yet at the broker."""


class User(Protocol):
    """Who works over the link. All of it is called in the link's thread."""

    def connected(self, connection: Connection) -> None:
        """A new connection: open channels, declare, consume."""

    def lost(self) -> None:
        """The connection is gone, and all that was under way on it."""

    def waiting(self) -> None:
        """Still no connection; called every now and then."""

    def settled(self) -> bool:
        """Whether the link may close: nothing is under way."""


class Link:
    """``problem`` says in words why there is no connection, while there is none."""

    def __init__(self, name: str, brokers: Sequence[Broker], config: Bus, user: User, jobs: Jobs) -> None:
        self.up = threading.Event()
        self.up_since = math.inf
        """Epoch seconds; infinite while there is no connection."""
        self.problem = "not connected yet"
        self.refused = False
        """By every broker, one after the other, and what they said will not pass."""
        self._refusals = 0
        self._name = name
        self._brokers = deque(brokers)
        self._config = config
        self._user = user
        self._jobs = jobs
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"bus-{name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send what is waiting, if that goes quickly, and disconnect."""
        self._closing.set()
        self._jobs.ring()
        self._thread.join()

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closing.is_set():
            connection = None
            try:
                connection = self._connect()
                self._user.connected(connection)
                pause = _FIRST_PAUSE
                self._work(connection)
            except Exception as error:  # noqa: BLE001 - whatever broke: the link must come back
                self._broke(error)
                self._brokers.rotate(-1)
            finally:
                self.up.clear()
                self.up_since = math.inf
                self._user.lost()
                if connection is not None:
                    connection.collect()
            self._rest(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _connect(self) -> Connection:
        try:
            connection = connect(self._brokers[0], self._config, f"kilonova {self._name}")
        except Exception as error:
            self._refusals = self._refusals + 1 if is_refusal(error) else 0
            self.refused = self._refusals >= len(self._brokers)
            raise
        self._refusals, self.refused = 0, False
        return connection

    def _broke(self, error: Exception) -> None:
        self.problem = f"{self._brokers[0]}: {str(error) or type(error).__name__}"
        _log.warning("broker_away", link=self._name, problem=self.problem)

    def _rest(self, pause: float) -> None:
        """Wait before the next attempt; not all clients at the same time."""
        until = time.monotonic() + pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        while not self._closing.wait(max(0.0, min(_LOOK, until - time.monotonic()))):
            self._user.waiting()
            if time.monotonic() >= until:
                return

    def _work(self, connection: Connection) -> None:
        """Until the link is closed, or the connection breaks (which raises)."""
        _log.info("broker_connected", link=self._name, broker=str(self._brokers[0]))
        self.up_since = now()
        self.up.set()
        sock, transport = connection.sock, connection.transport
        poll = select.poll()
        for descriptor in (sock.fileno(), self._jobs.bell):
            poll.register(descriptor, select.POLLIN)
        beat = connection.heartbeat / 4 or None
        due = time.monotonic() + (beat or 0)
        farewell: float | None = None
        while True:
            self._jobs.run()
            if self._closing.is_set():
                farewell = farewell or time.monotonic() + _FAREWELL
                if self._user.settled() or time.monotonic() > farewell:
                    sock.settimeout(_FAREWELL)
                    connection.close()
                    return
            if transport.holds_frame:  # they came while a job waited for its own
                _dispatch(connection)
                continue
            transport.flush()
            seconds = 0.05 if farewell else max(0.0, due - time.monotonic()) if beat else None
            for descriptor, _ in poll.poll(None if seconds is None else seconds * 1000):
                if descriptor == self._jobs.bell:
                    self._jobs.heard()
                else:
                    transport.receive()
                    _dispatch(connection)
            if beat and time.monotonic() >= due:
                connection.heartbeat_tick()
                due = time.monotonic() + beat


def _dispatch(connection: Connection) -> None:
    """Everything that has come."""
    transport = connection.transport
    while transport.holds_frame or _pending(transport.sock):
        connection.on_inbound_frame(transport.read_frame())


def _pending(sock: socket.socket) -> bool:
    """Whether TLS has decrypted more than was read: no poll tells of that."""
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
