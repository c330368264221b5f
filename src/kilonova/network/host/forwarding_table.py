"""The forwarding table of one device, as the kernel tells it (rtnetlink(7)): of that device alone; and what
reading the kernel's answers takes.

pyroute2 has the kernel tell the tables of all devices, of which any may have thousands of entries that guests
caused, and drops the others' afterwards.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

_SOL_NETLINK, _STRICT = 270, 12
_DUMP = 0x301
_NEW, _GET, _ERROR, _DONE = 28, 30, 2, 3
_DST, _LLADDR = 1, 2
HEADER, _NEIGHBOUR, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BxxxiHBB"), struct.Struct("=HH")
_KIND = 0x3FFF
"""Of an attribute's type, without its flags."""
_TIMEOUT = 10.0


def destinations(index: int, mac: bytes) -> set[str]:
    """The IPv4 addresses to which the tunnel device of the caller's namespace sends what is for that MAC.
    OSError if the kernel does not say."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as one:
        one.settimeout(_TIMEOUT)
        one.setsockopt(_SOL_NETLINK, _STRICT, 1)  # else it filters nothing
        asked = _NEIGHBOUR.pack(socket.AF_BRIDGE, index, 0, 0, 0)
        one.send(HEADER.pack(HEADER.size + len(asked), _GET, _DUMP, 1, 0) + asked)
        # Only what may be of it is taken apart: there may be thousands of others.
        bodies = (body[_NEIGHBOUR.size :] for body in messages(one, _NEW) if mac in body)
        entries = [attributes(body) for body in bodies]
    return {
        socket.inet_ntoa(entry[_DST])
        for entry in entries
        if entry.get(_LLADDR) == mac and len(entry.get(_DST, b"")) == 4
    }


def messages(one: socket.socket, kind: int) -> Iterator[bytes]:
    """What the kernel answers: the content of each message of that kind, until it says that this was all.
    OSError: it refuses."""
    while True:
        came = one.recv(1 << 18)
        at = 0
        while at < len(came):
            length, told, *_ = HEADER.unpack_from(came, at)
            if told == _DONE:
                return
            if told == _ERROR:
                code = struct.unpack_from("=i", came, at + HEADER.size)[0]
                if code:
                    raise OSError(-code, os.strerror(-code))
                return
            if told == kind:
                yield came[at + HEADER.size : at + length]
            at += _aligned(length)


def attributes(body: bytes) -> dict[int, bytes]:
    """By their kinds."""
    found, at = {}, 0
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        found[kind & _KIND] = body[at + _ATTRIBUTE.size : at + length]
        at += max(_aligned(length), _ATTRIBUTE.size)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3
