"""Routers with every plug: who reaches whom by them, what is mended, and that nothing of them is left.

What a router does inside its namespace is the same for all plugs, and tested with one, in
tests/system/host_network/test_host_routers.py.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from uuid import uuid4

import msgspec
import pytest
from tests.contract.test_plug import KILLED, SWITCHED
from tests.openvswitch import installed
from tests.plugs import KINDS, PlugLab, config_of, host_with, plug_lab
from tests.system.host_network.lab import COMES, Guest, Service, arp, eventually, make_vif, run, subnet
from tests.system.host_network.test_host_routers import (
    FLOATING,
    Routed,
    answers,
    gateway,
    gateway_of,
    reached,
    service_in,
)

from kilonova.config import unix_socket
from kilonova.domain.network import PlugKind
from kilonova.domain.routers import HostRouters
from kilonova.network.host import linux, look, names
from kilonova.network.host.plug import routers_on_switch
from kilonova.network.host.switch import Switch

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="changes the host's network"),
    pytest.mark.skipif(not installed(), reason="Open vSwitch is not installed"),
]


class Joined(Routed):
    """A router between two networks of a host with some plug."""

    lab: PlugLab

    def links(self) -> list[str]:
        return [names.router_link(one.port_id) for one in self.state.interfaces]

    def devices(self) -> list[str]:
        return [names.router_inside(one.port_id) for one in self.state.interfaces]

    def wrong(self) -> list[str]:
        """What the doctor says."""
        said = look.problems(self.lab.folder / "network", self.lab.config.network)
        if self.lab.kind == "bridge":
            return said
        switch = Switch(unix_socket(self.lab.switch.connection), self.lab.folder)
        try:
            return said + switch.problems(routers_on_switch(self.lab.kind, self.state))
        finally:
            switch.close()


@pytest.fixture(params=KINDS)
def routed(request: pytest.FixtureRequest) -> Iterator[Joined]:
    with plug_lab(request.param) as lab:
        yield Joined(lab)
        lab.host.apply_routers(HostRouters())


@pytest.fixture(params=SWITCHED)
def switched(request: pytest.FixtureRequest) -> Iterator[Joined]:
    with plug_lab(request.param) as lab:
        yield Joined(lab)
        lab.host.apply_routers(HostRouters())


def test_networks_meet_and_a_floating_ip_leads_in(routed: Joined) -> None:
    one, two = routed.guest(5), routed.guest(6, other=True)
    service = service_in(two)
    assert one.reaches(two.ip, service.port) is None
    routed.change(gateway=gateway())
    assert one.reaches(two.ip, service.port, seconds=COMES) == one.ip
    assert carries(one, two)
    assert not reached(FLOATING, service.port, 1)
    routed.lead(two)
    assert reached(FLOATING, service.port, COMES)
    for guest in (one, two):
        guest.run("ip", "route", "replace", "169.254.169.254/32", "via", str(gateway_of(guest)))
        assert eventually(lambda guest=guest: answers(guest))  # type: ignore[misc]
    routed.lab.host.repair()
    assert routed.lab.host.repair() == []
    assert eventually(lambda: routed.wrong() == [])
    leads_not_to_the_host(routed, one)
    if routed.lab.kind != "bridge":
        is_of_one_network(routed, two)
    routed.apply()
    assert not linux.namespace_exists(names.router(routed.state.id))
    assert one.reaches(two.ip, service.port) is None
    service.close()


def carries(sender: Guest, receiver: Guest) -> bool:
    """Whole segments: their checksums, and their cutting, must be somebody's."""
    sent = b"x" * (64 << 10)
    with receiver.inside(lambda: socket.create_server(("0.0.0.0", 0))) as listening:
        to = (receiver.ip, listening.getsockname()[1])
        with sender.inside(lambda: socket.create_connection(to, timeout=COMES)) as out:
            into = listening.accept()[0]
            with into:
                into.settimeout(COMES)
                out.sendall(sent)
                out.shutdown(socket.SHUT_WR)
                heard = 0
                while piece := into.recv(1 << 16):
                    heard += len(piece)
    return heard == len(sent)


