"""How many MACs a bridge learns at most (rtnetlink(7)), where the kernel has a limit: Linux 6.7 and later.

A guest without port security may send from any MAC, and each is an entry in the kernel's memory. What is for
one that was not learned goes to all ports of the bridge. pyroute2 does not know these attributes.
"""

from __future__ import annotations

import socket
import struct

from kilonova.network.host.forwarding_table import HEADER, attributes, messages

MOST_MACS = 16384

_NEW, _GET = 16, 18
_REQUEST, _ACK = 1, 4
_LINK, _ATTRIBUTE, _NUMBER = struct.Struct("=BxHiII"), struct.Struct("=HH"), struct.Struct("=I")
_LINKINFO, _KIND, _DATA, _MOST_LEARNED = 18, 1, 2, 49
_TIMEOUT = 10.0


def ensure(index: int) -> list[str]:
    """The bridge learns MOST_MACS and no more; a line if it learned more. OSError if the kernel refuses."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as one:
        one.settimeout(_TIMEOUT)
        if _most(one, index) in (None, MOST_MACS):
            return []
        data = _attribute(_DATA, _attribute(_MOST_LEARNED, _NUMBER.pack(MOST_MACS)))
        _send(one, _NEW, index, _attribute(_LINKINFO, _attribute(_KIND, b"bridge\0") + data))
        for _ in messages(one, _NEW):
            pass
    return ["MACs that it learns limited"]


def most(index: int) -> int | None:
    """As the kernel has it; 0: no end. None: it has no such limit."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as one:
        one.settimeout(_TIMEOUT)
        return _most(one, index)


def _most(one: socket.socket, index: int) -> int | None:
    _send(one, _GET, index)
    found = None
    for body in messages(one, _NEW):
        info = attributes(attributes(body[_LINK.size :]).get(_LINKINFO, b""))
        said = attributes(info.get(_DATA, b"")).get(_MOST_LEARNED)
        found = None if said is None else _NUMBER.unpack(said)[0]
    return found


def _send(one: socket.socket, kind: int, index: int, more: bytes = b"") -> None:
    body = _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + more
    one.send(HEADER.pack(HEADER.size + len(body), kind, _REQUEST | _ACK, 1, 0) + body)


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)
