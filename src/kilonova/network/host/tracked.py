"""Connections that the kernel tracks in the caller's namespace: which there are, and an end to some of them.

A table may hold a quarter of a million, so its netlink is read here by itself: what is in no zone that is
asked for costs a look at one attribute. Linux 6.8 leaves those out already. An entry is ended by the very
bytes that the kernel told it by, its number among them: never another of the same addresses that came since.

To forget a connection is not enough to close it: the kernel takes what comes next of it for the beginning of
a new one, whoever sends that. A mark closes it, for as long as the kernel knows it (close()).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import count
from struct import Struct
from typing import NamedTuple

from kilonova.domain.errors import BuildFailed
from kilonova.network.host.linux import making
from kilonova.network.host.verdict import Packet

_NETLINK_NETFILTER = 12
_SET, _GET, _DELETE = 0x100, 0x101, 0x102  # of the subsystem ctnetlink
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ERROR, _DONE = 2, 3

_MESSAGE, _FAMILY, _ATTRIBUTE = Struct("=IHHII"), Struct("=BBH"), Struct("=HH")
_CODE, _ZONE_NUMBER, _PORT, _NUMBER32 = Struct("=i"), Struct(">H"), Struct(">H"), Struct(">I")
_KIND = 0x3FFF
"""Of an attribute's type, without its flags."""
# Attributes (linux/netfilter/nfnetlink_conntrack.h)
_ORIGINAL, _REPLY, _MARK, _ID, _ZONE = 1, 2, 8, 12, 18
_NAMING = {_ORIGINAL, _ZONE, _ID}
_IP, _PROTOCOL = 1, 2
_SOURCES, _DESTINATIONS = (1, 3), (2, 4)
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_ICMP_TYPES, _ICMP_CODES = (5, 8), (6, 9)

CLOSED = 0x4B45
"""The mark of connections by which nothing passes any more (firewall.host_table)."""
_WITH_CONNECTIONS = {socket.IPPROTO_TCP, 33, socket.IPPROTO_SCTP}  # 33: DCCP
"""Protocols of which the two ends agree on a connection, which they may begin only once."""

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_FEW = 8
"""Zones up to which each is asked for: the kernel goes through its table each time."""
_TIMEOUT = 10.0
_BUFFER = 1 << 18

Attributes = dict[int, bytes]


class Connection(NamedTuple):
    """As its first packet was, and as what answers it."""

    zone: int
    packet: Packet
    answers_from: str
    answers_to: str
    name: bytes
    """What the kernel knows it by."""
    mark: int = 0
    answers_port: int | None = None

    @property
    def is_closed(self) -> bool:
        return self.mark == CLOSED


def connections(
    zones: Collection[int] | None = None, addresses: Collection[str] | None = None
) -> Iterator[Connection]:
    """All, or those of these zones, or those of them with one of these addresses at an end. BuildFailed: they
    cannot be read."""
    for message in _messages(zones):
        if addresses is None:
            yield from _parsed(message)
        elif len(addresses) > _FEW or any(one in bytes(message) for one in map(_packed, addresses)):
            for found in _parsed(message):
                if found.packet.source in addresses or found.packet.destination in addresses:
                    yield found


def _messages(zones: Collection[int] | None) -> Iterator[memoryview]:
    with _netlink() as kernel:
        if zones is None or len(zones) > _FEW:
            for message in _dump(kernel, None):
                if zones is None or _zone_of(message) in zones:
                    yield message
            return
        left = set(zones)
        while left:
            wanted, filtered = left.pop(), True
            for message in _dump(kernel, wanted):
                zone = _zone_of(message)
                filtered = filtered and zone == wanted
                if zone == wanted or zone in left:
                    yield message
            if not filtered:  # an older Linux, which has told all there are
                return


def end(some: Collection[Connection]) -> int:
    """The kernel has forgotten them; how many were still there."""
    return _for_each(_DELETE, some)


def close(some: Collection[Connection]) -> None:
    """Nothing passes by them from now on, until reopen(). Those of protocols that know no connections are
    forgotten: what comes next of them may as well be the first."""
    _for_each(_SET, [one for one in some if one.packet.protocol in _WITH_CONNECTIONS], _marked(CLOSED))
    _for_each(_DELETE, [one for one in some if one.packet.protocol not in _WITH_CONNECTIONS])


def reopen(some: Collection[Connection]) -> None:
    """They go on as what they were, if their ends still know them."""
    _for_each(_SET, some, _marked(0))


def _marked(mark: int) -> bytes:
    return _attribute(_MARK, _NUMBER32.pack(mark))


