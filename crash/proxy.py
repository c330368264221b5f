"""A proxy between a service and the broker, on the loopback: it loses, doubles, delays and reorders messages,
and be cut, as a cable is: nothing passes, no connection breaks by it."""

from __future__ import annotations

import heapq
import itertools
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from crash.amqp import Unit, Units
from crash.conversation import Conversation
from crash.fates import Fate, Fates

_HELD = 0.5
"""Seconds that a message is held which the next ones pass."""


class Proxy:
    """Listens on ``port`` until close()."""

    def __init__(self, name: str, broker_port: int, fates: Fates) -> None:
        self._name = name
        self._broker_port = broker_port
        self._fates = fates
        self._numbers = itertools.count(1)
        self._links: set[_Link] = set()
        self._whole = threading.Event()
        self._whole.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, name=f"proxy-{name}", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        """What was sent meanwhile arrives now."""
        self._whole.set()

    def close(self) -> None:
        self.mend()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for link in list(self._links):
            link.break_off()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            number = next(self._numbers)
            threading.Thread(target=self._serve, args=(client, number), daemon=True).start()

    def _serve(self, client: socket.socket, number: int) -> None:
        self._whole.wait()
        try:
            broker = socket.create_connection(("127.0.0.1", self._broker_port), timeout=5)
        except OSError:
            client.close()
            return
        broker.settimeout(None)
        link = _Link(client, broker, self._whole, self._fates, f"{self._name}/{number}")
        self._links.add(link)
        link.run()
        self._links.discard(link)


class _Link:
    """One connection of the service, carried on to the broker."""

    def __init__(
        self, client: socket.socket, broker: socket.socket, whole: threading.Event, fates: Fates, name: str
    ) -> None:
        self._sockets = (client, broker)
        self._to_broker = _Lane(broker, whole)
        self._to_client = _Lane(client, whole)
        self._talk = Conversation(
            self._to_broker, self._to_client, fates.of(f"{name}/publishes"), fates.of(f"{name}/deliveries")
        )

    def run(self) -> None:
        """Until either side ends."""
        client, broker = self._sockets
        back = threading.Thread(
            target=self._carry, args=(broker, self._talk.from_broker, self._to_client), daemon=True
        )
        back.start()
        self._carry(client, self._talk.from_client, self._to_broker)
        back.join()
        for lane in (self._to_broker, self._to_client):
            lane.join()
        for one in self._sockets:
            one.close()

    def break_off(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _carry(self, source: socket.socket, take: Callable[[Unit], None], onward: _Lane) -> None:
        units = Units()
        with suppress(OSError):
            while data := source.recv(65536):
                for unit in units.feed(data):
                    take(unit)
        onward.end()


class _Lane:
    """See conversation.Lane."""

    def __init__(self, target: socket.socket, whole: threading.Event) -> None:
        self._target = target
        self._whole = whole
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, int, bytes, Callable[[], None] | None]] = []
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, channel: int, data: bytes, fate: Fate, passing: Callable[[], None] | None = None) -> None:
        now = time.monotonic()
        wait = {"delay": fate.seconds, "reorder": _HELD}.get(fate.kind, 0.0)
        with self._changed:
            # Due at 0: in the order of arrival, before all that waits for its time.
            heapq.heappush(
                self._waiting, (now + wait if wait else 0.0, next(self._order), channel, data, passing)
            )
            self._changed.notify()

    def flush(self, channel: int) -> None:
        with self._changed:
            held = sorted(item for item in self._waiting if channel in {0, item[2]})
            rest = [item for item in self._waiting if channel not in {0, item[2]}]
            self._waiting = rest + [(0.0, next(self._order), *item[2:]) for item in held]
            heapq.heapify(self._waiting)
            self._changed.notify()

    def end(self) -> None:
        """Send what is there, then say that no more comes."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        with suppress(OSError):
            while (item := self._next()) is not None:
                data, passing = item
                self._whole.wait()
                if passing is not None:
                    passing()
                self._target.sendall(data)
        with suppress(OSError):
            self._target.shutdown(socket.SHUT_RDWR)

    def _next(self) -> tuple[bytes, Callable[[], None] | None] | None:
        with self._changed:
            while True:
                wait = self._waiting[0][0] - time.monotonic() if self._waiting else None
                if self._waiting and (self._ended or wait is None or wait <= 0):
                    _, _, _, data, passing = heapq.heappop(self._waiting)
                    return data, passing
                if self._ended:
                    return None
                self._changed.wait(wait)
