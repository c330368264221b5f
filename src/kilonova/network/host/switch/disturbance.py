"""A change by which nothing is changed, for the switch to look through what it remembers (cache.py).

A flow that nothing ever meets comes and goes in one bundle. These are the only words of OpenFlow that we say
ourselves (1.4, the first with bundles): a run of ovs-ofctl costs more than the change that is waited for.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from kilonova.domain.errors import Unavailable
from kilonova.network.host.switch.flows import MARKER

_TIMEOUT = 5.0
_VERSION = 5
_HELLO, _ERROR, _ECHO_REQUEST, _ECHO_REPLY, _FLOW_MOD, _BUNDLE, _IN_BUNDLE = 0, 1, 2, 3, 14, 33, 34
_OPEN, _COMMIT, _COMMITTED = 0, 4, 5
_ATOMIC = 1
_ADD, _DELETE = 0, 3
_ANY = 0xFFFFFFFF
"""Of buffers: none. Of ports and groups, in a deletion: whichever."""
_EVERY_PACKET = struct.pack("!HH4x", 1, 4)
_HEADER = struct.Struct("!BBHI")
_CONTROL = struct.Struct("!IHH")
_FLOW = struct.Struct("!QQBBHHHIIIHH")


class Disturbance:
    """One connection to the bridge, from the first call on. Unavailable: it does not answer."""

    def __init__(self, control: Path) -> None:
        self._control = control
        self._socket: socket.socket | None = None
        self._numbers = count(1)

    def __enter__(self) -> Disturbance:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._socket:
            self._socket.close()

    def __call__(self) -> None:
        """The flow has come and gone."""
        try:
            self._socket = self._socket or self._connected()
            number = next(self._numbers)
            self._socket.sendall(b"".join(_bundle(number)))
            while self._heard(self._socket) != (_BUNDLE, number, _COMMITTED):
                pass
        except OSError as error:
            raise Unavailable(f"Open vSwitch does not answer at {self._control}: {error}") from error

    def _connected(self) -> socket.socket:
        one = socket.socket(socket.AF_UNIX)
        try:
            one.settimeout(_TIMEOUT)
            one.connect(str(self._control))
            one.sendall(_message(_HELLO, 0))
        except OSError:
            one.close()
            raise
        return one

    def _heard(self, one: socket.socket) -> tuple[int, int, int | None]:
        """Kind and number of the next message; of a bundle, what was done with it."""
        _, kind, length, number = _HEADER.unpack(_read(one, _HEADER.size))
        body = _read(one, length - _HEADER.size)
        if kind == _ERROR:
            raise OSError(f"error {body[:4].hex()}")
        if kind == _ECHO_REQUEST:
            one.sendall(_message(_ECHO_REPLY, number, body))
        return kind, number, _CONTROL.unpack(body[: _CONTROL.size])[1] if kind == _BUNDLE else None


def _bundle(number: int) -> Iterator[bytes]:
    yield _message(_BUNDLE, number, _CONTROL.pack(number, _OPEN, _ATOMIC))
    for command in (_ADD, _DELETE):
        flow = _FLOW.pack(0, 0, MARKER, command, 0, 0, 0, _ANY, _ANY, _ANY, 0, 0) + _EVERY_PACKET
        inner = _message(_FLOW_MOD, number, flow)
        yield _message(_IN_BUNDLE, number, _CONTROL.pack(number, 0, _ATOMIC) + inner)
    yield _message(_BUNDLE, number, _CONTROL.pack(number, _COMMIT, _ATOMIC))


def _message(kind: int, number: int, body: bytes = b"") -> bytes:
    return _HEADER.pack(_VERSION, kind, _HEADER.size + len(body), number) + body


def _read(one: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        more = one.recv(size - len(read))
        if not more:
            raise OSError("it hung up")
        read += more
    return read
