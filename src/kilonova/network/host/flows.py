"""The connections that the kernel tracks on our bridges, and their end when they are not allowed any more.

The kernel holds every packet of a connection's own direction against the rules (security.py), so a rule that
goes stops those at once. What answers would go on, as long as it comes: this removes the connection itself.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

import msgspec
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

from kilonova.domain.security_groups import ICMP, ICMPV6
from kilonova.network.host.linux import making
from kilonova.network.host.verdict import Packet

_FAMILIES = {socket.AF_INET: ("V4", "ICMP"), socket.AF_INET6: ("V6", "ICMPV6")}


class Flow(msgspec.Struct, frozen=True):
    """A connection as its first packet was, in the zone of its network."""

    zone: int
    packet: Packet


def cut(zones: set[int], allowed: Callable[[Flow], bool]) -> int:
    """End every connection of these zones that is not allowed; how many there were."""
    return sum(_cut(family, zones, allowed) for family in _FAMILIES)


def _cut(family: socket.AddressFamily, zones: set[int], allowed: Callable[[Flow], bool]) -> int:
    """A socket asks for, and deletes, connections of one family."""
    ended = 0
    with making("connection tracking"), NFCTSocket(nfgen_family=family) as tracking:  # type: ignore[no-untyped-call]
        for entry in list(tracking.dump()):
            number = entry.get_attr("CTA_ZONE") or 0
            if number not in zones or entry["nfgen_family"] != family:
                continue
            if not allowed(Flow(number, _packet(entry, family))):
                ended += _delete(tracking, entry, family, number)
    return ended


def _packet(entry: Any, family: socket.AddressFamily) -> Packet:
    version, icmp = _FAMILIES[family]
    original = entry.get_attr("CTA_TUPLE_ORIG")
    ip, protocol = original.get_attr("CTA_TUPLE_IP"), original.get_attr("CTA_TUPLE_PROTO")
    number = protocol.get_attr("CTA_PROTO_NUM")
    kind = protocol.get_attr(f"CTA_PROTO_{icmp}_TYPE")
    return Packet(
        source=ip.get_attr(f"CTA_IP_{version}_SRC"),
        destination=ip.get_attr(f"CTA_IP_{version}_DST"),
        protocol=number,
        port=protocol.get_attr("CTA_PROTO_DST_PORT"),
        icmp=(kind, protocol.get_attr(f"CTA_PROTO_{icmp}_CODE")) if number in (ICMP, ICMPV6) else None,
    )


def _delete(tracking: Any, entry: Any, family: socket.AddressFamily, number: int) -> int:
    packet = _packet(entry, family)
    _, icmp = _FAMILIES[family]
    protocol = entry.get_attr("CTA_TUPLE_ORIG").get_attr("CTA_TUPLE_PROTO")
    kind, code = packet.icmp or (None, None)
    wanted = NFCTAttrTuple(
        family=family,
        saddr=packet.source,
        daddr=packet.destination,
        proto=packet.protocol,
        sport=protocol.get_attr("CTA_PROTO_SRC_PORT"),
        dport=packet.port,
        icmp_id=protocol.get_attr(f"CTA_PROTO_{icmp}_ID"),
        icmp_type=kind,
        icmp_code=code,
    )  # type: ignore[no-untyped-call]
    try:
        tracking.entry("del", tuple_orig=wanted, zone=number)
    except NetlinkError as error:
        if error.code != errno.ENOENT:  # it ended by itself
            raise
        return 0
    return 1
