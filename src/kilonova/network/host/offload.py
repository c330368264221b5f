"""Checksums made by the kernel itself, not left to a device.

A switch in user space takes a packet off a veth as it is, checksum unmade, and the receiver drops it: ping
works, TCP does not. A device that cannot make checksums gets them made, and large packets cut. ethtool's
ioctl, linux/ethtool.h.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from array import array

from kilonova.network.host import linux

_SIOCETHTOOL = 0x8946
_GET_CHECKSUM, _SET_CHECKSUM = 0x16, 0x17  # ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM


def ensure_off(name: str) -> list[str]:
    """The device, in the caller's namespace, makes no checksums; a line if it did."""
    with linux.making(f"checksums of {name}"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_one:
        if not _ask(any_one, name, _GET_CHECKSUM):
            return []
        _ask(any_one, name, _SET_CHECKSUM)
    return [f"checksums of {name} made by the kernel"]


def _ask(any_one: socket.socket, name: str, command: int) -> int:
    value = array("I", [command, 0])
    request = struct.pack("16sP16x", name.encode(), value.buffer_info()[0])
    fcntl.ioctl(any_one, _SIOCETHTOOL, request)
    return value[1]
