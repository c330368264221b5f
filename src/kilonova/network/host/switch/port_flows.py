"""The flows of ports and networks: what a guest may send, and the way to it. Pure; flows.py draws the tables.

What may be in a Vif is checked before (plan.check), so nothing of a user's can be a word of another meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import NamedTuple

from kilonova.domain.network import Vif
from kilonova.network.host import ipv6_guard
from kilonova.network.host.firewall import allowed
from kilonova.network.host.plan import DHCPV6_SERVERS, METADATA_ADDRESS
from kilonova.network.host.switch.flows import (
    ACCEPTED,
    CLASSIFY,
    COMING,
    FLAGS,
    FORWARD,
    GATE,
    GROUP,
    GUARD,
    GUARDED,
    INWARDS,
    MANY,
    MEMBER,
    OUR_GROUP,
    PART,
    PORT,
    REST,
    SEAT,
    SENT,
    TAG,
    UNTAGGED,
    UNTRACKED,
    ZONE,
    ZONE_BITS,
    Flow,
    call,
    is_set,
    load,
    put,
    put_group,
)

_MULTICAST = "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00"
_EVERYBODY = "255.255.255.255"
_TO_DHCP = "tp_src=68,tp_dst=67"
_NO_LINK = "00:00:00:00:00:00"
"""What the switch reads where a message has no such option."""
_NO_PORT = "load:0xffff->NXM_OF_IN_PORT[]"
"""What NORMAL does not take for an access port of that tag, and learns nothing from."""


_AT_ONCE = 256
"""Ports that one flow leads to, 104 octets each."""


class Seat(NamedTuple):
    """A port of ours on the bridge."""

    name: str
    number: int
    tag: int
    """Its network's."""
    gate: str | None = None
    """The MAC behind it, if it is its network's gate."""


class Guarded(NamedTuple):
    """A guest's port with port security. ``zone``: of its connections."""

    vif: Vif
    seat: Seat
    zone: int


def open_port(seat: Seat) -> list[Flow]:
    """What comes from a gate, a router, a guest without port security; and what asks for metadata, which is
    behind the gate, whatever router the guest asks."""
    flags = f",{put(GATE, GATE)}" if seat.gate else ""
    actions = f"{load(seat.tag, TAG)}{flags},{call(FORWARD)}"
    comes = Flow(CLASSIFY, 100, f"in_port={seat.number},{UNTAGGED}", actions)
    if seat.gate is None:
        return [comes]
    asking = f"{TAG}={seat.tag},tcp,nw_dst={METADATA_ADDRESS},tp_dst=80"
    return [comes, Flow(FORWARD, 110, asking, f"mod_dl_dst:{seat.gate},output:{seat.number}")]


def guarded_port(port: Guarded) -> list[Flow]:
    vif, seat = port.vif, port.seat
    whose = f"{load(seat.tag, TAG)},{_whose(port)},{load(GUARDED, FLAGS)}"
    flows = [
        Flow(CLASSIFY, 100, f"in_port={seat.number}", f"{whose},{call(GUARD)}"),
        *_guard(vif, seat.number),
    ]
    if vif.security_groups:
        ask = ",".join(
            f"{put_group(group, OUR_GROUP)},{call(GROUP)}" for group in sorted(set(vif.security_groups))
        )
        flows.append(Flow(PORT, 10, f"{SEAT}={seat.number}", ask))
    return flows


def _guard(vif: Vif, seat: int) -> list[Flow]:
    pairs = allowed(vif)
    passing = [
        # Asking for DHCP, first without an address; an ARP probe's sender (RFC 5227).
        *(f"udp,nw_src=0.0.0.0,nw_dst={_EVERYBODY},{_TO_DHCP},dl_src={mac}" for mac in macs(vif)),
        *(
            f"udp,nw_src={_address(ip)},nw_dst={server},{_TO_DHCP},dl_src={mac}"
            for mac, ip in pairs
            for server in [_EVERYBODY, *_dhcp_servers(vif)]
        ),
        *(f"arp,dl_src={mac},arp_sha={mac},arp_spa=0.0.0.0" for mac in macs(vif)),
        *(f"arp,dl_src={mac},arp_sha={mac},arp_spa={_address(ip)}" for mac, ip in pairs),
    ]
    ask = call(FORWARD) if vif.security_groups is None else f"ct(table={SENT},zone={ZONE_BITS})"
    of = f"in_port={seat}"
    return [
        # No DHCP server.
        Flow(GUARD, 90, f"{of},udp,tp_src=67", "drop"),
        Flow(GUARD, 90, f"{of},udp,tp_dst=68", "drop"),
        *(Flow(GUARD, 80, f"{of},{UNTAGGED},{match}", call(FORWARD)) for match in passing),
        *(
            Flow(GUARD, 70, f"{of},{UNTAGGED},ip,dl_src={mac},nw_src={_address(ip)}", ask)
            for mac, ip in pairs
        ),
        *(_guard6(vif, of, ask) if ipv6_guard.speaks(vif) else []),
    ]


