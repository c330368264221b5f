"""The places and workers of the metadata service are shared out; who dawdles hurts nobody (exchanges.py)."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import pytest
from tests.running import until

from kilonova.network.host import exchanges, metadata
from kilonova.network.host.exchanges import Asker, Exchanges
from kilonova.network.host.metadata import MetadataServer
from kilonova.network.host.watch import Loop

LARGE = b"x" * 8_000_000
"""More than a socket takes at once."""


class Service:
    def __init__(self) -> None:
        self.loop = Loop("test")
        self.loop.start()
        self.open = threading.Event()
        """Until then nothing of the network "slow" is answered."""
        self.waiting = 0
        self.exchanges = Exchanges(self.loop, self.answer)
        self.guests: list[socket.socket] = []

    def answer(self, asker: Asker, head: bytes, body: bytes | None) -> bytes:
        if head.startswith(b"FAIL"):
            raise RuntimeError("no answer")
        if asker.network_id == "slow":
            self.waiting += 1
            assert self.open.wait(30)
        return LARGE if head.startswith(b"LARGE") else b"to " + asker.address.encode()

    def connect(self, network: str, port: str, request: bytes = b"") -> socket.socket:
        ours, theirs = socket.socketpair()
        self.guests.append(theirs)
        theirs.settimeout(30)
        theirs.sendall(request)
        self.loop.later(0, lambda: self.exchanges.begin(ours, Asker(network, port), port))
        return theirs

    def ask(self, network: str, port: str, request: bytes = b"GET\r\n\r\n") -> bytes:
        return all_of(self.connect(network, port, request))


def all_of(guest: socket.socket) -> bytes:
    came = b""
    with suppress(ConnectionResetError):
        while more := guest.recv(1 << 20):
            came += more
    return came


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.open.set()
    made.exchanges.stop()
    made.loop.stop()
    for guest in made.guests:
        guest.close()


def test_dawdlers_of_many_networks_take_places_from_each_other_alone(service: Service) -> None:
    for number in range(exchanges.PLACES + 50):
        service.connect(f"network-{number % 20}", f"port-{number // 4}", b"GET /")
    assert service.ask("other", "port") == b"to port"
    assert service.ask("network-3", "another") == b"to another"


def test_dawdlers_of_a_network_take_places_from_each_other_alone(service: Service) -> None:
    for number in range(exchanges.PLACES_OF_A_NETWORK + 8):
        service.connect("one", f"port-{number // 4}")
    assert service.ask("one", "modest") == b"to modest"


def test_a_guest_has_so_many_places(service: Service) -> None:
    held = [service.connect("one", "greedy") for _ in range(exchanges.PLACES_OF_A_GUEST)]
    assert service.ask("one", "greedy") == b""
    assert service.ask("one", "modest") == b"to modest"
    held[0].close()
    until(lambda: service.ask("one", "greedy") == b"to greedy", 60, "a place to be free")


def test_answers_that_take_long_take_no_worker_from_other_networks(service: Service) -> None:
    asked = [
        service.connect("slow", f"port-{number % 40}", b"GET\r\n\r\n")
        for number in range(exchanges.WORKERS + 8)
    ]
    until(lambda: service.waiting == exchanges.WORKERS_OF_A_NETWORK, 60, "the network to have its share")
    assert service.ask("other", "port") == b"to port"
    assert service.waiting == exchanges.WORKERS_OF_A_NETWORK
    service.open.set()
    assert [all_of(guest)[:8] for guest in asked] == [b"to port-"] * len(asked)


def test_a_guest_has_one_worker(service: Service) -> None:
    asked = [service.connect("slow", "greedy", b"GET\r\n\r\n") for _ in range(4)]
    until(lambda: service.waiting, 60, "the first to be worked on")
    until(lambda: len(service.exchanges._ready) == 3, 60, "the others to wait")
    service.connect("slow", "modest", b"GET\r\n\r\n")
    until(lambda: service.waiting == 2, 60, "another guest's to be worked on")
    service.open.set()
    assert [all_of(guest) for guest in asked] == [b"to greedy"] * 4


def test_who_does_not_read_its_answer_keeps_no_worker(service: Service) -> None:
    slow = [service.connect("one", f"port-{number}", b"LARGE\r\n\r\n") for number in range(40)]
    assert service.ask("one", "modest") == b"to modest"
    until(lambda: not service.exchanges._working, 60, "the workers to be free")
    assert all_of(slow[7]) == LARGE


def test_who_is_too_slow_is_let_go(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "_SECONDS", 0.2)
    half, unread = (
        service.connect("one", "half", b"GET /"),
        service.connect("one", "unread", b"LARGE\r\n\r\n"),
    )
    assert all_of(half) == b""
    until(lambda: not service.exchanges._open, 60, "all to be let go")
    assert len(all_of(unread)) < len(LARGE)


def test_requests_come_in_pieces_and_may_fail(service: Service) -> None:
    guest = service.connect("one", "port", b"POST /\r\nContent-")
    guest.sendall(b"Length: 4\r\n\r\nab")
    guest.sendall(b"cd and what nobody reads")
    assert all_of(guest) == b"to port"
    assert service.ask("one", "port", b"FAIL\r\n\r\n") == b""
    assert service.ask("one", "port") == b"to port"


def test_no_descriptors_left() -> None:
    """The kernel says without end that somebody asks: nobody listens for a while."""

    class Listener:
        def fileno(self) -> int:
            return 7

        def accept(self) -> Any:
            raise OSError(errno.EMFILE, "Too many open files")

        def close(self) -> None:
            pass

    class Recorded:
        def __init__(self) -> None:
            self.said: list[Any] = []

        def add(self, fileno: int, _callback: Any) -> None:
            self.said.append(("add", fileno))

        def discard(self, fileno: int) -> None:
            self.said.append(("discard", fileno))

        def later(self, seconds: float, callback: Any) -> None:
            self.said.append(("later", seconds))
            self.callback = callback

    loop, listener = Recorded(), cast(socket.socket, Listener())
    server = MetadataServer(lambda *_: None, lambda *_: None, cast(Loop, loop), "")
    server._listening["one"] = listener
    server._accept("one", listener)
    assert loop.said == [("discard", 7), ("later", metadata._PAUSE)]
    loop.callback()
    assert loop.said[2:] == [("add", 7)]
    server.leave("one")
    loop.said.clear()
    loop.callback()
    assert loop.said == []
