"""One request and one answer a connection, with guests of which any may dawdle: no thread waits for a guest.

All that depends on a guest, reading its request and sending the answer, happens in the loop's thread as bytes
come and go, before a deadline. A worker gets whole requests alone.

What there is of places and workers is shared out: so many to a guest, so many to a network. Where all places
are taken, a newcomer gets the place of the one for which we have waited longest, of the network that has most
such ones. So those who dawdle take places from each other.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from socket import SHUT_WR, socket
from typing import NamedTuple

from kilonova import log
from kilonova.network.host import http_request
from kilonova.network.host.watch import Loop

_log = log.get("network.metadata")

PLACES, PLACES_OF_A_NETWORK, PLACES_OF_A_GUEST = 256, 64, 4
WORKERS, WORKERS_OF_A_NETWORK, WORKERS_OF_A_GUEST = 32, 8, 1
_SECONDS = 10.0
"""That a guest has to say its request, and as many to take the answer."""
_LAST_SECONDS = 1.0
"""For which its unread words are taken, so that it hears the answer: a close would be a reset."""


class Asker(NamedTuple):
    """A request came on this network from this address."""

    network_id: str
    address: str


@dataclass(eq=False)
class _Exchange:
    connection: socket
    asker: Asker
    port_id: str | None
    """Whose places it has; None: an address that is no port's own. Those share one guest's places."""
    came: http_request.Incoming = field(default_factory=http_request.Incoming)
    left: bytes = b""
    """Of the answer."""
    waits_for_guest: bool = True
    deadline: float = 0.0

    @property
    def guest(self) -> tuple[str, str | None]:
        return self.asker.network_id, self.port_id


class Exchanges:
    """``answer(asker, head, body)`` is called by workers; all else, but for stop(), in the loop's thread."""

    def __init__(self, loop: Loop, answer: Callable[[Asker, bytes, bytes | None], bytes]) -> None:
        self._loop = loop
        self._answer = answer
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="metadata")
        self._open: dict[_Exchange, None] = {}
        """From the oldest to the newest."""
        self._ready: deque[tuple[_Exchange, http_request.Request]] = deque()
        """Whole requests that no worker has yet."""
        self._working: list[_Exchange] = []

    def begin(self, connection: socket, asker: Asker, port_id: str | None) -> None:
        """Serve it, or close it if there is no place for it."""
        one = _Exchange(connection, asker, port_id)
        if not self._has_room(one):
            connection.close()
            return
        connection.setblocking(False)
        self._open[one] = None
        self._limit(one, _SECONDS)
        self._loop.add(connection.fileno(), lambda: self._read(one))

    def stop(self) -> None:
        """Nobody waits for a guest; only for what workers have in hand."""
        closed = threading.Event()

        def close() -> None:
            for one in list(self._open):
                self._close(one)
            self._ready.clear()
            closed.set()

        self._loop.later(0, close)
        closed.wait(_SECONDS)
        self._pool.shutdown(wait=True, cancel_futures=True)

    # --- places
    def _has_room(self, new: _Exchange) -> bool:
        if sum(one.guest == new.guest for one in self._open) >= PLACES_OF_A_GUEST:
            return False
        network = new.asker.network_id
        if sum(one.asker.network_id == network for one in self._open) >= PLACES_OF_A_NETWORK:
            return self._makes_room(network)
        if len(self._open) < PLACES:
            return True
        waiting = Counter(one.asker.network_id for one in self._open if one.waits_for_guest)
        return bool(waiting) and self._makes_room(waiting.most_common(1)[0][0])

    def _makes_room(self, network_id: str) -> bool:
        for one in self._open:
            if one.waits_for_guest and one.asker.network_id == network_id:
                self._close(one)
                return True
        return False

    def _limit(self, one: _Exchange, seconds: float) -> None:
        one.deadline = time.monotonic() + seconds

        def ends() -> None:
            if one.waits_for_guest and time.monotonic() >= one.deadline:
                self._close(one)

        self._loop.later(seconds, ends)

    def _close(self, one: _Exchange) -> None:
        if one in self._open:
            del self._open[one]
            self._loop.discard(one.connection.fileno())
            one.connection.close()

    # --- the request
    def _read(self, one: _Exchange) -> None:
        try:
            more = one.connection.recv(http_request.LONGEST)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        request = one.came.add(more)
        if request is not None:
            self._loop.discard(one.connection.fileno())
            one.came, one.waits_for_guest = http_request.Incoming(), False
            self._ready.append((one, request))
            self._hand_out()
        elif not more or len(one.came) > http_request.LONGEST:
            self._close(one)

    def _hand_out(self) -> None:
        """To workers, the oldest first, as far as its guest and its network may have one more."""
        for item in list(self._ready):
            one, request = item
            if len(self._working) >= WORKERS:
                return
            of_guest = sum(other.guest == one.guest for other in self._working)
            of_network = sum(other.asker.network_id == one.asker.network_id for other in self._working)
            if of_guest < WORKERS_OF_A_GUEST and of_network < WORKERS_OF_A_NETWORK:
                self._ready.remove(item)
                self._working.append(one)
                self._pool.submit(self._work, one, request)

    def _work(self, one: _Exchange, request: http_request.Request) -> None:
        """In a worker's thread."""
        answer = b""
        try:
            answer = self._answer(one.asker, request.head, request.body)
        except Exception:  # noqa: BLE001 - an edge: the next guest's request comes by here too
            _log.exception("metadata_failed")
        finally:
            self._loop.later(0, lambda: self._answered(one, answer))

    # --- the answer
    def _answered(self, one: _Exchange, answer: bytes) -> None:
        self._working.remove(one)
        self._hand_out()
        if one in self._open:
            one.left, one.waits_for_guest = answer, True
            self._limit(one, _SECONDS)
            self._write(one)

    def _write(self, one: _Exchange) -> None:
        if one not in self._open:
            return
        try:
            with suppress(BlockingIOError):
                one.left = one.left[one.connection.send(one.left) :]
            if one.left:
                self._loop.add(one.connection.fileno(), lambda: self._write(one), once=True, writable=True)
                return
            one.connection.shutdown(SHUT_WR)
        except OSError:
            self._close(one)
            return
        self._limit(one, _LAST_SECONDS)
        self._loop.add(one.connection.fileno(), lambda: self._drain(one))

    def _drain(self, one: _Exchange) -> None:
        try:
            more = one.connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        if not more:
            self._close(one)