def leads_not_to_the_host(routed: Joined, one: Guest) -> None:
    """Even if an address of the host's is of the other network, and the router asks for it there. (A host
    without a way back to who asks would not answer anyway.)"""
    address = "10.90.0.77"
    run("ip", "link", "add", "wayout", "up", "type", "bridge")
    run("ip", "addr", "add", f"{address}/32", "dev", "wayout")
    run("ip", "route", "add", "default", "dev", "wayout")
    own = Service(lambda make: make(), "0.0.0.0")
    assert reached(address, own.port, COMES)
    assert one.reaches(address, own.port) is None
    assert "lladdr" not in routed.inside("ip", "neigh", "show", address)
    own.close()
    run("ip", "link", "del", "wayout")


def is_of_one_network(routed: Joined, two: Guest) -> None:
    """The router's ports on the switch are of their networks' tags and of no others."""
    link, other = routed.links()
    tags = [routed.lab.switch.tag(name) for name in (link, other)]
    gates = [names.gate(one.network_id) for one in routed.state.interfaces]
    assert tags == [routed.lab.switch.tag(gate) for gate in gates]
    assert tags[0] != tags[1]
    said = routed.lab.switch.vsctl("get", "Port", link, "trunks", "vlan_mode")
    assert said.split() == ["[]", "[]"]
    forged, last = (
        arp("fa:16:3e:10:00:01", ("fa:16:3e:10:00:01", ip), two.ip) for ip in ("10.90.0.98", "10.90.0.99")
    )
    tagged = forged[:12] + b"\x81\x00" + tags[1].to_bytes(2) + forged[12:]
    with two.raw() as into:
        for device, frame in zip(routed.devices(), (tagged, last), strict=True):
            send_from(routed, device, frame)
        heard = [into.recv(2048)]
        while heard[-1] != last:
            heard.append(into.recv(2048))
        into.settimeout(0.3)
        with suppress(TimeoutError):
            while True:
                heard.append(into.recv(2048))
    assert [frame for frame in heard if forged[14:] in frame] == []


def send_from(routed: Joined, device: str, frame: bytes) -> None:
    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
            out.bind((device, 0))
            out.send(frame)

    linux.inside(names.router(routed.state.id), send)


def test_what_is_missing_is_mended(switched: Joined) -> None:
    guest, peer = switched.guest(5), switched.guest(6, other=True)
    switched.change(gateway=gateway())
    switched.lead(guest)
    service = service_in(guest)
    host, switch, link = switched.lab.host, switched.lab.switch, switched.links()[0]
    host.repair()
    assert host.repair() == []
    healthy = switch.ports()
    damages = [
        ["ip", "netns", "del", names.router(switched.state.id)],
        ["ip", "link", "del", link],
        ["ip", "link", "set", link, "down"],
        [*switch.command, "del-port", link],
        [*switch.command, "set", "Port", link, "tag=77"],
        [*switch.command, "set", "Port", link, "tag=[]", "vlan_mode=trunk"],
        [*switch.command, "del-br", "br-int"],
    ]
    for damage in damages:
        run(*damage)
        assert switched.wrong(), damage
        assert eventually(host.repair), damage
        eventually(lambda: host.repair() == [])
        assert switch.ports() == healthy
        assert eventually(lambda: switched.wrong() == []), damage
        assert reached(FLOATING, service.port, COMES), damage
        assert peer.reaches(guest.ip, service.port, seconds=COMES) == peer.ip, damage
    switch.kill()
    host.repair()  # finds no switch, and must not fail
    switch.start()

    def works() -> bool:
        host.repair()
        return reached(FLOATING, service.port, 1)

    eventually(works, 30)
    assert switch.ports() == healthy
    service.close()


