"""What a guest may send, and what it may not."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from tests.system.host_network.lab import BROADCAST, MARK, Guest, Lab, arp, ipv4, mac, run, what_arrives

from kilonova.domain.network import AddressPair

pytestmark = pytest.mark.system

OTHER_MAC = "fa:16:3e:99:99:99"
IP, PEER, OTHER_IP = "10.80.0.5", "10.80.0.6", "10.80.0.77"
ROUTER_ADVERTISEMENT = (
    b"\x60\0\0\0\0\x10\x3a\xff"
    + IPv6Address("fe80::1").packed
    + IPv6Address("ff02::1").packed
    + b"\x86\0\0\0\x40\0\xff\xff"
    + bytes(8)
)
DHCP_ANSWER = (67, 68)


@pytest.fixture
def peer(lab: Lab) -> Guest:
    return lab.guest(6)


def good(guest: Guest) -> bytes:
    """A frame that every guest may send."""
    return ipv4((guest.vif.mac, BROADCAST), guest.ip, PEER, text=b"good")


def bad_frames(own: str) -> dict[str, bytes]:
    return {
        "another MAC": ipv4((OTHER_MAC, BROADCAST), IP, PEER),
        "another IP": ipv4((own, BROADCAST), OTHER_IP, PEER),
        "the gateway's IP": ipv4((own, BROADCAST), "10.80.0.1", PEER),
        "no IP, and not to ask for DHCP": ipv4((own, BROADCAST), "0.0.0.0", PEER),
        "ARP for another IP": arp(own, (own, OTHER_IP), PEER),
        "ARP answer for the gateway": arp(own, (own, "10.80.0.1"), PEER, operation=2),
        "ARP with another MAC inside": arp(own, (OTHER_MAC, IP), PEER),
        "a DHCP answer": ipv4((own, BROADCAST), IP, "255.255.255.255", ports=DHCP_ANSWER),
        "a DHCP answer from another port": ipv4((own, BROADCAST), IP, PEER, ports=(4000, 68)),
        "an IPv6 router's advertisement": mac("33:33:00:00:00:01")
        + mac(own)
        + b"\x86\xdd"
        + ROUTER_ADVERTISEMENT,
        "a VLAN tag": mac(BROADCAST) + mac(own) + b"\x81\x00\x00\x05" + good_payload(own),
        "an unknown protocol": mac(BROADCAST) + mac(own) + MARK + bytes(50),
    }


def good_payload(own: str) -> bytes:
    return ipv4((own, BROADCAST), IP, PEER)[12:]


def test_dropped(lab: Lab, peer: Guest) -> None:
    guest = lab.guest(5)
    bad = bad_frames(guest.vif.mac)
    arrived = what_arrives(guest, peer, list(bad.values()), good(guest))
    assert [what for what, frame in bad.items() if frame in arrived] == []


def odd_frames(own: str) -> dict[str, bytes]:
    """What a bridge may treat apart, and what is nearly right."""
    spoofed = arp(own, (own, "10.80.0.1"), PEER, operation=2)
    fields = {
        "hardware": (14, b"\x00\x06"),  # which Linux takes as well
        "protocol": (16, b"\x86\xdd"),
        "lengths": (18, b"\x08\x04"),
    }
    odd = {
        f"ARP of another {what}": spoofed[:at] + value + spoofed[at + 2 :]
        for what, (at, value) in fields.items()
    }
    head = mac(BROADCAST) + mac(own)
    return odd | {
        "ARP that ends early": spoofed[:30],
        "RARP": head + b"\x80\x35" + spoofed[14:],
        "two VLAN tags": head + b"\x88\xa8\x00\x05\x81\x00\x00\x06" + good_payload(own),
        "a VLAN tag of nothing but priority": head + b"\x81\x00\xe0\x00" + good_payload(own),
        "spanning tree": mac("01:80:c2:00:00:00") + mac(own) + b"\x00\x26\x42\x42\x03" + bytes(43),
        "LLDP": mac("01:80:c2:00:00:0e") + mac(own) + b"\x88\xcc" + bytes(46),
        "PPPoE": head + b"\x88\x63" + bytes(46),
        "a fragment of another's": fragment(ipv4((own, BROADCAST), OTHER_IP, PEER)),
    }


def fragment(frame: bytes) -> bytes:
    """The same as a later part of a datagram. (Its checksum is wrong: no rule looks at that.)"""
    return frame[:20] + b"\x00\x04" + frame[22:]


def test_oddities_are_dropped(lab: Lab, peer: Guest) -> None:
    guest = lab.guest(5)
    odd = odd_frames(guest.vif.mac)
    arrived = what_arrives(guest, peer, list(odd.values()), good(guest))
    assert [what for what, frame in odd.items() if frame in arrived] == []


def test_passed(lab: Lab, peer: Guest) -> None:
    guest = lab.guest(5)
    own = guest.vif.mac
    frames = [
        good(guest),
        arp(own, (own, IP), PEER),
        arp(own, (own, "0.0.0.0"), IP),  # a probe, RFC 5227
        ipv4((own, BROADCAST), "0.0.0.0", "255.255.255.255", ports=(68, 67)),
    ]
    assert what_arrives(guest, peer, frames, ipv4((own, BROADCAST), IP, PEER, text=b"last")) == frames


def test_without_port_security_all_passes(lab: Lab, peer: Guest) -> None:
    guest = lab.guest(5, port_security=False)
    frames = list(bad_frames(guest.vif.mac).values())
    assert what_arrives(guest, peer, frames, good(guest)) == frames


def test_allowed_address_pairs(lab: Lab, peer: Guest) -> None:
    guest = lab.guest(
        5,
        allowed_address_pairs=[
            AddressPair(ip_address="10.80.0.64/26"),
            AddressPair(ip_address="10.80.0.70"),  # within the one above
            AddressPair(ip_address="10.80.0.200", mac_address=OTHER_MAC),
            AddressPair(ip_address="2001:db8::1"),
        ],
    )
    own = guest.vif.mac
    allowed = [
        ipv4((own, BROADCAST), OTHER_IP, PEER),
        arp(own, (own, OTHER_IP), PEER),
        ipv4((OTHER_MAC, BROADCAST), "10.80.0.200", PEER),
        arp(OTHER_MAC, (OTHER_MAC, "10.80.0.200"), PEER),
    ]
    refused = [
        ipv4((own, BROADCAST), "10.80.0.200", PEER),
        ipv4((OTHER_MAC, BROADCAST), IP, PEER),
        ipv4((own, BROADCAST), "10.80.0.128", PEER),
    ]
    assert what_arrives(guest, peer, allowed + refused, good(guest)) == allowed


@pytest.mark.parametrize("prefix", ["0.0.0.0/0", "0.0.0.0/1", "0.0.0.0"])
def test_pairs_that_hold_the_address_of_nobody(lab: Lab, peer: Guest, prefix: str) -> None:
    """An ARP probe's sender is allowed anyway: nft takes nothing twice."""
    guest = lab.guest(5, allowed_address_pairs=[AddressPair(ip_address=prefix)])
    own = guest.vif.mac
    probe, other = arp(own, (own, "0.0.0.0"), PEER), ipv4((own, BROADCAST), OTHER_IP, PEER)
    passing = [probe, other] if prefix != "0.0.0.0" else [probe]
    assert what_arrives(guest, peer, [probe, other], good(guest)) == passing
    assert lab.host.repair() == []


