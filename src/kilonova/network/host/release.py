"""DHCPRELEASE: tells a network's DHCP server that an address is free again.

dnsmasq keeps a lease until it ends, and would refuse the address to the next port that gets it. It takes a
release over loopback as if the client itself had sent it. RFC 2131, 4.4.6.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

_MAGIC_COOKIE = b"\x63\x82\x53\x63"
_MESSAGE_TYPE, _SERVER_ID, _END = 53, 54, 255
_RELEASE = 7


def message(mac: str, ip: str, server: str) -> bytes:
    """The packet a client with that MAC would send to the server to give up the address."""
    hardware = bytes.fromhex(mac.replace(":", ""))
    head = struct.pack(
        "!BBBBIHH4s4s4s4s16s64s128s",
        1,  # a request
        1,  # over Ethernet
        len(hardware),
        0,
        0,
        0,
        0,
        IPv4Address(ip).packed,
        b"",
        b"",
        b"",
        hardware,
        b"",
        b"",
    )
    options = bytes([_MESSAGE_TYPE, 1, _RELEASE, _SERVER_ID, 4]) + IPv4Address(server).packed + bytes([_END])
    return head + _MAGIC_COOKIE + options


def send(mac: str, ip: str, server: str) -> None:
    """Call it inside the network's namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(message(mac, ip, server), (server, 67))
