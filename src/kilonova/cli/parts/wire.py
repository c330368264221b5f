"""How the HTTP server reads and writes its sockets.

cheroot's own files are in pure Python, and copy what is left of an answer each time that the socket takes a
piece of it: a list of a thousand servers cost more to send than to read from the database.
"""

from __future__ import annotations

import io
import socket
from typing import Any


def open_file(sock: socket.socket, mode: str = "r", buffer_size: int = io.DEFAULT_BUFFER_SIZE) -> Any:
    """What cheroot calls ``makefile``."""
    return Reader(_Raw(sock, "r"), buffer_size) if "r" in mode else Writer(sock)


class _Raw(socket.SocketIO):
    """``idle``: as if nothing came, for who only wants to know what has been read already."""

    idle = False

    def readinto(self, buffer: Any, /) -> int | None:
        return None if self.idle else super().readinto(buffer)


class Reader(io.BufferedReader):
    def __init__(self, raw: _Raw, buffer_size: int) -> None:
        super().__init__(raw, buffer_size)
        self._socket = raw

    def has_data(self) -> bool:
        """Whether the next request, or a part of it, came with the one before."""
        self._socket.idle = True
        try:
            return bool(self.peek(1))
        finally:
            self._socket.idle = False


class Writer:
    """Everything is sent when it is written; each piece that the client takes has the whole time limit."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def write(self, content: bytes) -> int:
        left = memoryview(content)
        while left:
            left = left[self._socket.send(left) :]
        return len(content)
