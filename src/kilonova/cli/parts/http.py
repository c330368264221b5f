"""The HTTP server of this process: cheroot's, that also takes a listening socket from whoever started it
(systemd's LISTEN_FDS), and that stops without failing a request.

Processes that were given the same socket share one address: the kernel gives each connection to one of them.
The socket is not theirs, so what waits in its queue while one of them restarts is answered by another, or by
the same one a second later.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

from cheroot import wsgi
from cheroot.server import HTTPConnection

from kilonova.api import bodies
from kilonova.cli.parts import head, wire

_THREADS = 16
_KEPT_CONNECTIONS = 1000
"""Idle connections that stay open; with cheroot's default of 10 the eleventh client always connects anew."""
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound to it
_FIRST_GIVEN = 3
"""The descriptor of the first socket that is handed over (sd_listen_fds(3))."""
_IDLE_GRACE = 1.0
"""Seconds that a stop leaves to clients that keep a connection: who uses it once more gets an answer that
closes it. Closed at once, it would fail the request that was on its way."""
_BUSY_GRACE = 60.0
"""Seconds that a stop leaves to requests under way; an image that takes longer is cut off."""


class Server(wsgi.Server):
    """``prepare()`` listens, ``serve()`` answers, ``stop()`` lets what is under way end."""

    def __init__(self, address: str, port: int) -> None:
        # Who answers is said before serve(): until then what comes waits in the socket.
        super().__init__((address, port), None, numthreads=_THREADS, request_queue_size=512, timeout=30)
        self.gateway = bodies.Gateway
        self.max_request_header_size = head.MAX_SIZE
        self.keep_alive_conn_limit = _KEPT_CONNECTIONS
        self.shutdown_timeout = _BUSY_GRACE
        self.ConnectionClass = _Connection
        self._given = given_socket()
        self._address = address
        self._draining = False
        self._open: set[_Connection] = set()
        self._changed = threading.Condition()

    def bind(self, family: int, type: int, proto: int = 0) -> Any:  # cheroot's name for it
        if self._given is None:
            return super().bind(family, type, proto)
        self.socket = self._given
        self.bind_addr = self._given.getsockname()[:2]
        return self.socket

    def prepare(self) -> None:
        super().prepare()
        # Who shares the socket may be quicker to accept: then there is nothing to wait for.
        self.socket.setblocking(False)

    @property
    def url(self) -> str:
        """Where clients reach it; those of this machine, if it listens on every address."""
        own = self._address if self._given is None else self.bind_addr[0]
        host = _LOOPBACK.get(own, own)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.bind_addr[1]}"

    @property
    def can_add_keepalive_connection(self) -> bool:
        """Asked when an answer's headers are written; False: it says ``Connection: close``."""
        return not self._draining and super().can_add_keepalive_connection

    def stop(self) -> None:
        """Accept no more, answer what came, and end. Returns when the last request has its answer."""
        if self.ready and not self._draining:
            self._drain()
        super().stop()

    def _drain(self) -> None:
        self._draining = True
        listening, connections = self.socket, self._connections  # type: ignore[attr-defined]
        connections._selector.unregister(listening.fileno())
        while self._given is None and (one := connections._from_server_socket(listening)) is not None:
            self.process_conn(one)  # it waits in a queue that ends with us
        listening.close()
        self.socket = None
        with self._changed:
            self._changed.wait_for(lambda: not self._open, _IDLE_GRACE)

    def opened(self, connection: _Connection) -> None:
        with self._changed:
            self._open.add(connection)

    def closed(self, connection: _Connection) -> None:
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()


class _Connection(HTTPConnection):
    """One that the server knows to be open."""

    RequestHandlerClass = head.Request

    def __init__(self, server: Server, sock: Any, *_: Any) -> None:
        super().__init__(server, sock, wire.open_file)
        server.opened(self)

    def close(self) -> None:
        super().close()
        self.server.closed(self)


def given_socket() -> socket.socket | None:
    """The listening socket that this process was started with, if any. Asked once: a child gets none."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit() or int(count) < 1:
        return None
    given = socket.socket(fileno=_FIRST_GIVEN)
    given.set_inheritable(False)
    return given
