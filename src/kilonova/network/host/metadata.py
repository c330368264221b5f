"""The metadata service: 169.254.169.254:80 in every network's namespace, answered by this process.

A listening socket is made inside its namespace and then works from anywhere: which network asks is known by
the socket, which guest by the source address, that anti-spoofing vouches for. No header but a body's length
is ever looked at, so no X-Forwarded-For or X-Instance-ID can pretend anything.

One request a connection, read whole before a deadline: a guest that dawdles holds one of few places of its
own and nobody else's. Its places are its port's, however many addresses it may use; addresses that are no
port's own share the places of one guest a network, for there is nothing to tell them.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from msgspec import structs

from kilonova import log
from kilonova.domain import metadata as content
from kilonova.domain.errors import Conflict
from kilonova.domain.servers import GuestMetadata
from kilonova.network.base import NO_DEEDS, MetadataDeeds, MetadataLookup
from kilonova.network.host.plan import METADATA_ADDRESS
from kilonova.network.host.watch import Loop

_log = log.get("network.metadata")

PORT = 80
_WORKERS = 32
_CONNECTIONS = 128
_CONNECTIONS_OF_A_GUEST = 4
_HEAD_BYTES = 8192
_SECONDS = 10.0
MAX_PASSWORD = 1020
"""Bytes: what Nova keeps."""


class MetadataServer:
    """``port_of(network_id, address)``: the port here whose own address that is."""

    def __init__(
        self,
        lookup: MetadataLookup,
        port_of: Callable[[str, str], str | None],
        loop: Loop,
        dhcp_domain: str,
        deeds: MetadataDeeds = NO_DEEDS,
    ) -> None:
        self._lookup = lookup
        self._port_of = port_of
        self._loop = loop
        self._dhcp_domain = dhcp_domain
        self._deeds = deeds
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="metadata")
        self._listening: dict[str, socket.socket] = {}
        self._open: Counter[tuple[str, str | None]] = Counter()
        """By network and port."""
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    def listens(self, network_id: str) -> bool:
        return network_id in self._listening

    def listen(self, network_id: str) -> None:
        """Answer this network. Call it inside the network's namespace, where the address is."""
        if self.listens(network_id):
            return
        listener = socket.create_server((METADATA_ADDRESS, PORT), backlog=64)
        listener.setblocking(False)
        self._listening[network_id] = listener
        self._loop.add(listener.fileno(), lambda: self._accept(network_id, listener))

    def leave(self, network_id: str) -> None:
        listener = self._listening.pop(network_id, None)
        if listener:
            self._loop.discard(listener.fileno())
            listener.close()

    def stop(self) -> None:
        for network_id in list(self._listening):
            self.leave(network_id)
        with self._lock:
            for connection in self._connections:  # nobody waits for a guest that dawdles
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _accept(self, network_id: str, listener: socket.socket) -> None:
        try:
            connection, (source, _) = listener.accept()
        except OSError:  # gone again, or no descriptors left: it stays in the backlog
            return
        guest = (network_id, self._port_of(network_id, source))
        with self._lock:
            full = self._open[guest] >= _CONNECTIONS_OF_A_GUEST or self._open.total() >= _CONNECTIONS
            if not full:
                self._open[guest] += 1
                self._connections.add(connection)
        if full:
            connection.close()
            return
        # Its seconds begin now, not when a worker is free.
        asker = (network_id, source)
        self._pool.submit(self._serve, connection, asker, guest, time.monotonic() + _SECONDS)

    def _serve(
        self,
        connection: socket.socket,
        asker: tuple[str, str],
        guest: tuple[str, str | None],
        deadline: float,
    ) -> None:
        try:
            with connection, suppress(OSError):
                request = _read(connection, deadline)
                if request is not None:
                    answer = self._answer(asker, *request)
                    connection.settimeout(max(1.0, deadline - time.monotonic()))
                    connection.sendall(answer)
                    _finish(connection)
        finally:
            with self._lock:
                self._connections.discard(connection)
                self._open[guest] -= 1
                if not self._open[guest]:
                    del self._open[guest]

    def _answer(self, asker: tuple[str, str], head: bytes, body: bytes | None) -> bytes:
        try:
            method, target, version = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
            path = unquote(urlsplit(target).path)
        except ValueError:
            return _response(HTTPStatus.BAD_REQUEST)
        refusal = _refusal(method, path, version)
        if refusal is not None:
            return refusal
        try:
            about = self._lookup(*asker)
            if about is not None and method == "POST":
                return self._keep_password(about, body)
            found = None if about is None else self._found(about, path)
        except Exception as error:  # noqa: BLE001 - an edge: the guest gets its answer whatever failed
            _log.warning("metadata lookup failed", network=asker[0], source=asker[1], error=str(error))
            return _response(HTTPStatus.SERVICE_UNAVAILABLE)
        if found is None:
            return _response(HTTPStatus.NOT_FOUND)
        return _response(HTTPStatus.OK, found, path=path, with_body=method == "GET")

    def _found(self, about: GuestMetadata, path: str) -> bytes | None:
        """Services are asked only for what needs their answers."""
        if content.asks_services(path):
            about = structs.replace(about, vendor_data_dynamic=self._deeds.vendor_data(about))
        return content.lookup(about, path, self._dhcp_domain)

    def _keep_password(self, about: GuestMetadata, body: bytes | None) -> bytes:
        """Once: a second one is refused, until the user has cleared the first."""
        if body is None:
            return _response(HTTPStatus.BAD_REQUEST, b"Request is too large.\n")
        try:
            password = body.decode()
        except UnicodeDecodeError:
            password = ""
        if not password or "\0" in password:
            return _response(HTTPStatus.BAD_REQUEST, b"It is empty, or no text in UTF-8.\n")
        try:
            self._deeds.keep_password(about, password)
        except Conflict:
            return _response(HTTPStatus.CONFLICT)
        return _response(HTTPStatus.OK, b"")


