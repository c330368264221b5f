"""Who reaches whom: guests, networks, the host, the outside."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from tests.system.host_network.lab import (
    COMES,
    INTERNET,
    INTERNET_HOST_SIDE,
    Guest,
    Lab,
    Service,
    bridge_ports,
    eventually,
    leaves_by,
    run,
    subnet,
)

from kilonova.config import Config, Network
from kilonova.network.host import names

pytestmark = pytest.mark.system


def service_in(guest: Guest) -> Service:
    return Service(guest.inside, "0.0.0.0")


@pytest.fixture
def host_service() -> Iterator[Service]:
    """Something that listens on every address of the host."""
    service = Service(lambda make: make(), "0.0.0.0")
    yield service
    service.close()


def placed(lab: Lab, number: int, **more: object) -> Guest:
    guest = lab.guest(number, **more)
    guest.set_address()
    return guest


def host_reaches(address: str, port: int, seconds: float = COMES) -> bool:
    try:
        socket.create_connection((address, port), timeout=seconds).close()
    except OSError:
        return False
    return True


def test_a_gateway_made_anew_is_reached_at_once(lab: Lab) -> None:
    """The guest goes on with the MAC that it knows, and asks again only after some seconds."""
    guest = placed(lab, 5)
    gateway = str(guest.vif.addresses[0].subnet.gateway_ip)
    ping = ("busybox", "ping", "-c", "1", "-W", "20", gateway)
    guest.run(*ping)
    for damage in (
        ("link", "del", names.gate(lab.network_id)),
        ("link", "del", guest.vif.bridge),
        ("netns", "del", names.namespace(lab.network_id)),
    ):
        run("ip", *damage)
        lab.host.repair()
        eventually(lambda: all(port["state"] == "forwarding" for port in bridge_ports(guest.vif)))
        guest.run(*ping)


def test_guests_of_a_network_reach_each_other(lab: Lab) -> None:
    one, two = placed(lab, 5), placed(lab, 6)
    service = service_in(two)
    assert one.reaches(two.ip, service.port, seconds=COMES) == one.ip
    service.close()


def test_a_guest_goes_out_with_the_hosts_address(lab: Lab, internet: Service) -> None:
    assert placed(lab, 5).reaches(INTERNET, internet.port, seconds=COMES) == INTERNET_HOST_SIDE


def test_nothing_leaves_with_a_guests_own_address(lab: Lab, internet: Service) -> None:
    guest = placed(lab, 5)
    assert guest.reaches(INTERNET, internet.port, seconds=COMES) == INTERNET_HOST_SIDE
    assert leaves_by(guest, names.guests_mac(lab.network_id), internet) == {INTERNET_HOST_SIDE}


def test_two_networks_with_the_same_addresses_go_out(lab: Lab, internet: Service) -> None:
    one, other = placed(lab, 5), placed(lab, 5, network_id=str(uuid4()))
    assert one.reaches(INTERNET, internet.port, seconds=COMES) == INTERNET_HOST_SIDE
    assert other.reaches(INTERNET, internet.port, seconds=COMES) == INTERNET_HOST_SIDE


def test_without_nat_nobody_goes_out(make_lab: Callable[..., Lab], internet: Service) -> None:
    lab = make_lab(Config(network=Network(nat=False)))
    guest = placed(lab, 5)
    assert guest.reaches(INTERNET, internet.port) is None
    service = service_in(guest)
    assert host_reaches(guest.ip, service.port)
    service.close()


def test_networks_do_not_reach_each_other(lab: Lab) -> None:
    one = placed(lab, 5)
    other = placed(lab, 5, network_id=str(uuid4()), of=subnet("10.90.0.0/24"))
    service = service_in(other)
    assert host_reaches(other.ip, service.port)
    assert one.reaches(other.ip, service.port) is None
    service.close()


def test_the_host_reaches_a_guest_and_the_outside_does_not(lab: Lab, internet: Service) -> None:
    guest = placed(lab, 5)
    service = service_in(guest)
    assert host_reaches(guest.ip, service.port)
    space = internet.space  # type: ignore[attr-defined]
    space.run("ip", "route", "add", lab.subnet.cidr, "via", INTERNET_HOST_SIDE)
    assert not space.inside(lambda: host_reaches(guest.ip, service.port, 1))
    service.close()


def test_a_guest_does_not_reach_the_host(lab: Lab, internet: Service, host_service: Service) -> None:
    guest = placed(lab, 5)
    transit = lab.host._plan(lab.network_id).transit.host  # type: ignore[union-attr]
    for address in (transit, INTERNET_HOST_SIDE):
        assert guest.reaches(address, host_service.port) is None


def test_nor_through_its_bridge(lab: Lab, internet: Service, host_service: Service) -> None:
    """Linux answers ARP for any of its addresses on any device; the bridge is a device of the host."""
    guest = lab.guest(5, port_security=False)
    guest.run("ip", "addr", "add", "10.80.0.5/24", "dev", "eth0")
    guest.run("ip", "route", "add", INTERNET_HOST_SIDE, "dev", "eth0")
    assert guest.reaches(INTERNET_HOST_SIDE, host_service.port) is None
    bridge_mac = json.loads(run("ip", "-j", "link", "show", guest.vif.bridge))[0]["address"]
    guest.run("ip", "neigh", "replace", INTERNET_HOST_SIDE, "lladdr", bridge_mac, "dev", "eth0")
    assert guest.reaches(INTERNET_HOST_SIDE, host_service.port) is None


def test_a_host_route_is_never_taken_over(lab: Lab, internet: Service) -> None:
    """The network has the addresses of one that the host is on: guests work, the host's route stays."""
    lab.subnet = subnet("203.0.113.0/25")
    before = run("ip", "route", "get", INTERNET)
    guest = placed(lab, 5)
    assert run("ip", "route", "get", INTERNET) == before
    assert names.transit(lab.network_id) not in run("ip", "route", "get", guest.ip)


def test_the_second_of_two_overlapping_networks_gets_the_route_when_the_first_goes(lab: Lab) -> None:
    one = placed(lab, 5)
    other = placed(lab, 5, network_id=str(uuid4()))
    assert names.transit(one.vif.network_id) in run("ip", "route", "get", one.ip)
    lab.host.unplug(one.vif.port_id)
    lab.host.repair()
    assert names.transit(other.vif.network_id) in run("ip", "route", "get", one.ip)


def test_no_gateway_no_way_out(lab: Lab, internet: Service) -> None:
    lab.subnet = subnet(gateway=False)
    guest = placed(lab, 5)
    assert guest.reaches(INTERNET, internet.port) is None
    assert names.transit(lab.network_id) not in run("ip", "-br", "link")
