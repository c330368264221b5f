"""The forwarding table of one device, as the kernel tells it (rtnl.py): of that device alone.

pyroute2 has the kernel tell the tables of all devices, of which any may have thousands of entries that guests
caused, and drops the others' afterwards.
"""

from __future__ import annotations

import socket
import struct

from kilonova.network.host import rtnl

_NEW, _GET = 28, 30
_DST, _LLADDR = 1, 2
_NEIGHBOUR = struct.Struct("=BxxxiHBB")


def destinations(index: int, mac: bytes) -> set[str]:
    """The IPv4 addresses to which the tunnel device of the caller's namespace sends what is for that MAC.
    OSError if the kernel does not say."""
    asked = _NEIGHBOUR.pack(socket.AF_BRIDGE, index, 0, 0, 0)
    told = rtnl.ask(_GET, asked, _NEW, dump=True)
    # Only what may be of it is taken apart: there may be thousands of others.
    entries = [rtnl.attributes(body[_NEIGHBOUR.size :]) for body in told if mac in body]
    return {
        socket.inet_ntoa(entry[_DST])
        for entry in entries
        if entry.get(_LLADDR) == mac and len(entry.get(_DST, b"")) == 4
    }