def _refusal(method: str, path: str, version: str) -> bytes | None:
    """The answer to what is never served, whoever asks."""
    if not version.startswith("HTTP/1."):
        return _response(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    if method == "POST" and not content.sets_password(path):
        return _response(HTTPStatus.METHOD_NOT_ALLOWED, b"Only a password can be set here.\n")
    if method not in ("GET", "HEAD", "POST"):
        return _response(HTTPStatus.METHOD_NOT_ALLOWED, b"Only GET, HEAD, and POST of a password.\n")
    return None


def _read(connection: socket.socket, deadline: float) -> tuple[bytes, bytes | None] | None:
    """The request's head and body; None if it does not come whole, in time, in bounds. The body is None if
    it is longer than a password may be, or of no length that is said."""
    came = b""
    while b"\r\n\r\n" not in came:
        if len(came) > _HEAD_BYTES or (more := _receive(connection, deadline)) is None:
            return None
        came += more
    head, _, body = came.partition(b"\r\n\r\n")
    length = _length(head)
    if length is None or length > MAX_PASSWORD:
        return head, None
    while len(body) < length:
        if (more := _receive(connection, deadline)) is None:
            return None
        body += more
    return head, body[:length]


def _receive(connection: socket.socket, deadline: float) -> bytes | None:
    left = deadline - time.monotonic()
    if left <= 0:
        return None
    connection.settimeout(left)
    return connection.recv(_HEAD_BYTES) or None


def _length(head: bytes) -> int | None:
    """Of the body; None if it is not said how long it is. No other header is ever looked at."""
    found = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"transfer-encoding":
            return None
        if name.strip().lower() == b"content-length":
            if not value.strip().isdigit() or len(value) > 10:
                return None
            found = int(value)
    return found


def _finish(connection: socket.socket) -> None:
    """Close so that the answer arrives: unread input (a body) would turn the close into a reset."""
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(1)
    connection.recv(65536)


def _response(
    status: HTTPStatus, body: bytes | None = None, *, path: str = "", with_body: bool = True
) -> bytes:
    if body is None:
        body = f"{status.value} {status.phrase}\n".encode()
    kind = "application/json" if path.endswith(".json") else "text/plain; charset=utf-8"
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        head.append("Allow: GET, HEAD, POST")
    return "\r\n".join([*head, "", ""]).encode() + (body if with_body else b"")
