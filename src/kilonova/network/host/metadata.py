"""The metadata service: 169.254.169.254:80 in every network's namespace, answered by this process.

A listening socket is made inside its namespace and then works from anywhere: which network asks is known by
the socket, which guest by the source address, that anti-spoofing vouches for. No header but a body's length
is ever looked at, so no X-Forwarded-For or X-Instance-ID can pretend anything.

Who dawdles keeps nobody from it (exchanges.py). A guest's places are its port's, however many addresses it
may use; addresses that are no port's own share the places of one guest a network, for there is nothing to
tell them.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from msgspec import structs

from kilonova import log
from kilonova.domain import metadata as content
from kilonova.domain.errors import Conflict
from kilonova.domain.servers import GuestMetadata
from kilonova.network.base import NO_DEEDS, MetadataDeeds, MetadataLookup
from kilonova.network.host.exchanges import Asker, Exchanges
from kilonova.network.host.plan import METADATA_ADDRESS
from kilonova.network.host.watch import Loop

_log = log.get("network.metadata")

PORT = 80
_PAUSE = 1.0
"""Seconds until connections are accepted again that could not be."""


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
        self._exchanges = Exchanges(loop, self._answer)
        self._listening: dict[str, socket.socket] = {}
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
        with self._lock:
            listener = self._listening.pop(network_id, None)
            if listener:
                self._loop.discard(listener.fileno())
                listener.close()

    def stop(self) -> None:
        for network_id in list(self._listening):
            self.leave(network_id)
        self._exchanges.stop()

    def _accept(self, network_id: str, listener: socket.socket) -> None:
        try:
            connection, (source, _) = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            self._pause(network_id, listener, error)
            return
        self._exchanges.begin(connection, Asker(network_id, source), self._port_of(network_id, source))

    def _pause(self, network_id: str, listener: socket.socket, error: OSError) -> None:
        """Out of descriptors or memory: who asks stays in the backlog, and would be told of without end."""
        _log.warning("metadata_paused", network=network_id, reason=error.strerror)
        self._loop.discard(listener.fileno())
        self._loop.later(_PAUSE, lambda: self._resume(network_id, listener))

    def _resume(self, network_id: str, listener: socket.socket) -> None:
        with self._lock:
            if self._listening.get(network_id) is listener:
                self._loop.add(listener.fileno(), lambda: self._accept(network_id, listener))

    def _answer(self, asker: Asker, head: bytes, body: bytes | None) -> bytes:
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
            _log.warning(
                "metadata lookup failed", network=asker.network_id, source=asker.address, error=str(error)
            )
            return _response(HTTPStatus.SERVICE_UNAVAILABLE)
        if found is None:
            return _response(HTTPStatus.NOT_FOUND)
        return _response(HTTPStatus.OK, found, path=path, with_body=method == "GET")

    def _found(self, about: GuestMetadata, path: str) -> bytes | None:
        """Services and the hypervisor are asked only for what needs their answers."""
        if content.tells_places(about, path):
            about = structs.replace(about, places=self._deeds.places(about))
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
