"""NICs of a real guest that come and go while its system runs: what that system sees of it.

One guest, which boots twice; the tests run in this order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.running import until
from tests.system.cloud import SERVERS, Cloud, Guest, openstack, real_cloud

pytestmark = pytest.mark.system

PORTS = "/networking/v2.0/ports"
SEEN = 60.0
"""Seconds until the guest has noticed."""


@dataclass
class Machine:
    cloud: Cloud
    guest: Guest
    other: str
    """A network that the guest is not on at first."""

    def attach(self, **asked: Any) -> Any:
        path = f"{SERVERS}/{self.guest.id}/os-interface"
        status, answer = self.cloud.up.ask("POST", path, {"interfaceAttachment": asked})
        assert status == 200, answer
        return answer["interfaceAttachment"]

    def detach(self, port_id: str) -> None:
        path = f"{SERVERS}/{self.guest.id}/os-interface/{port_id}"
        assert self.cloud.up.ask("DELETE", path)[0] == 202
        self.settles()

    def settles(self) -> None:
        until(lambda: self.cloud.up.unexplained() == [], 60, "the operation to end")

    def nics(self) -> list[str]:
        """The MACs that its system sees."""
        return sorted(self._run("cat /sys/class/net/eth*/address 2> /dev/null || true").split())

    def has(self, address: str) -> bool:
        return f" {address}/24" in self._run("ip -4 -o addr")

    def _run(self, command: str) -> str:
        """A system that has just booted may write its keys anew in this moment."""

        def answer() -> list[str]:
            with suppress(AssertionError):
                return [self.guest.run(command)]
            return []

        return str(until(answer, SEEN, f"an answer to {command}")[0])

    def asks_again_and_has(self, address: str) -> bool:
        """The host is told of a change after the API's answer: who asks at once may get what was before."""
        again = "kill $(cat /run/udhcpc.eth1.pid); ip addr flush dev eth1; /sbin/dhcp eth1"
        self.guest.run(f"sudo sh -c '{again}'", within=60)
        return self.has(address)

    def all_is_well(self) -> None:
        assert self.cloud.oracle.unexplained() == []


@pytest.fixture(scope="module")
def machine(guest_image: Path) -> Iterator[Machine]:
    with real_cloud(guest_image) as cloud:
        cloud.key("k")
        networks = [cloud.up.network("10.91.3.0/24"), cloud.up.network("10.91.4.0/24")]
        guest = cloud.boot("roaming", networks[:1], "k")
        guest.awaits_boot()
        yield Machine(cloud, guest, networks[1])


def test_a_nic_comes_with_its_address_and_goes(machine: Machine) -> None:
    before = machine.nics()
    nic = machine.attach(net_id=machine.other, tag="second")
    until(lambda: machine.nics() == sorted([*before, nic["mac_addr"]]), SEEN, "the guest to see it")
    address = nic["fixed_ips"][0]["ip_address"]
    until(lambda: machine.has(address), SEEN, "its address by DHCP")
    told = json.loads(
        machine.guest.run("wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json")
    )
    (device,) = told["devices"]
    assert (device["mac"], device["tags"], device["bus"]) == (nic["mac_addr"], ["second"], "pci")
    assert machine.guest.run("readlink -f /sys/class/net/eth1/device").split("/")[-2] == device["address"]
    links = json.loads(
        machine.guest.run("wget -q -O - http://169.254.169.254/openstack/latest/network_data.json")
    )["links"]
    assert sorted(link["ethernet_mac_address"] for link in links) == machine.nics()
    machine.detach(nic["port_id"])
    assert machine.nics() == before
    machine.all_is_well()


def test_a_port_that_is_deleted_takes_its_nic_along(machine: Machine) -> None:
    before = machine.nics()
    nic = machine.attach(net_id=machine.other)
    until(lambda: len(machine.nics()) == 2, SEEN, "the guest to see it")
    assert machine.cloud.up.ask("DELETE", f"{PORTS}/{nic['port_id']}")[0] == 204
    until(lambda: machine.nics() == before, SEEN, "the guest to lose it")
    machine.all_is_well()


def test_a_link_that_is_pulled_and_an_address_that_comes(machine: Machine) -> None:
    up = machine.cloud.up
    nic = machine.attach(net_id=machine.other)
    port = f"{PORTS}/{nic['port_id']}"
    carrier = "cat /sys/class/net/eth1/carrier"
    until(lambda: machine.has(nic["fixed_ips"][0]["ip_address"]), SEEN, "its address by DHCP")
    for state, shown in ((False, "0"), (True, "1")):
        assert up.ask("PUT", port, {"port": {"admin_state_up": state}})[0] == 200
        until(lambda shown=shown: machine.guest.run(carrier) == shown, SEEN, f"carrier {shown}")
    address = "10.91.4.77"
    change = {"port": {"fixed_ips": [{"ip_address": address}]}}
    assert up.ask("PUT", port, change)[0] == 200
    until(lambda: machine.asks_again_and_has(address), SEEN, "the new address by DHCP")
    ping = "ping -c 1 -W 5 -I eth1 10.91.4.1 > /dev/null && echo comes || true"
    until(lambda: machine.guest.run(ping), SEEN, "a ping by it")
    machine.detach(nic["port_id"])
    machine.all_is_well()


def test_a_guest_that_is_off_starts_with_what_it_was_given(machine: Machine) -> None:
    first = machine.attach(net_id=machine.other)
    machine.guest.act(os_stop=None)
    machine.guest.becomes("SHUTOFF", within=90)
    machine.detach(first["port_id"])
    by_the_client(machine)
    second = machine.attach(net_id=machine.other)
    machine.guest.act(os_start=None)
    machine.guest.becomes("ACTIVE")
    machine.guest.awaits_boot()
    assert second["mac_addr"] in machine.nics()
    assert first["mac_addr"] not in machine.nics()
    until(lambda: machine.has(second["fixed_ips"][0]["ip_address"]), SEEN, "its address by DHCP")
    machine.all_is_well()


def by_the_client(machine: Machine) -> None:
    """By its commands networks, ports and addresses come to a server and go; but for ``server remove fixed
    ip``, which asks by a microversion that has that action no more."""
    up, name, other = machine.cloud.up, "roaming", machine.other

    def addresses() -> list[str]:
        several = machine.guest.shown()["addresses"].values()
        return sorted(one["addr"] for own in several for one in own)

    (own,) = addresses()
    said = openstack(
        up,
        f"server add network {name} {other}",
        f"port create --network {other} --fixed-ip ip-address=10.91.4.88 mine",
        f"server add port {name} mine",
        f"server add fixed ip --fixed-ip-address 10.91.4.99 {name} {other}",
    )
    machine.settles()
    assert len(addresses()) == 4, said
    assert {own, "10.91.4.88", "10.91.4.99"} < {*addresses()}, said
    said = openstack(up, f"server remove port {name} mine", f"server remove network {name} {other}")
    machine.settles()
    assert addresses() == [own], said
    (mine,) = up.ask("GET", f"{PORTS}?name=mine")[1]["ports"]
    assert up.ask("DELETE", f"{PORTS}/{mine['id']}")[0] == 204
