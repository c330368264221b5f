"""IPv6 on a host, with every plug that carries it: guests are namespaces, kernel and switch the real ones."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv6Address

import pytest
from tests.openvswitch import installed
from tests.plugs import PlugLab, plug_lab
from tests.system.host_network import six
from tests.system.host_network.lab import COMES, MARK, Guest, eventually, mac, run, what_arrives
from tests.system.host_network.six import dual_vif, lla, six_of, subnet6
from tests.system.host_network.test_host_network_security import CLIENTS, WEB
from tests.system.host_network.test_host_network_spoofing import good

from kilonova.domain.network import AddressPair, NetworkState, PlugKind, PortSecurity
from kilonova.domain.security_groups import IPV6, Filter

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="changes the host's network"),
    pytest.mark.skipif(not installed(), reason="Open vSwitch is not installed"),
]

FILTERED: tuple[PlugKind, ...] = ("bridge", "ovs-hybrid", "ovs")
OTHER_MAC = "fa:16:3e:99:99:99"
OTHER = "2001:db8:80::77"


@pytest.fixture(params=FILTERED)
def lab(request: pytest.FixtureRequest) -> Iterator[PlugLab]:
    with plug_lab(request.param) as one:
        yield one


def two_guests(lab: PlugLab, **more: object) -> tuple[Guest, Guest]:
    """Two of one subnet, with addresses of both IP versions."""
    of = subnet6()
    guest, peer = (lab.plug(dual_vif(lab, of, number, **more)) for number in (5, 6))
    for one in (guest, peer):
        one.set_address()
        one.run("ip", "addr", "replace", f"{six_of(one)}/64", "dev", "eth0", "nodad")
    return guest, peer


def arrives(sender: Guest, receiver: Guest, frames: list[bytes], must: Sequence[bytes] = ()) -> list[bytes]:
    """Those that do, before one that every guest may send does; ``must`` have to."""
    own = sender.vif.mac
    last = six.icmp6(own, six_of(sender), six.ALL_NODES, six.ECHO, b"last")
    return what_arrives(sender, receiver, frames, last, quiet=0.2, must=must)


def bad_frames(own: str) -> dict[str, bytes]:
    """What a guest with this MAC may not send."""
    ip, link, all_ = six.own(own), six.link_local(own), six.ALL_NODES
    nonce = bytes([14, 1, *range(6)])
    return {
        "another MAC": six.icmp6(OTHER_MAC, ip, all_, six.ECHO, b""),
        "another IP": six.icmp6(own, OTHER, all_, six.ECHO, b""),
        "another's link-local address": six.icmp6(own, "fe80::1", all_, six.ECHO, b""),
        "no IP, and not to ask who has one": six.icmp6(own, "::", all_, six.ECHO, b""),
        "no IP, by UDP": six.udp6(own, "::", all_, (9, 9)),
        "a router's advertisement": six.router_advertisement(own, link),
        "a router's advertisement behind options": six.behind_options(six.router_advertisement(own, link)),
        "a redirect": six.icmp6(own, link, all_, six.REDIRECT, bytes(36)),
        "a DHCPv6 answer": six.udp6(own, link, all_, (547, 546)),
        "a DHCPv6 answer from another port": six.udp6(own, link, all_, (4000, 546)),
        "a DHCPv6 server's to anybody": six.udp6(own, link, all_, (547, 4000)),
        "that it has another's address": six.advertisement(own, ip, OTHER, own),
        "that its address is at another's MAC": six.advertisement(own, ip, ip, OTHER_MAC),
        "that, behind another option": six.advertisement(own, ip, ip, OTHER_MAC, more=nonce),
        "asking, at another's MAC": six.solicitation(own, ip, OTHER, OTHER_MAC),
        "asking whether another's address is free": six.solicitation(own, "::", OTHER),
        "asking for routers at another's MAC": six.icmp6(
            own, link, "ff02::2", six.ROUTER_SOLICITATION, bytes(4) + six.option(1, OTHER_MAC)
        ),
        "a VLAN tag": _tagged(six.icmp6(own, ip, all_, six.ECHO, b"")),
        "an unknown protocol": mac(six.group_mac(all_)) + mac(own) + MARK + bytes(50),
    }


def _tagged(frame: bytes) -> bytes:
    return frame[:12] + b"\x81\x00\x00\x05" + frame[12:]


def good_frames(own: str) -> list[bytes]:
    ip, link, all_ = six.own(own), six.link_local(own), six.ALL_NODES
    return [
        six.icmp6(own, ip, all_, six.ECHO, b"x"),
        six.icmp6(own, link, all_, six.ECHO, b"x"),
        six.udp6(own, ip, all_, (9, 9)),
        six.advertisement(own, ip, ip, own),
        six.advertisement(own, link, link, own),
        six.advertisement(own, ip, ip, None),
        six.solicitation(own, ip, OTHER, own),
        six.solicitation(own, "::", ip),
        six.solicitation(own, "::", link),
        six.icmp6(own, "::", "ff02::16", 143, bytes(4)),
        six.icmp6(own, link, "ff02::2", six.ROUTER_SOLICITATION, bytes(4) + six.option(1, own)),
        six.udp6(own, link, six.ALL_SERVERS, (546, 547)),
    ]


def test_a_guest_that_poses_as_another_is_not_heard(lab: PlugLab) -> None:
    guest, peer = two_guests(lab)
    bad = bad_frames(guest.vif.mac)
    if lab.kind == "ovs":
        del bad["asking for routers at another's MAC"]  # the switch does not read options of that message
    arrived = arrives(guest, peer, list(bad.values()))
    assert [what for what, frame in bad.items() if frame in arrived] == []
    fine = good_frames(guest.vif.mac)
    assert arrives(guest, peer, fine, fine) == fine
    assert lab.host.repair() == [] or lab.host.repair() == []


def test_what_comes_in_pieces_is_looked_at_as_a_whole(lab: PlugLab) -> None:
    """The first piece shows no kind of message, or not what it says."""
    guest, peer = two_guests(lab, security_groups=[WEB])
    everything = [Filter(direction=way, ethertype=IPV6) for way in ("ingress", "egress")]
    ports = [
        PortSecurity(port_id=one.vif.port_id, port_security=True, security_groups=[WEB])
        for one in (guest, peer)
    ]
    lab.host.refresh(NetworkState(ports=ports, groups={WEB: everything}), time.monotonic())
    own, link, ip = guest.vif.mac, lla(guest), six_of(guest)
    hidden = [
        six.router_advertisement(own, link),
        six.advertisement(own, ip, OTHER, own),
        six.udp6(own, link, six.ALL_NODES, (547, 546)),
    ]
    in_pieces = [
        six.fragments(six.behind_options(frame), number * 2 + at // 16, at)
        for number, frame in enumerate(hidden)
        for at in (8, 16)
    ]
    fine = six.fragments(six.udp6(own, ip, six.ALL_NODES, (9, 9), b"in two pieces"), 99, 16)
    with peer.raw() as into:
        assert arrives(guest, peer, [piece for pieces in in_pieces for piece in pieces]) == []
        arrives(guest, peer, fine)
        into.settimeout(0.2)
        seen = []
        with suppress(TimeoutError):
            while True:
                seen.append(into.recv(2048))
    sent = [frame for frame in seen if frame[6:12] == mac(own) and frame[12:14] == b"\x86\xdd"]
    kinds = {(frame[54], frame[62:78]) for frame in sent if frame[20] == six.ICMP}
    assert six.ROUTER_ADVERTISEMENT not in {kind for kind, _ in kinds}
    assert (six.ADVERTISEMENT, IPv6Address(OTHER).packed) not in kinds
    if lab.kind != "ovs":  # the switch in user space takes no fragments below 1280 octets
        assert b"in two pieces"[-5:] in b"".join(sent)


def test_allowed_address_pairs(lab: PlugLab) -> None:
    pairs = [
        AddressPair(ip_address="2001:db8:80:0:8000::/65"),
        AddressPair(ip_address="2001:db8:80:0:8000::1"),  # within the one above
        AddressPair(ip_address="2001:db8:99::1", mac_address=OTHER_MAC),
        AddressPair(ip_address="10.80.0.99"),
    ]
    guest, peer = two_guests(lab, allowed_address_pairs=pairs)
    own, within = guest.vif.mac, "2001:db8:80:0:9000::5"
    passing = [
        six.icmp6(own, within, six.ALL_NODES, six.ECHO, b""),
        six.advertisement(own, within, within, own),
        six.icmp6(OTHER_MAC, "2001:db8:99::1", six.ALL_NODES, six.ECHO, b""),
        six.advertisement(OTHER_MAC, "2001:db8:99::1", "2001:db8:99::1", OTHER_MAC),
    ]
    refused = [
        six.icmp6(own, "2001:db8:99::1", six.ALL_NODES, six.ECHO, b""),
        six.icmp6(OTHER_MAC, within, six.ALL_NODES, six.ECHO, b""),
        six.icmp6(own, OTHER, six.ALL_NODES, six.ECHO, b""),
    ]
    assert arrives(guest, peer, passing + refused, passing) == passing


def test_without_port_security_all_passes(lab: PlugLab) -> None:
    guest, peer = two_guests(lab, port_security=False)
    bad = bad_frames(guest.vif.mac)
    if lab.kind != "bridge":
        del bad["a VLAN tag"]  # the switch's ports have none
    frames = list(bad.values())
    assert arrives(guest, peer, frames, frames) == frames


def test_a_port_without_an_address_of_it_speaks_no_ipv6(lab: PlugLab) -> None:
    guest, peer = lab.guest(5), lab.plug(dual_vif(lab, subnet6(), 6))
    own = guest.vif.mac
    frame = six.icmp6(own, six.link_local(own), six.ALL_NODES, six.ECHO, b"")
    assert what_arrives(guest, peer, [frame], good(guest), quiet=0.2) == []


def test_security_groups(lab: PlugLab) -> None:
    web, client = two_guests(lab, security_groups=[])
    service = web.inside(lambda: socket.create_server(("::", 0), family=socket.AF_INET6))
    to = (six_of(web), service.getsockname()[1])

    def tell(*ingress: Filter, members: tuple[str, ...] = ()) -> None:
        out = [Filter(direction="egress", ethertype=IPV6)]
        ports = {web: WEB, client: CLIENTS}
        state = NetworkState(
            ports=[
                PortSecurity(port_id=guest.vif.port_id, port_security=True, security_groups=[group])
                for guest, group in ports.items()
            ],
            groups={WEB: [*out, *ingress], CLIENTS: out},
            members={CLIENTS: list(members)},
        )
        lab.host.refresh(state, time.monotonic())

    def tcp(**more: str) -> Filter:
        port = to[1]
        return Filter(direction="ingress", ethertype=IPV6, protocol=6, port_min=port, port_max=port, **more)

    def connects() -> bool:
        def connect() -> bool:
            try:
                with socket.create_connection(to, timeout=0.5):
                    return True
            except OSError:
                return False

        return client.inside(connect)

    def pings() -> bool:
        def ping() -> bool:
            with socket.socket(socket.AF_INET6, socket.SOCK_RAW, six.ICMP) as one:
                one.settimeout(0.5)
                one.sendto(bytes([six.ECHO, 0, 0, 0, 0, 1, 0, 1]), (to[0], 0))
                with suppress(TimeoutError):
                    while True:
                        if one.recv(100)[0] == six.ECHO + 1:
                            return True
            return False

        return client.inside(ping)

    tell(Filter(direction="ingress", ethertype=IPV6, protocol=58, port_min=128))
    eventually(pings, 20)
    assert not connects()
    tell(tcp())
    assert eventually(connects)
    assert not pings()
    tell(tcp(remote_prefix="2001:db8:81::/64"))
    assert not connects()
    tell(tcp(remote_prefix="2001:db8:80::/48"))
    assert eventually(connects)
    tell(tcp(remote_group=CLIENTS), members=(client.ip,))
    assert not connects()
    tell(tcp(remote_group=CLIENTS), members=(client.ip, six_of(client)))
    with service, client.inside(lambda: socket.create_connection(to, timeout=COMES)) as one:
        service.settimeout(COMES)
        others = [service.accept()]
        while others[-1][1][:2] != one.getsockname()[:2]:
            others.append(service.accept())
        other = others[-1][0]
        one.settimeout(COMES)
        other.sendall(b"x")
        assert one.recv(1) == b"x"
        tell()
        one.settimeout(1)
        other.sendall(b"x")
        with pytest.raises(TimeoutError):
            one.recv(1)  # what answers passes no more, either
        for other, _ in others:
            other.close()


@pytest.mark.parametrize("mode", ["slaac", "dhcpv6-stateless"])
def test_guests_give_themselves_their_addresses(lab: PlugLab, mode: str) -> None:
    of = subnet6(mode, dns_nameservers=["2001:db8::53", "2001:db8::54"])
    guest, peer = (lab.plug(dual_vif(lab, of, number, security_groups=[])) for number in (5, 6))
    for one in (guest, peer):
        six.configures_itself(one)
    for one in (guest, peer):
        eventually(lambda one=one: six.addresses(one) == [six_of(one)], 20)  # type: ignore[misc]
    assert guest.run("ip", "-6", "route", "show", "default") == "", "there is no router"
    if mode == "dhcpv6-stateless":
        told = six.asks_dhcp(guest, 11, struct.pack("!HHH", 6, 2, 23))
        servers = told[23]
        found = [str(IPv6Address(servers[at : at + 16])) for at in range(0, len(servers), 16)]
        assert found == of.dns_nameservers
    lab.restart()
    assert lab.host.repair() == [] or lab.host.repair() == []


def test_addresses_are_given_out(lab: PlugLab) -> None:
    of = subnet6("dhcpv6-stateful")
    first = dual_vif(lab, of, 5, "2001:db8:80::15")
    guest = lab.plug(first)
    eventually(lambda: "fe80" in guest.run("ip", "-6", "-o", "addr", "show", "-tentative"))

    def asked(who: Guest) -> str:
        wants = struct.pack("!HHIII", 3, 12, 1, 0, 0) + struct.pack("!HH", 14, 0)  # IA_NA, rapid commit
        answer = six.asks_dhcp(who, 1, wants)[3]
        return str(IPv6Address(answer[16:32]))

    assert asked(guest) == "2001:db8:80::15"
    lab.plug(dual_vif(lab, of, 7, "2001:db8:80::17"))
    lab.host.unplug(first.port_id)
    other = lab.plug(dual_vif(lab, of, 6, "2001:db8:80::15"))
    eventually(lambda: "fe80" in other.run("ip", "-6", "-o", "addr", "show", "-tentative"))
    assert asked(other) == "2001:db8:80::15", "the address is another's now"


def test_what_others_take_away_is_mended(lab: PlugLab) -> None:
    guest = lab.plug(dual_vif(lab, subnet6(), 5))
    lab.host.repair()
    assert lab.host.repair() == []
    space = f"kn-{guest.vif.network_id}"
    run("ip", "netns", "exec", space, "ip", "-6", "addr", "flush", "dev", "guests", "scope", "global")
    assert any("guests" in line for line in lab.host.repair())
    assert lab.host.repair() == [] or lab.host.repair() == []
