"""Whose a connection is: who asked is answered, and neither who had the address before nor who borrows it."""

from __future__ import annotations

import socket
import time
from uuid import uuid4

import msgspec
import pytest
from tests.system.host_network.lab import COMES, Guest, Lab, arp, eventually, ipv4, what_arrives
from tests.system.host_network.test_host_network_security import CLIENTS, OUT, Two, passes, tcp, two

from kilonova.domain.network import AddressPair, NetworkState, PortSecurity, VifAddress
from kilonova.domain.security_groups import IPV4, Filter
from kilonova.network.host import tracked

pytestmark = pytest.mark.system

__all__ = ["two"]

IN = Filter(direction="ingress", ethertype=IPV4)
OPEN, CLOSED = "44444444-0000-4000-8000-000000000000", "55555555-0000-4000-8000-000000000000"


def tell(lab: Lab, groups: dict[Guest, str], pairs: dict[Guest, list[AddressPair]] | None = None) -> None:
    """OPEN lets all pass, CLOSED lets out."""
    ports = [
        PortSecurity(
            port_id=guest.vif.port_id,
            port_security=True,
            security_groups=[group],
            allowed_address_pairs=(pairs or {}).get(guest, []),
        )
        for guest, group in groups.items()
    ]
    lab.host.refresh(NetworkState(ports=ports, groups={OPEN: [IN, OUT], CLOSED: [OUT]}), time.monotonic())


def udp(guest: Guest, port: int) -> socket.socket:
    def make() -> socket.socket:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.bind(("0.0.0.0", port))
        return one

    return guest.inside(make)


def hears(one: socket.socket, seconds: float = COMES) -> bool:
    one.settimeout(seconds)
    try:
        return bool(one.recv(9))
    except TimeoutError:
        return False


def with_address(lab: Lab, address: str) -> list[tracked.Connection]:
    return list(tracked.connections({lab.host._records.zone(lab.network_id)}, {address}))


def test_the_next_holder_of_an_address_inherits_nothing(lab: Lab) -> None:
    first, other = lab.guest(5, security_groups=[]), lab.guest(6, security_groups=[])
    for guest in (first, other):
        guest.set_address()
    tell(lab, {first: CLOSED, other: OPEN})
    with udp(first, 53) as here, udp(other, 4000) as there:
        here.sendto(b"ask", (other.ip, 4000))
        assert hears(there)
        there.sendto(b"answer", (first.ip, 53))
        assert hears(here)
        assert with_address(lab, first.ip)
        lab.host.unplug(first.vif.port_id)
        assert with_address(lab, first.ip) == []
        first.close()
        second = lab.guest(5, security_groups=[])
        second.set_address()
        tell(lab, {second: CLOSED})
        with udp(second, 53) as now:
            there.sendto(b"answer", (second.ip, 53))
            assert not hears(now, 0.5)
        with udp(second, 54) as now:
            now.sendto(b"ask", (other.ip, 4000))
            assert hears(there), "it may ask for itself"
            there.sendto(b"answer", (second.ip, 54))
            assert hears(now)