def _for_each(kind: int, some: Collection[Connection], more: bytes = b"") -> int:
    """How many were still there."""
    if not some:
        return 0
    found = 0
    with _netlink() as kernel:
        for one in some:
            kernel.send(_message(kind, _REQUEST | _ACK, one.name + more))
            found += _acknowledged(kernel)
    return found


# Netlink
_numbers = count(1)


@contextmanager
def _netlink() -> Iterator[socket.socket]:
    with (
        making("connection tracking"),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as kernel,
    ):
        kernel.bind((0, 0))
        kernel.settimeout(_TIMEOUT)
        yield kernel


def _message(kind: int, flags: int, content: bytes) -> bytes:
    length = _MESSAGE.size + len(content)
    return _MESSAGE.pack(length, kind, flags, next(_numbers) & 0xFFFFFFFF, 0) + content


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _dump(kernel: socket.socket, zone: int | None) -> Iterator[memoryview]:
    """The content of a message for each entry: family and attributes."""
    only = b"" if zone is None else _attribute(_ZONE, _ZONE_NUMBER.pack(zone))
    kernel.send(_message(_GET, _REQUEST | _DUMP, _FAMILY.pack(socket.AF_UNSPEC, 0, 0) + only))
    while True:
        read = memoryview(kernel.recv(_BUFFER))
        while read:
            length, kind = _MESSAGE.unpack_from(read)[:2]
            if kind == _DONE:
                return
            if kind == _ERROR:
                _raise(_CODE.unpack_from(read, _MESSAGE.size)[0])
            yield read[_MESSAGE.size : length]
            read = read[(length + 3) & ~3 :]


def _acknowledged(kernel: socket.socket) -> bool:
    """Whether it was done; if not, it had ended by itself."""
    (code,) = _CODE.unpack_from(kernel.recv(_BUFFER), _MESSAGE.size)
    if code == -errno.ENOENT:
        return False
    if code:
        _raise(code)
    return True


def _raise(code: int) -> None:
    raise BuildFailed(f"connection tracking: {os.strerror(-code)}")


# Entries
def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _zone_of(message: memoryview) -> int:
    """Cheaply: nothing else is looked at."""
    at, end_ = _FAMILY.size, len(message)
    while at < end_:
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if kind & _KIND == _ZONE:
            return int(_ZONE_NUMBER.unpack_from(message, at + 4)[0])
        at += (length + 3) & ~3
    return 0


def _attributes(content: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Kind, value, and the whole with its head."""
    at, end_ = 0, len(content)
    while at < end_:
        length, kind = _ATTRIBUTE.unpack_from(content, at)
        following = at + ((length + 3) & ~3)
        yield kind & _KIND, content[at + 4 : at + length], content[at:following]
        at = following


def _parsed(message: memoryview) -> list[Connection]:
    """The entry, if it is of IP."""
    family = message[0]
    if family not in _FAMILIES:
        return []
    zone = mark = 0
    name = bytes(message[: _FAMILY.size])
    there = back = memoryview(b"")
    for kind, value, whole in _attributes(message[_FAMILY.size :]):
        if kind == _ORIGINAL:
            there = value
        elif kind == _REPLY:
            back = value
        elif kind == _ZONE:
            zone = _ZONE_NUMBER.unpack(value)[0]
        elif kind == _MARK:
            mark = _NUMBER32.unpack(value)[0]
        if kind in _NAMING:
            name += whole
    source, destination, said = _tuple(there, family)
    answers_from, answers_to, answering = _tuple(back, family)
    six = family == socket.AF_INET6
    port, icmp = said.get(_DESTINATION_PORT), said.get(_ICMP_TYPES[six])
    answers_port = answering.get(_SOURCE_PORT)
    return [
        Connection(
            zone,
            Packet(
                source=source,
                destination=destination,
                protocol=said[_NUMBER][0],
                port=_PORT.unpack(port)[0] if port else None,
                icmp=(icmp[0], said[_ICMP_CODES[six]][0]) if icmp else None,
            ),
            answers_from,
            answers_to,
            name,
            mark,
            _PORT.unpack(answers_port)[0] if answers_port else None,
        )
    ]


def _tuple(content: memoryview, family: int) -> tuple[str, str, Attributes]:
    """Source, destination, and what is said of the protocol."""
    source = destination = ""
    said: Attributes = {}
    for kind, value, _ in _attributes(content):
        if kind == _IP:
            for which, address, _ in _attributes(value):
                if which in _SOURCES:
                    source = socket.inet_ntop(family, address)
                elif which in _DESTINATIONS:
                    destination = socket.inet_ntop(family, address)
        elif kind == _PROTOCOL:
            said = {which: bytes(number) for which, number, _ in _attributes(value)}
    return source, destination, said
