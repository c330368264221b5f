"""Request bodies as streams of bounded pieces, whatever the client does.

The embedded server (cheroot) reads a whole chunk of a chunked body at once, as large as the client says, and
what a handler left unread of any other body too, to keep the connection in step. Both would let one request
fill the memory. So chunked bodies are decoded here, and Drain throws the rest of any body away in pieces.
"""

from __future__ import annotations

from typing import Any

import falcon
from cheroot import wsgi
from cheroot.server import ChunkedRFile

PIECE = 1 << 16
MAX_DRAINED = 16 << 30
"""Bytes of a refused body that are read and thrown away before the connection is ended instead."""

_BODY = "kilonova.body"
_EXCHANGE = "kilonova.exchange"
_LINE = 1024


class ChunkedBody:
    """The data of a chunked body. ValueError if the coding is broken or ends early."""

    def __init__(self, wire: Any) -> None:
        self._wire = wire
        self._left = 0
        self._ended = False

    def read(self, size: int, /) -> bytes:
        """``size`` bytes, fewer only at the end."""
        parts: list[bytes] = []
        while size and not self._ended:
            if not self._left:
                self._next_chunk()
                continue
            piece = self._wire.read(min(size, self._left))
            if not piece:
                raise ValueError("the connection closed inside a chunk")
            parts.append(piece)
            size -= len(piece)
            self._left -= len(piece)
            if not self._left:
                self._line(b"")
        return b"".join(parts)

    def _next_chunk(self) -> None:
        digits = self._line(None).split(b";")[0].strip()
        if not digits or not set(digits) <= set(b"0123456789abcdefABCDEF") or len(digits) > 16:
            raise ValueError("a chunk without its size")
        self._left = int(digits, 16)
        if not self._left:
            while self._line(None):
                pass  # trailers
            self._ended = True

    def _line(self, expected: bytes | None) -> bytes:
        line: bytes = self._wire.readline(_LINE)
        if not line.endswith(b"\r\n") or (expected is not None and line[:-2] != expected):
            raise ValueError("the connection closed, or a chunk is longer than it says")
        return line[:-2]


class SizedBody:
    """The data of a body whose length is known, or of none. Fewer bytes than that: it was cut off."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        data: bytes = self._stream.read(size)
        return data


def of(request: falcon.Request) -> ChunkedBody | SizedBody:
    """The request's body, from where it was left the last time."""
    body: ChunkedBody | SizedBody | None = request.env.get(_BODY)
    if body is None:
        body = request.env[_BODY] = _open(request)
    return body


def _open(request: falcon.Request) -> ChunkedBody | SizedBody:
    source = request.env["wsgi.input"]
    if isinstance(source, ChunkedRFile):
        return ChunkedBody(source.rfile)
    if request.env.get("wsgi.input_terminated"):
        return SizedBody(source)
    return SizedBody(request.bounded_stream)


class Gateway(wsgi.Gateway_10):
    """What the embedded server hands requests through (its ``gateway``): lets Drain end a connection."""

    def get_environ(self) -> Any:
        environ = super().get_environ()  # type: ignore[no-untyped-call]
        environ[_EXCHANGE] = self.req
        return environ


class Drain:
    """Falcon middleware: reads what the handler left of the body, so that the client hears the answer and
    the next request is in step; ends the connection where that can't be."""

    def process_response(self, request: falcon.Request, *_: Any) -> None:
        exchange = request.env.get(_EXCHANGE)
        if exchange is not None and not _drained(request):
            exchange.close_connection = True


def _drained(request: falcon.Request) -> bool:
    source = request.env["wsgi.input"]
    if not isinstance(source, ChunkedRFile) and (source.remaining == 0 or source.remaining > MAX_DRAINED):
        return bool(source.remaining == 0)
    body = of(request)
    try:
        return any(not body.read(PIECE) for _ in range(MAX_DRAINED // PIECE))
    except (OSError, ValueError):
        return False