def test_not_even_of_who_could_not_be_ended(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill -9 of who gives an address up: what is tracked is still there."""
    first, other, second = (lab.guest(number, security_groups=[]) for number in (5, 6, 7))
    for guest in (first, other):
        guest.set_address()
    tell(lab, {first: CLOSED, other: OPEN, second: CLOSED})
    with udp(first, 53) as here, udp(other, 4000) as there:
        here.sendto(b"ask", (other.ip, 4000))
        assert hears(there)
        there.sendto(b"answer", (first.ip, 53))
        assert hears(here)
        monkeypatch.setattr(tracked, "end", lambda some: 0)
        addresses = {
            first: VifAddress(ip="10.80.0.9", subnet=lab.subnet),
            second: VifAddress(ip=first.ip, subnet=lab.subnet),
        }
        for guest, address in addresses.items():
            lab.host.plug(msgspec.structs.replace(guest.vif, addresses=[address]))
        first.run("ip", "addr", "flush", "dev", "eth0")
        second.run("ip", "addr", "add", f"{first.ip}/24", "dev", "eth0")
        other.run("ip", "neigh", "flush", "dev", "eth0")
        assert with_address(lab, first.ip)
        with udp(second, 53) as now:
            there.sendto(b"answer", (first.ip, 53))
            assert not hears(now, 0.5)


def test_an_address_that_is_given_up_takes_its_connections_with_it(lab: Lab) -> None:
    guest, other = lab.guest(5, security_groups=[]), lab.guest(6, security_groups=[])
    for one in (guest, other):
        one.set_address()
    tell(lab, {guest: OPEN, other: OPEN})
    with udp(guest, 53) as here, udp(other, 4000) as there:
        here.sendto(b"ask", (other.ip, 4000))
        assert hears(there)
    assert with_address(lab, guest.ip)
    moved = msgspec.structs.replace(guest.vif, addresses=[VifAddress(ip="10.80.0.9", subnet=lab.subnet)])
    lab.host.plug(moved)
    assert with_address(lab, guest.ip) == []


@pytest.mark.parametrize("how", ["no port security", "a range of addresses"])
def test_who_may_use_others_addresses_opens_no_closed_port(lab: Lab, how: str) -> None:
    closed, other = (lab.guest(number, security_groups=[]) for number in (5, 6))
    forger = lab.guest(7, security_groups=[], port_security=how != "no port security")
    groups = {closed: CLOSED, other: OPEN}
    if how == "no port security":
        tell(lab, groups)
    else:
        tell(lab, groups | {forger: OPEN}, {forger: [AddressPair(ip_address="10.80.0.0/24")]})
    own = forger.vif.mac
    asks = ipv4((own, other.vif.mac), closed.ip, other.ip, ports=(22, 5000))
    answers = ipv4((own, closed.vif.mac), other.ip, closed.ip, ports=(5000, 22))
    known = arp(own, (own, forger.ip), closed.ip)
    assert what_arrives(forger, other, [asks], known) == [asks]
    assert with_address(lab, closed.ip)
    assert what_arrives(forger, closed, [answers], known) == []


def test_a_connection_by_an_address_of_others_ends_with_its_rule(two: Two) -> None:
    """One that the port may use, such as of a service that moves."""
    address, client = "10.80.0.77", two.client
    pair = [AddressPair(ip_address=address)]
    port = PortSecurity(
        port_id=client.vif.port_id, port_security=True, security_groups=[CLIENTS], allowed_address_pairs=pair
    )

    def tell_out(*out: Filter) -> None:
        state = NetworkState(ports=[port], groups={CLIENTS: list(out)})
        two.lab.host.refresh(state, time.monotonic())

    two.tell(tcp(5001))
    tell_out(OUT)
    client.run("ip", "addr", "add", f"{address}/24", "dev", "eth0")
    with two.web.inside(lambda: socket.create_server(("0.0.0.0", 5001))) as server:
        to, source = (two.web.ip, 5001), (address, 0)
        with client.inside(lambda: socket.create_connection(to, COMES, source)) as one:
            web, _ = server.accept()
            with web:
                assert passes(one, web)
                tell_out(OUT, tcp(7))
                assert passes(web, one)
                tell_out()
                assert not passes(web, one, 3)


def test_asking_for_dhcp_is_no_way_out(lab: Lab) -> None:
    """Of whom nothing goes out: to the subnet's server, and to all, and to nobody else."""
    guest, other, third = (lab.guest(number, security_groups=[]) for number in (5, 6, 7))
    tell(lab, {other: OPEN})
    assert third.dhcp(lab.folder)["ip"] == third.ip
    guest.set_address()
    own = guest.vif.mac
    to_one = [
        ipv4((own, other.vif.mac), source, other.ip, ports=(68, 67)) for source in (guest.ip, "0.0.0.0")
    ]
    known = arp(own, (own, guest.ip), other.ip)
    assert what_arrives(guest, other, to_one, known) == []
    with udp(guest, 68) as asking:
        asking.sendto(b"renew", (str(lab.subnet.dhcp_address), 67))

    def asked() -> bool:
        packets = [one.packet for one in with_address(lab, str(lab.subnet.dhcp_address))]
        return any(packet.port == 67 and packet.source == guest.ip for packet in packets)

    assert eventually(asked)


def test_connections_of_other_zones_are_not_read(lab: Lab) -> None:
    guest, other = lab.guest(5), lab.guest(6)
    elsewhere = lab.guest(5, network_id=str(uuid4()))
    for one in (guest, other):
        one.set_address()
    with udp(guest, 53) as here:
        here.sendto(b"ask", (other.ip, 4000))
    zone_of = lab.host._records.zone
    here_, there = zone_of(lab.network_id), zone_of(elsewhere.vif.network_id)
    found = [one for one in tracked.connections({here_, there}) if one.packet.port == 4000]
    assert [(one.zone, one.packet.source, one.answers_to) for one in found] == [(here_, guest.ip, guest.ip)]
    assert found == [one for one in tracked.connections() if one.packet.port == 4000]
    many = set(range(here_ + 1, here_ + 20))
    assert [one for one in tracked.connections(many) if one.packet.port == 4000] == []
    assert tracked.end(found) == 1
    assert tracked.end(found) == 0
