"""Tell a link who has an address now: ARP announcements (RFC 5227, 3), for who remembers somebody else."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import closing
from ipaddress import IPv4Address

from pyroute2.netlink.exceptions import NetlinkError

from kilonova.network.host import linux

_ARP = 0x0806
_BROADCAST = b"\xff" * 6
_FORWARDING = 3  # BR_STATE_FORWARDING
_SECONDS = 2.0


def frame(mac: str, ip: str) -> bytes:
    """An ARP request of that address for itself, to all."""
    hardware, address = bytes.fromhex(mac.replace(":", "")), IPv4Address(ip).packed
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + hardware + address + bytes(6) + address
    return _BROADCAST + hardware + struct.pack("!H", _ARP) + body


def announce(device: str, mac: str, addresses: Iterable[str]) -> None:
    """Call it inside the namespace that the device is in."""
    with (
        linux.making(f"announcing the addresses of {device}"),
        closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as out,
    ):
        out.bind((device, 0))
        for ip in addresses:
            out.send(frame(mac, ip))


def wait_until_forwarding(link: str) -> None:
    """The bridge passes what comes from that port. It takes the kernel up to a second to see that a new one
    has a carrier; after _SECONDS we go on without."""
    deadline = time.monotonic() + _SECONDS
    with closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)) as notices, linux.netlink() as ip:
        notices.bind((0, 1))  # RTMGRP_LINK
        while not _forwards(ip, link) and (left := deadline - time.monotonic()) > 0:
            if select.select([notices], [], [], left)[0]:
                notices.recv(65536)


def _forwards(ip: linux.Netlink, link: str) -> bool:
    try:
        message = ip.link("get", ifname=link)[0]
    except NetlinkError:
        return True  # gone: nothing to wait for
    info = message.get_attr("IFLA_LINKINFO")
    port = info.get_attr("IFLA_INFO_SLAVE_DATA") if info else None
    return port is None or port.get_attr("IFLA_BRPORT_STATE") == _FORWARDING