def test_plugged_again_the_new_rules_hold(lab: Lab, peer: Guest) -> None:
    guest = lab.guest(5, port_security=False)
    spoofed = ipv4((guest.vif.mac, BROADCAST), OTHER_IP, PEER)
    fields = {f: getattr(guest.vif, f) for f in guest.vif.__struct_fields__}
    lab.host.plug(type(guest.vif)(**fields | {"port_security": True}))
    assert what_arrives(guest, peer, [spoofed], good(guest)) == []
    lab.host.plug(guest.vif)
    assert what_arrives(guest, peer, [spoofed], good(guest)) == [spoofed]


@pytest.mark.parametrize("family", ["bridge", "inet"])
def test_flushed_rules_come_back(lab: Lab, peer: Guest, family: str) -> None:
    guest = lab.guest(5)
    lab.host.repair()
    assert lab.host.repair() == []
    table = next(
        line.split()[1:3] for line in run("nft", "list", "tables").splitlines() if f" {family} " in line
    )
    run("nft", "flush", "table", *table)
    assert lab.host.repair() == [f"firewall rules of {' '.join(table)} were not as they should be"]
    run("nft", "delete", "table", *table)
    assert lab.host.repair() == [f"firewall table {' '.join(table)} was missing"]
    lab.host.repair()
    assert lab.host.repair() == []
    spoofed = ipv4((guest.vif.mac, BROADCAST), OTHER_IP, PEER)
    assert what_arrives(guest, peer, [spoofed], good(guest)) == []
