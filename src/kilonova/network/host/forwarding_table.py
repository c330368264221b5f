"""The forwarding table of one device, as the kernel tells it (rtnetlink(7)): of that device alone.

pyroute2 has the kernel tell the tables of all devices, of which any may have thousands of entries that guests
caused, and drops the others' afterwards.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

_SOL_NETLINK, _STRICT = 270, 12
_DUMP = 0x301
_NEW, _GET, _ERROR, _DONE = 28, 30, 2, 3
_DST, _LLADDR = 1, 2
_HEADER, _NEIGHBOUR, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BxxxiHBB"), struct.Struct("=HH")
_TIMEOUT = 10.0


def destinations(index: int, mac: bytes) -> set[str]:
    """The IPv4 addresses to which the tunnel device of the caller's namespace sends what is for that MAC.
    OSError if the kernel does not say."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as one:
        one.settimeout(_TIMEOUT)
        one.setsockopt(_SOL_NETLINK, _STRICT, 1)  # else it filters nothing
        asked = _NEIGHBOUR.pack(socket.AF_BRIDGE, index, 0, 0, 0)
        one.send(_HEADER.pack(_HEADER.size + len(asked), _GET, _DUMP, 1, 0) + asked)
        entries = [_attributes(body) for body in _messages(one)]
    return {
        socket.inet_ntoa(entry[_DST])
        for entry in entries
        if entry.get(_LLADDR) == mac and len(entry.get(_DST, b"")) == 4
    }


def _messages(one: socket.socket) -> Iterator[bytes]:
    while True:
        came = one.recv(1 << 16)
        while came:
            length, kind, *_ = _HEADER.unpack_from(came)
            if kind == _DONE:
                return
            if kind == _ERROR:
                raise OSError(-struct.unpack_from("=i", came, _HEADER.size)[0], "no forwarding table")
            if kind == _NEW:
                yield came[_HEADER.size + _NEIGHBOUR.size : length]
            came = came[_aligned(length) :]


def _attributes(body: bytes) -> dict[int, bytes]:
    found = {}
    while len(body) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(body)
        found[kind] = body[_ATTRIBUTE.size : length]
        body = body[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3
