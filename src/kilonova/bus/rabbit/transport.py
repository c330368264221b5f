"""The bytes of a connection, many frames at a time.

py-amqp reads each frame by three system calls and writes each by one. Each of them gives up the GIL, which a
busy process is slow to give back. Here what has come is read at once, and what is sent waits for flush().
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import amqp
from amqp.transport import SSLTransport, TCPTransport

if TYPE_CHECKING:
    import socket

_HEADER = struct.Struct(">BHI")  # a frame's type, channel and size (AMQP 0-9-1, section 2.3.5)
_END = 0xCE
_CHUNK = 65536


class Batched:
    """Over one of py-amqp's transports, whose ``sock`` is connected. Who waits for a frame sends first."""

    sock: socket.socket
    connected: bool

    def _setup_transport(self) -> None:
        super()._setup_transport()  # type: ignore[misc]
        self._came = b""
        self._at = 0
        self._unsent: list[bytes] = []
        # A view of a buffer that py-amqp uses for the next frame again.
        self._write = lambda data: self._unsent.append(bytes(data))

    def flush(self) -> None:
        """Send all that was written."""
        if self._unsent:
            data = b"".join(self._unsent)
            self._unsent.clear()
            try:
                self.sock.sendall(data)
            except OSError:
                self.connected = False
                raise

    def receive(self) -> None:
        """Wait for more bytes."""
        self.flush()
        try:
            data = self.sock.recv(_CHUNK)
            if not data:
                raise ConnectionResetError("the message broker closed the connection")
        except TimeoutError:
            raise
        except OSError:
            self.connected = False
            raise
        self._came = self._came[self._at :] + data
        self._at = 0

    @property
    def holds_frame(self) -> bool:
        """Whether read_frame() need not wait."""
        rest = len(self._came) - self._at - _HEADER.size
        return rest > 0 and rest > _HEADER.unpack_from(self._came, self._at)[2]

    def read_frame(self) -> tuple[int, int, bytes]:
        """The next frame: its type, channel and payload."""
        while not self.holds_frame:
            self.receive()
        kind, channel, size = _HEADER.unpack_from(self._came, self._at)
        begin = self._at + _HEADER.size
        self._at = begin + size + 1
        if self._came[begin + size] != _END:
            raise amqp.exceptions.UnexpectedFrame("a frame does not end where it should")
        return kind, channel, self._came[begin : begin + size]


class _Plain(Batched, TCPTransport):  # type: ignore[misc]
    pass


class _Tls(Batched, SSLTransport):  # type: ignore[misc]
    pass


def batched(host: str, connect_timeout: float, ssl: Any, **options: Any) -> Batched:
    """A transport for that host; ``ssl`` as of amqp.Connection."""
    return (_Tls if ssl else _Plain)(host, connect_timeout=connect_timeout, ssl=ssl, **options)
