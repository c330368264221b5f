"""Frames of IPv6, and guests that speak it."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv6Address, IPv6Network
from uuid import uuid4

from tests.system.host_network.lab import Guest, Lab, mac, make_vif

from kilonova.domain.addresses import eui64, link_local
from kilonova.domain.network import Vif, VifAddress, VifSubnet

CIDR = "2001:db8:80::/64"
DHCP = "2001:db8:80::2"
ALL_NODES, ALL_SERVERS = "ff02::1", "ff02::1:2"
ICMP, UDP, OPTIONS, FRAGMENT = 58, 17, 60, 44
ECHO, SOLICITATION, ADVERTISEMENT = 128, 135, 136
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, REDIRECT = 133, 134, 137


def subnet6(mode: str | None = "slaac", cidr: str = CIDR, **more: object) -> VifSubnet:
    base = IPv6Network(cidr).network_address
    return VifSubnet(
        id=str(uuid4()),
        cidr=cidr,
        ip_version=6,
        gateway_ip=str(base + 1),
        dhcp_address=str(base + 2) if mode else None,
        ipv6_ra_mode=mode,
        ipv6_address_mode=mode,
        **more,  # type: ignore[arg-type]
    )


def own(vif_mac: str, cidr: str = CIDR) -> str:
    return str(eui64(IPv6Network(cidr), vif_mac))


def dual_vif(lab: Lab, of: VifSubnet, number: int, ip: str | None = None, **more: object) -> Vif:
    """A port with an address of each IP version."""
    vif = make_vif(of=lab.subnet, number=number, network_id=lab.network_id, **more)
    six = VifAddress(ip=ip or own(vif.mac, of.cidr), subnet=of)
    fields = {name: getattr(vif, name) for name in vif.__struct_fields__}
    return Vif(**fields | {"addresses": [*vif.addresses, six]})


def six_of(guest: Guest) -> str:
    return guest.vif.addresses[1].ip


def lla(guest: Guest) -> str:
    return link_local(guest.vif.mac)


def group_mac(address: str) -> str:
    """Where a multicast address is sent to."""
    return "33:33:" + IPv6Address(address).packed[-4:].hex(":")


def ipv6(own_mac: str, source: str, target: str, kind: int, content: bytes, to: str | None = None) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(content), kind, 255)
    head += IPv6Address(source).packed + IPv6Address(target).packed
    return mac(to or group_mac(target)) + mac(own_mac) + b"\x86\xdd" + head + content


def checksummed(source: str, target: str, kind: int, content: bytes, offset: int) -> bytes:
    """The content with its checksum over the pseudo header too (RFC 8200, 8.1)."""
    pseudo = IPv6Address(source).packed + IPv6Address(target).packed
    whole = pseudo + struct.pack("!II", len(content), kind) + content
    whole += b"\0" * (len(whole) % 2)
    total = sum(struct.unpack(f"!{len(whole) // 2}H", whole))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return content[:offset] + struct.pack("!H", ~total & 0xFFFF) + content[offset + 2 :]


def icmp6(own_mac: str, source: str, target: str, kind: int, body: bytes, to: str | None = None) -> bytes:
    content = checksummed(source, target, ICMP, struct.pack("!BBH", kind, 0, 0) + body, 2)
    return ipv6(own_mac, source, target, ICMP, content, to)


def option(kind: int, link: str) -> bytes:
    return bytes([kind, 1]) + mac(link)


def solicitation(own_mac: str, source: str, asked: str, link: str | None = None) -> bytes:
    target = (
        "ff02::1:ff" + IPv6Address(asked).packed[-3:].hex()[:2] + ":" + IPv6Address(asked).packed[-2:].hex()
    )
    body = bytes(4) + IPv6Address(asked).packed + (option(1, link) if link else b"")
    return icmp6(own_mac, source, target, SOLICITATION, body)


def advertisement(own_mac: str, source: str, told: str, link: str | None, more: bytes = b"") -> bytes:
    body = b"\x20\0\0\0" + IPv6Address(told).packed + more + (option(2, link) if link else b"")
    return icmp6(own_mac, source, ALL_NODES, ADVERTISEMENT, body)


def router_advertisement(own_mac: str, source: str) -> bytes:
    return icmp6(own_mac, source, ALL_NODES, ROUTER_ADVERTISEMENT, b"\x40\0\x07\x08" + bytes(8))


def udp6(own_mac: str, source: str, target: str, ports: tuple[int, int], text: bytes = b"x") -> bytes:
    content = struct.pack("!HHHH", *ports, 8 + len(text), 0) + text
    return ipv6(own_mac, source, target, UDP, checksummed(source, target, UDP, content, 6))


def fragments(frame: bytes, number: int, at: int = 8) -> list[bytes]:
    """The frame's content in two fragments, the first of so many bytes (a multiple of 8); ``number`` is
    theirs alone."""
    ether, head, content = frame[:14], frame[14:54], frame[54:]
    kind = head[6]
    parts = []
    for offset, piece, more in ((0, content[:at], 1), (at, content[at:], 0)):
        body = struct.pack("!BBHI", kind, 0, offset | more, number) + piece
        parts.append(ether + head[:4] + struct.pack("!HBB", len(body), FRAGMENT, 255) + head[8:] + body)
    return parts


def behind_options(frame: bytes) -> bytes:
    """The frame with a header of options before its content, which hides it from who looks at one header."""
    ether, head, content = frame[:14], frame[14:54], frame[54:]
    body = bytes([head[6], 0, 1, 4, 0, 0, 0, 0]) + content
    return ether + head[:4] + struct.pack("!HBB", len(body), OPTIONS, 255) + head[8:] + body


def configures_itself(guest: Guest) -> None:
    """The kernel of the guest takes what routers say; the NIC comes up anew, so that it asks."""
    settings = "/proc/sys/net/ipv6/conf/eth0"

    def write() -> None:
        for name, value in {"accept_ra": "2", "autoconf": "1", "addr_gen_mode": "0"}.items():
            with open(f"{settings}/{name}", "w") as file:
                file.write(value)

    guest.inside(write)
    guest.run("ip", "link", "set", "eth0", "down")
    guest.run("ip", "link", "set", "eth0", "up")


def addresses(guest: Guest) -> list[str]:
    """Global ones that may be used."""
    shown = guest.run("ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "global", "-tentative")
    return [line.split()[3].partition("/")[0] for line in shown.splitlines()]


def asks_dhcp(guest: Guest, kind: int, options: bytes, tries: int = 5) -> dict[int, bytes]:
    """A DHCPv6 message to all servers; the options of the answer."""
    transaction = b"\x0a\x0b\x0c"
    client = struct.pack("!HHHH", 1, 10, 3, 1) + mac(guest.vif.mac)
    elapsed = struct.pack("!HHH", 8, 2, 0)

    def make() -> socket.socket:
        one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        one.bind((lla(guest), 546, 0, socket.if_nametoindex("eth0")))
        one.settimeout(2)
        return one

    with guest.inside(make) as asking:
        where = (ALL_SERVERS, 547, 0, guest.inside(lambda: socket.if_nametoindex("eth0")))
        for _ in range(tries):
            asking.sendto(bytes([kind]) + transaction + client + elapsed + options, where)
            try:
                answer = asking.recv(2048)
            except TimeoutError:
                continue
            return _options(answer[4:])
    raise AssertionError("nobody answers")


def _options(data: bytes) -> dict[int, bytes]:
    found = {}
    while data:
        kind, length = struct.unpack("!HH", data[:4])
        found[kind] = data[4 : 4 + length]
        data = data[4 + length :]
    return found