def _guard6(vif: Vif, of: str, ask: str) -> list[Flow]:
    """The same of IPv6, with neighbour discovery: what ipv6_guard.py says in nft's words."""
    pairs = [(mac, str(net).removesuffix("/128")) for mac, net in ipv6_guard.allowed(vif)]
    own = f"{of},{UNTAGGED}"
    reports = (131, 132, 143)
    heard = [
        *(
            f"icmp6,icmp_type=136,dl_src={mac},ipv6_src={ip},nd_target={told},nd_tll={link}"
            for mac, ip in pairs
            for other, told in pairs
            for link in (mac, _NO_LINK)
            if other == mac
        ),
        *(
            f"icmp6,icmp_type=135,dl_src={mac},ipv6_src={ip},nd_sll={link}"
            for mac, ip in pairs
            for link in (mac, _NO_LINK)
        ),
        *(f"icmp6,icmp_type=135,dl_src={mac},ipv6_src=::,nd_target={ip}" for mac, ip in pairs),
        *(f"icmp6,icmp_type={kind},dl_src={mac},ipv6_src=::" for kind in reports for mac, _ in pairs),
        *(
            f"icmp6,icmp_type={kind},dl_src={mac},ipv6_src={ip}"
            for kind in (*reports, 133)
            for mac, ip in pairs
        ),
        *(
            f"udp6,dl_src={mac},ipv6_src={ip},ipv6_dst={DHCPV6_SERVERS},tp_src=546,tp_dst=547"
            for mac, ip in pairs
        ),
    ]
    never = [
        *(f"icmp6,icmp_type={kind}" for kind in (134, 137)),
        "udp6,tp_src=547",
        "udp6,tp_dst=546",
    ]
    return [
        *(Flow(GUARD, 90, f"{of},{match}", "drop") for match in never),
        *(Flow(GUARD, 85, f"{own},{match}", call(FORWARD)) for match in dict.fromkeys(heard)),
        *(Flow(GUARD, 80, f"{of},icmp6,icmp_type={kind}", "drop") for kind in (135, 136)),
        *(Flow(GUARD, 70, f"{own},ipv6,dl_src={mac},ipv6_src={ip}", ask) for mac, ip in pairs),
    ]


def _dhcp_servers(vif: Vif) -> list[str]:
    four = [one.subnet for one in vif.addresses if one.subnet.ip_version == 4]
    return sorted({subnet.dhcp_address for subnet in four if subnet.dhcp_address})


def macs(vif: Vif) -> list[str]:
    six = {mac for mac, _ in ipv6_guard.allowed(vif)}
    return sorted({mac for mac, _ in allowed(vif)} | six | {vif.mac.lower()})


def network(tag: int, ports: Iterable[Guarded]) -> list[Flow]:
    """The way to these ports, all that are guarded on the network of that tag, and from them to the others.

    One whose MAC others may use too hears what is for them, as it would on a wire. So do the others, where
    the MAC is no guarded port's own: it may be a gateway's, or that of a guest on another host.
    """
    by_mac: dict[str, list[str]] = {}
    everyone, own = [], set()
    for port in ports:
        own.add(port.vif.mac.lower())
        everyone.append(_to(port))
        for mac in macs(port.vif):
            by_mac.setdefault(mac, []).append(_to(port))
    if not everyone:
        return []
    for mac in by_mac.keys() - own:
        by_mac[mac].append(call(REST))
    there, parts = f"{TAG}={tag}", count()
    ways = [(100, f"dl_dst={mac}", to) for mac, to in by_mac.items()]
    ways.append((50, _MULTICAST, [*everyone, call(REST)]))
    return [
        *(flow for priority, match, to in ways for flow in _to_all(there, priority, match, to, parts)),
        Flow(REST, 10, f"{there},{is_set(GUARDED)}", f"mod_vlan_vid:{tag},{_NO_PORT},NORMAL"),
    ]


def _to_all(there: str, priority: int, match: str, to: list[str], parts: Iterator[int]) -> Iterator[Flow]:
    """What fits goes all these ways. ``parts``: numbers that no other flow of the network has."""
    if len(to) > _AT_ONCE:
        some = [to[first : first + _AT_ONCE] for first in range(0, len(to), _AT_ONCE)]
        to = []
        for ways, number in zip(some, parts, strict=False):
            yield Flow(MANY, 10, f"{there},{PART}={number}", ",".join(ways))
            to.append(f"{load(number, PART)},{call(MANY)}")
    yield Flow(FORWARD, priority, f"{there},{match}", ",".join(to))


def _to(port: Guarded) -> str:
    if port.vif.security_groups is None:
        return f"output:{port.seat.number}"
    anew = put(0, INWARDS | UNTRACKED | ACCEPTED | MEMBER)
    return f"clone({_whose(port)},{anew},{call(COMING)})"


def _whose(port: Guarded) -> str:
    return f"{load(port.zone, ZONE)},{load(port.seat.number, SEAT)}"


def _address(network: str) -> str:
    return network.removesuffix("/32")
