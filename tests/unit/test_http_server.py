"""The HTTP server: what came is answered, and clients hear of a stop in time to connect anew."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kilonova.cli.parts import head
from kilonova.cli.parts import http as parts

GIVEN = """
import os, sys
from kilonova.cli.parts.http import Server
server = Server("127.0.0.1", 0)
server.prepare()
print(server.url, sorted(name for name in os.environ if name.startswith("LISTEN")))
server.stop()
"""


LARGE = b"kilonova" * (1 << 19)


class App:
    """Answers /slow when it is told to, everything else at once; /large is larger than a socket takes."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["PATH_INFO"] == "/slow":
            self.began.set()
            assert self.go_on.wait(30)
        body = LARGE if environ["PATH_INFO"] == "/large" else b"ok"
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def server(app: App) -> Iterator[parts.Server]:
    made = parts.Server("127.0.0.1", 0)
    made.prepare()
    made.wsgi_app = app
    threading.Thread(target=made.serve, daemon=True).start()
    yield made
    app.go_on.set()
    made.stop()


def connect(server: parts.Server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(*server.bind_addr, timeout=30)


def ask(connection: http.client.HTTPConnection, path: str = "/") -> bool:
    """Whether the answer says that the connection ends."""
    connection.request("GET", path)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"ok")
    return answer.will_close


def stopping(server: parts.Server) -> threading.Thread:
    """It has begun to stop, and accepts no more."""
    address = server.bind_addr
    thread = threading.Thread(target=server.stop)
    thread.start()
    while True:
        try:
            socket.create_connection(address, timeout=30).close()
        except OSError:
            return thread


def test_a_request_under_way_gets_its_answer(server: parts.Server, app: App) -> None:
    one = connect(server)
    closes: list[bool] = []
    asking = threading.Thread(target=lambda: closes.append(ask(one, "/slow")))
    asking.start()
    assert app.began.wait(30)
    stop = stopping(server)
    assert stop.is_alive()
    app.go_on.set()
    asking.join(30)
    stop.join(30)
    assert closes == [True]
    assert not stop.is_alive()


def test_a_client_with_a_kept_connection_is_told_to_connect_anew(
    server: parts.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_IDLE_GRACE", 30.0)
    one = connect(server)
    assert not ask(one)
    stop = stopping(server)
    assert ask(one), "the answer does not say that the connection ends"
    stop.join(25)
    assert not stop.is_alive(), "it waited for nobody"


def test_a_client_that_says_nothing_more_does_not_hold_it_up(server: parts.Server) -> None:
    one = connect(server)
    assert not ask(one)
    stop = stopping(server)
    stop.join(30)
    assert not stop.is_alive()
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(one)


def test_a_socket_that_was_handed_over_is_served_and_left_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        handed = f'LISTEN_FDS=1 LISTEN_FDNAMES=api LISTEN_PID=$$ exec "$0" "$@" 3<&{held.fileno()}'
        command = ["bash", "-c", handed, sys.executable, "-c", GIVEN]
        done = subprocess.run(
            command, pass_fds=(held.fileno(),), capture_output=True, text=True, timeout=60, check=False
        )
        host, port = held.getsockname()
        assert done.stdout == f"http://{host}:{port} []\n", done.stderr
        socket.create_connection((host, port), timeout=30).close()


def test_a_socket_for_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getppid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert parts.given_socket() is None
    assert "LISTEN_PID" not in os.environ, "cheroot would take it"


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", "http://127.0.0.1:"), ("0.0.0.0", "http://127.0.0.1:"), ("::1", "http://[::1]:")],
)
def test_the_url_is_one_that_leads_to_it(address: str, expected: str) -> None:
    server = parts.Server(address, 0)
    server.prepare()
    try:
        assert server.url == f"{expected}{server.bind_addr[1]}"
    finally:
        server.stop()


def test_requests_that_come_together_are_answered_in_turn(server: parts.Server) -> None:
    with socket.create_connection(server.bind_addr, timeout=30) as wire:
        wire.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3 + b"GET / HTTP/1.1\r\nHo")
        answers = b""
        while answers.count(b"\r\n\r\nok") < 3:
            answers += wire.recv(4096)
        wire.sendall(b"st: a\r\nConnection: close\r\n\r\n")
        with wire.makefile("rb") as rest:
            assert rest.read().endswith(b"\r\n\r\nok")


def test_a_large_answer_reaches_a_slow_reader_whole(server: parts.Server) -> None:
    connection = connect(server)
    connection.request("GET", "/large")
    answer = connection.getresponse()
    pieces = []
    while piece := answer.read(10_000):
        pieces.append(piece)
    assert b"".join(pieces) == LARGE
    assert not ask(connection)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"a" * head.MAX_SIZE * 2, b"414"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * head.MAX_SIZE * 2, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * (head.MAX_HEADERS + 1), b"431"),
    ],
)
def test_a_head_without_end_is_refused_before_it_is_whole(
    server: parts.Server, sent: bytes, status: bytes
) -> None:
    with socket.create_connection(server.bind_addr, timeout=60) as wire:
        wire.sendall(sent)
        with wire.makefile("rb") as answer:
            assert answer.readline().split()[1] == status
            assert b"Connection: close\r\n" in answer.readlines()
    assert not ask(connect(server))


def test_who_goes_on_sending_a_refused_head_is_left(server: parts.Server) -> None:
    def flood(wire: socket.socket) -> None:
        for _ in range(64):
            wire.sendall(b"a" * (1 << 20))

    with socket.create_connection(server.bind_addr, timeout=60) as wire, pytest.raises(ConnectionError):
        flood(wire)


def test_a_long_head_is_taken(server: parts.Server) -> None:
    connection = connect(server)
    many = {f"X-{number}": "v" * 100 for number in range(head.MAX_HEADERS - 10)}
    connection.request("GET", "/?" + "a" * 30_000, headers=many)
    assert connection.getresponse().status == 200
