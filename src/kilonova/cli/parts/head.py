"""Heads of requests that have an end, whatever the client sends.

cheroot knows a limit of a head's size (and has none by default), but answers with HTTP/1.0's words and closes
the connection while the client still sends, which resets it: the client never reads why.
"""

from __future__ import annotations

import socket
import time
from typing import Any

from cheroot.errors import MaxSizeExceeded
from cheroot.server import HeaderReader, HTTPRequest

MAX_SIZE = 64 << 10
"""Bytes of the request line and the headers together: a URL with the ids of 1,500 servers."""
MAX_HEADERS = 200

_LINGER_TIME = 2.0
_LINGER_BYTES = 1 << 20
"""What is read and thrown away of a head that was refused, so that its sender hears of it."""


class Request(HTTPRequest):
    """One whose head is longer than the server's limit gets 414 or 431, and its connection ends."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.header_reader = _Headers()

    def parse_request(self) -> None:
        super().parse_request()
        if getattr(self, "_too_long", False):
            self._linger()

    def simple_response(self, status: str, msg: str = "") -> None:
        """cheroot's answer where it hands nothing to the application."""
        refusal = {"413": "431 Request Header Fields Too Large", "414": "414 URI Too Long"}.get(status[:3])
        if refusal is None:
            super().simple_response(status, msg)
            return
        self._too_long = True
        lines = [
            f"{self.server.protocol} {refusal}",
            "Content-Type: text/plain",
            f"Content-Length: {len(msg)}",
            "Connection: close",
        ]
        self.close_connection = True
        self.conn.wfile.write("\r\n".join([*lines, "", msg]).encode("latin-1"))

    def _linger(self) -> None:
        wire, until = self.conn.socket, time.monotonic() + _LINGER_TIME
        left = _LINGER_BYTES
        try:
            wire.shutdown(socket.SHUT_WR)
            while left > 0 and (patience := until - time.monotonic()) > 0:
                wire.settimeout(patience)
                piece = wire.recv(1 << 16)
                if not piece:
                    return
                left -= len(piece)
        except OSError:
            return  # it went away, or says nothing more


class _Headers(HeaderReader):
    def __call__(self, rfile: Any, hdict: Any = None) -> Any:
        return super().__call__(_Counted(rfile), hdict)


class _Counted:
    """The lines of a head, which are not more than it may have."""

    def __init__(self, lines: Any) -> None:
        self._lines = lines
        self._left = MAX_HEADERS + 1  # and the empty one

    def readline(self) -> bytes:
        if not self._left:
            raise MaxSizeExceeded
        self._left -= 1
        line: bytes = self._lines.readline()
        return line