def test_a_router_without_guests_here(switched: Joined) -> None:
    """Its ports and tags come with whoever needs them first, and go with whoever needs them last; without the
    switch, too, it goes at once, and its ports as soon as there is one."""
    switch, links = switched.lab.switch, set(switched.links())
    switched.change(gateway=gateway())
    assert switch.ports() == links
    tags = [switch.tag(link) for link in switched.links()]
    guest = switched.guest(5)
    switched.lab.host.unplug(guest.vif.port_id)
    assert switch.ports() == links
    assert [switch.tag(link) for link in switched.links()] == tags
    switch.vsctl("del-br", "br-int")
    assert eventually(switched.lab.host.repair)
    assert switch.ports() == links
    guest = switched.guest(6)
    switched.apply()
    assert not links & switch.ports()
    switched.apply(switched.state)
    switched.lab.host.unplug(guest.vif.port_id)
    switch.kill()
    switched.apply()
    assert not linux.namespace_exists(names.router(switched.state.id))
    switch.start()

    def is_gone() -> bool:
        switched.lab.host.repair()
        return switch.bridges() == []

    eventually(is_gone)
    assert not linux.namespace_exists(names.router(switched.state.id))


def test_an_interface_that_goes_with_its_namespace(switched: Joined) -> None:
    """Nothing in the namespace tells any more what was joined."""
    switched.apply(switched.state)
    kept, gone = switched.links()
    run("ip", "netns", "del", names.router(switched.state.id))
    switched.change(interfaces=switched.state.interfaces[:1])
    assert switched.lab.switch.ports() == {kept}
    assert switched.other_id not in switched.lab.switch.vsctl("get", "Bridge", "br-int", "external_ids")
    assert gone not in {name for _, name in socket.if_nameindex()}


def test_ports_without_records_are_removed_at_start(switched: Joined) -> None:
    guest = switched.guest(5)
    switched.apply(switched.state)
    switched.lab.host.stop()
    (switched.lab.folder / "network" / "routers" / f"{switched.state.id}.json").unlink()
    run("ip", "netns", "del", names.router(switched.state.id))
    switched.lab.start()
    assert not set(switched.links()) & switched.lab.switch.ports()
    assert names.gate(guest.vif.network_id) in switched.lab.switch.ports()
    assert switched.other_id not in switched.lab.switch.vsctl("get", "Bridge", "br-int", "external_ids")
    switched.apply(switched.state)
    assert set(switched.links()) <= switched.lab.switch.ports()


def test_another_plug_is_chosen_while_a_router_works() -> None:
    with host_with("ovs") as (folder, switch):
        lab = PlugLab("bridge", folder, switch)
        try:
            routed = Joined(lab)
            guest = routed.guest(5)
            service = service_in(guest)
            routed.change(gateway=gateway())
            routed.lead(guest)
            assert reached(FLOATING, service.port, COMES)
            for kind in ("ovs-hybrid", "ovs", "bridge"):
                lab.host.stop()
                lab.kind, lab.config = kind, config_of(kind, switch)
                lab.start()
                assert reached(FLOATING, service.port, COMES), kind
                lab.host.repair()
                assert lab.host.repair() == []
                assert routed.wrong() == []
            service.close()
            routed.apply()
        finally:
            lab.close()


@pytest.mark.parametrize(("kind", "verb"), [("ovs-hybrid", "unroute"), ("ovs", "route")])
def test_killed_between_any_two_acts_of_the_plug(kind: PlugKind, verb: str) -> None:
    with host_with(kind) as (folder, switch):
        assert switch is not None
        vif = msgspec.json.encode(make_vif(subnet(enable_dhcp=False), 5, str(uuid4()))).decode()
        arguments = [str(folder / "killed"), vif, verb, "1", "1", kind, switch.connection]
        command = [sys.executable, str(KILLED), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.split()[-1]) > 1, "the places were found"
