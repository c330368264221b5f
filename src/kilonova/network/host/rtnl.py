"""Links, addresses and routes as the kernel tells them, by its own protocol (rtnetlink(7)).

What each plug asks some thirty times: pyroute2 takes a millisecond of the processor for a link, this a
twentieth of one. What is made seldom is made by pyroute2 (linux.py). All of it is in the caller's namespace;
OSError is what the kernel refuses.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network

import msgspec

_SOL_NETLINK, _STRICT = 270, 12
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ERROR, _DONE = 2, 3
_NEW_LINK, _DELETE_LINK, _GET_LINK = 16, 17, 18
_NEW_ADDRESS, _GET_ADDRESS, _NEW_ROUTE, _GET_ROUTE = 20, 22, 24, 26

_MESSAGE, _ATTRIBUTE, _NUMBER = struct.Struct("=IHHII"), struct.Struct("=HH"), struct.Struct("=I")
_LINK, _ADDRESS, _ROUTE = struct.Struct("=BxHiII"), struct.Struct("=BBBBi"), struct.Struct("=BBBBBBBBI")
_KIND = 0x3FFF
"""Of an attribute's type, without its flags."""
_TIMEOUT, _BUFFER = 10.0, 1 << 18

# Attributes of links (linux/if_link.h)
_MAC, _NAME, _MTU, _MASTER, _LINKINFO, _GROUP, _WITHOUT = 1, 3, 4, 10, 18, 27, 29
_INFO_KIND, _INFO_DATA = 1, 2
_STATISTICS = 8
_UP = 1
# Of addresses and routes (linux/if_addr.h, linux/rtnetlink.h)
_LOCAL, _DESTINATION, _OUT = 2, 1, 4
_MAIN, _UNICAST = 254, 1

_TUN = "/dev/net/tun"
_SET_DEVICE, _SET_PERSISTENT = 0x400454CA, 0x400454CB
_TAP = 0x0002


class Link(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    kind: str | None
    mac: str
    master: int | None
    mtu: int
    up: bool
    data: Mapping[int, bytes]
    """What is of its kind alone, by the numbers of linux/if_link.h."""


def link(name: str) -> Link | None:
    """None: there is none of that name."""
    asked = _attribute(_NAME, name.encode() + b"\0") + _attribute(_WITHOUT, _NUMBER.pack(_STATISTICS))
    try:
        (found,) = ask(_GET_LINK, _LINK.pack(0, 0, 0, 0, 0) + asked, _NEW_LINK)
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    _, _, index, flags, _ = _LINK.unpack_from(found)
    has = attributes(found[_LINK.size :])
    info = attributes(has.get(_LINKINFO, b""))
    return Link(
        index=index,
        kind=info[_INFO_KIND].rstrip(b"\0").decode() if _INFO_KIND in info else None,
        mac=has.get(_MAC, b"").hex(":"),
        master=_NUMBER.unpack(has[_MASTER])[0] if _MASTER in has else None,
        mtu=_NUMBER.unpack(has[_MTU])[0],
        up=bool(flags & _UP),
        data=attributes(info.get(_INFO_DATA, b"")),
    )


def change(
    index: int,
    *,
    up: bool | None = None,
    mtu: int | None = None,
    master: int | None = None,
    group: int | None = None,
) -> None:
    """What is None stays as it is."""
    numbers = ((_MTU, mtu), (_MASTER, master), (_GROUP, group))
    said = b"".join(_attribute(kind, _NUMBER.pack(one)) for kind, one in numbers if one is not None)
    flags, mask = (_UP if up else 0), (0 if up is None else _UP)
    _do(_NEW_LINK, _LINK.pack(0, 0, index, flags, mask) + said)


def change_bridge(index: int, data: Mapping[int, bytes]) -> None:
    """What only bridges have, by the numbers of linux/if_link.h."""
    said = b"".join(_attribute(kind, value) for kind, value in data.items())
    info = _attribute(_INFO_KIND, b"bridge\0") + _attribute(_INFO_DATA, said)
    _do(_NEW_LINK, _LINK.pack(0, 0, index, 0, 0) + _attribute(_LINKINFO, info))


def remove(index: int) -> None:
    _do(_DELETE_LINK, _LINK.pack(0, 0, index, 0, 0))


def remove_group(group: int) -> None:
    """All links of the group, in one step."""
    _do(_DELETE_LINK, _LINK.pack(0, 0, 0, 0, 0) + _attribute(_GROUP, _NUMBER.pack(group)))


def make_tap(name: str) -> None:
    """A persistent one."""
    file = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(file, _SET_DEVICE, struct.pack("16sH22x", name.encode(), _TAP))
        fcntl.ioctl(file, _SET_PERSISTENT, 1)
    finally:
        os.close(file)


def addresses(index: int) -> set[str]:
    """The link's own, of IPv4."""
    asked = _ADDRESS.pack(socket.AF_INET, 0, 0, 0, index)
    told = ask(_GET_ADDRESS, asked, _NEW_ADDRESS, dump=True)
    found = (attributes(body[_ADDRESS.size :]) for body in told if _ADDRESS.unpack_from(body)[4] == index)
    return {str(IPv4Address(one[_LOCAL])) for one in found if _LOCAL in one}


def routes() -> list[tuple[IPv4Network, int | None]]:
    """Destination and device of every unicast route of IPv4 in the main table."""
    found = []
    asked = _ROUTE.pack(socket.AF_INET, 0, 0, 0, _MAIN, 0, 0, 0, 0)
    for body in ask(_GET_ROUTE, asked, _NEW_ROUTE, dump=True):
        _, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
        if (table, kind) == (_MAIN, _UNICAST):
            has = attributes(body[_ROUTE.size :])
            out = _NUMBER.unpack(has[_OUT])[0] if _OUT in has else None
            found.append((IPv4Network((has.get(_DESTINATION, bytes(4)), length)), out))
    return found


# The protocol
def ask(kind: int, content: bytes, answer: int, *, dump: bool = False) -> Iterator[bytes]:
    """The content of each message of the kind ``answer`` that the kernel answers with. With ``dump`` it heeds
    all that is said of what is wanted."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_TIMEOUT)
        if dump:
            kernel.setsockopt(_SOL_NETLINK, _STRICT, 1)  # else it filters nothing
        flags = _REQUEST | (_DUMP if dump else _ACK)
        kernel.send(_MESSAGE.pack(_MESSAGE.size + len(content), kind, flags, 1, 0) + content)
        yield from _messages(kernel, answer)


def _do(kind: int, content: bytes) -> None:
    for _ in ask(kind, content, kind):
        pass


def _messages(kernel: socket.socket, kind: int) -> Iterator[bytes]:
    while True:
        came = kernel.recv(_BUFFER)
        at = 0
        while at < len(came):
            length, told, *_ = _MESSAGE.unpack_from(came, at)
            if told == _DONE:
                return
            if told == _ERROR:
                code = struct.unpack_from("=i", came, at + _MESSAGE.size)[0]
                if code:
                    raise OSError(-code, os.strerror(-code))
                return
            if told == kind:
                yield came[at + _MESSAGE.size : at + length]
            at += _aligned(length)


def attributes(body: bytes) -> dict[int, bytes]:
    """By their kinds."""
    found, at = {}, 0
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        found[kind & _KIND] = body[at + _ATTRIBUTE.size : at + length]
        at += max(_aligned(length), _ATTRIBUTE.size)
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
