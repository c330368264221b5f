"""What networks do for two real guests, told once for each plug through `kilonova up`: two networks that a
router joins, floating IPs, rules that change, a NIC that comes and goes, and all that others may break.

Booting and the client's start are what takes time here: one story, told once. What it leaves out is the same
for all plugs: test_security_groups.py and test_live_interfaces.py; by frames, tests/contract/test_plug.py.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.host_oracle import real_machine
from tests.openvswitch import OWN_DEVICE, OpenVSwitch, installed
from tests.plugs import KINDS
from tests.running import until
from tests.system import posing, wounds
from tests.system.cloud import SERVERS, Cloud, Guest, Ticks, openstack

from kilonova.domain.network import PlugKind
from kilonova.network.host import linux, names

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network devices"),
    pytest.mark.skipif(not installed(), reason="Open vSwitch is not installed"),
]

NETWORK = "/networking/v2.0"
METADATA = "http://169.254.169.254/openstack/latest/meta_data.json"
FIRST, SECOND = "198.51.100.77", "198.51.100.78"
"""Floating IPs."""
OUTSIDE = "198.51.100.1"
SEEN = 60.0
"""Seconds until a change is seen; on an idle machine it is one or two."""
MENDED = 60.0
"""Seconds: three times what is promised, as this machine is busy."""


@dataclass
class Story:
    cloud: Cloud
    plug: PlugKind
    switch: OpenVSwitch | None
    options: str
    """Of its Kilonova."""
    networks: list[str] = field(default_factory=list)
    guests: list[Guest] = field(default_factory=list)
    """On a network each."""

    @property
    def up(self) -> Any:
        return self.cloud.up

    def shown(self, kind: str, query: str = "") -> list[Any]:
        status, answer = self.up.ask("GET", f"{NETWORK}/{kind}?{query}")
        assert status == 200, answer
        return list(answer[kind])

    def port(self, guest: Guest) -> Any:
        """Its first NIC's."""
        (port,) = self.shown("ports", f"device_id={guest.id}&fixed_ips=ip_address={guest.address}")
        return port

    def pings(self) -> bool:
        """Whether the first guest reaches the second."""
        return self._first_does(f"ping -c 1 -W 2 {self.guests[1].address}")

    def has_ssh(self) -> bool:
        return self._first_does(f"nc -w 5 {self.guests[1].address} 22 </dev/null | grep -q SSH")

    def _first_does(self, command: str) -> bool:
        return self.guests[0].run(f"{command} >/dev/null 2>&1 && echo yes || echo no") == "yes"


@contextmanager
def story_of(plug: PlugKind, image: Path) -> Iterator[Story]:
    with real_machine() as (up, oracle):
        folder, switch = up.state.parent / "ovs", None
        if plug != "bridge":
            switch = OpenVSwitch(folder, segments=plug == "ovs").start()
        try:
            connection = f'ovsdb_connection = "{switch.connection}"\n' if switch else ""
            options = f'[network]\nplug = "{plug}"\n{connection}'
            up.start(options)
            yield Story(Cloud(up, oracle, image), plug, switch, options)
        finally:
            up.kill()
            if switch:
                switch.kill()  # with its own devices


@pytest.mark.parametrize("plug", KINDS)
def test_the_story_of_two_guests(plug: PlugKind, guest_image: Path) -> None:
    with story_of(plug, guest_image) as story:
        boot(story)
        join_by_a_router(story)
        move_a_floating_ip(story)
        change_rules(story)
        attach_and_detach(story)
        break_all(story)
        release_a_floating_ip(story)
        leave_nothing(story)


def boot(story: Story) -> None:
    cloud, switch = story.cloud, story.switch
    cloud.key("k")
    story.networks = [story.up.network(f"10.93.{number}.0/24") for number in (1, 2)]
    story.guests = [cloud.boot(name, [of], "k") for name, of in zip("ab", story.networks, strict=True)]
    for guest, name in zip(story.guests, "ab", strict=True):
        guest.awaits_boot()
        assert guest.run("hostname") == name  # by the metadata service
        assert f" {guest.address}/24" in guest.run("ip -4 -o addr")
        assert len(guest.run("head -c 100000 /dev/zero | tr '\\0' x")) == 100000
    ports = [story.port(guest) for guest in story.guests]
    for port in ports:
        assert port["binding:vif_type"] == ("ovs" if switch else "bridge")
        assert port["binding:vif_details"]["port_filter"] is True
        if switch:
            assert port["binding:vif_details"]["ovs_hybrid_plug"] is (story.plug == "ovs-hybrid")
    if switch:
        kind = "qvo" if story.plug == "ovs-hybrid" else "tap"
        gates = {names.gate(network) for network in story.networks}
        assert switch.ports() == gates | {f"{kind}{port['id'][:11]}" for port in ports}
    assert not story.pings()


def join_by_a_router(story: Story) -> None:
    one = story.guests[0]
    subnets = {subnet["network_id"]: subnet["id"] for subnet in story.shown("subnets")}
    said = openstack(
        story.up,
        "network create --external public",
        "subnet create --network public --subnet-range 198.51.100.0/24 --no-dhcp public",
        "router create r",
        "router set r --external-gateway public",
        *(f"router add subnet r {subnets[network]}" for network in story.networks),
        f"floating ip create public --floating-ip-address {FIRST}",
        f"floating ip create public --floating-ip-address {SECOND}",
        f"server add floating ip a {FIRST}",
    )
    (router,) = story.shown("routers")
    assert router["external_gateway_info"]["enable_snat"], said
    assert {one["floating_ip_address"]: one["status"] for one in story.shown("floatingips")} == {
        FIRST: "ACTIVE",
        SECOND: "DOWN",
    }, said
    assert addresses(one) == {one.address: "fixed", FIRST: "floating"}, said
    one.reached_at = FIRST
    until(one.is_reached, 60, "the first guest at the floating IP")
    assert one.run("hostname") == "a"
    until(story.pings, SEEN, "the other network, through the router")
    until(lambda: one.run(f"ping -c 1 -W 5 {OUTSIDE} >/dev/null && echo out || true"), SEEN, "the way out")
    assert json.loads(one.run(METADATA_OF))["uuid"] == one.id


METADATA_OF = f"wget -q -O - {METADATA}"


def addresses(guest: Guest) -> dict[str, str]:
    """Of the server, as it is shown: address → its type."""
    several = guest.shown()["addresses"].values()
    return {one["addr"]: one["OS-EXT-IPS:type"] for own in several for one in own}


def move_a_floating_ip(story: Story) -> None:
    """While a connection by it carries something: that ends, and what others have goes on."""
    one, two = story.guests
    up = story.up
    with Ticks(one) as inwards:
        up.kill()
        inwards.go_on()  # nobody is needed for it
        up.start(story.options)
        said = openstack(up, f"server add floating ip b {SECOND}")
        two.reached_at = SECOND
        until(two.is_reached, 60, f"the second guest at its floating IP: {said}")
        inwards.go_on()
        assert two.run("hostname") == "b"
        one.run(f"ping {OUTSIDE} > /tmp/pings 2>&1 < /dev/null &")

        by_address = {one["floating_ip_address"]: one["id"] for one in story.shown("floatingips")}
        said = openstack(
            up,
            f"server remove floating ip b {SECOND}",
            f"floating ip set --port {story.port(two)['id']} {by_address[FIRST]}",
            f"server add floating ip a {SECOND}",
        )
        one.reached_at, two.reached_at = SECOND, FIRST
        for guest, name in zip(story.guests, "ab", strict=True):
            until(guest.is_reached, 60, f"{name} at the other floating IP: {said}")
            assert guest.run("hostname") == name
        until(inwards.ended, 60, "the connection to who had the address before to end")
    answered = int(one.run("grep -c 'bytes from' /tmp/pings"))
    until(lambda: int(one.run("grep -c 'bytes from' /tmp/pings")) > answered, SEEN, "pings to go on")
    one.run("killall ping")
    assert addresses(one) == {one.address: "fixed", SECOND: "floating"}
    assert addresses(two) == {two.address: "fixed", FIRST: "floating"}


def change_rules(story: Story) -> None:
    """Of the second guest: ssh comes in and ping does not, until a rule lets it, of all or of a group's
    members; who was connected stays so."""
    up, (one, two) = story.up, story.guests
    web = up.group("web")
    up.allow(web, protocol="tcp", port_range_min=22, port_range_max=22)
    two.act(addSecurityGroup={"name": "web"})
    two.act(removeSecurityGroup={"name": "default"})
    until(lambda: not story.pings(), SEEN, "the ping to be refused")
    until(story.has_ssh, SEEN, "ssh to be let in")
    with Ticks(two) as inwards:
        rule = up.allow(web, protocol="icmp")
        until(story.pings, SEEN, "the ping to be let in")
        up.drop(rule)
        until(lambda: not story.pings(), SEEN, "the ping to be refused again")
        rule = up.allow(web, protocol="icmp", remote_group_id=up.default_group())
        until(story.pings, SEEN, "the member to be let in")
        one.act(addSecurityGroup={"name": "web"})
        one.act(removeSecurityGroup={"name": "default"})
        until(lambda: not story.pings(), SEEN, "who is no member to be refused")
        one.act(addSecurityGroup={"name": "default"})
        until(story.pings, SEEN, "the member to be let in again")
        up.drop(rule)
        inwards.go_on()
    two.act(addSecurityGroup={"name": "default"})
    until(story.pings, SEEN, "the ping to be let in by the other group")


def attach_and_detach(story: Story) -> None:
    """The second guest is on the first one's network for a while, and poses there as others."""
    up, (one, two) = story.up, story.guests
    path = f"{SERVERS}/{two.id}/os-interface"
    before = macs(two)
    status, answer = up.ask("POST", path, {"interfaceAttachment": {"net_id": story.networks[0]}})
    assert status == 200, answer
    nic = answer["interfaceAttachment"]
    address = nic["fixed_ips"][0]["ip_address"]
    until(lambda: macs(two) == sorted([*before, nic["mac_addr"]]), SEEN, "the guest to see the NIC")
    until(lambda: f" {address}/24" in two.run("ip -4 -o addr"), SEEN, "its address by DHCP")
    up.allow(up.default_group(), protocol="udp")
    until(lambda: one.run(f"ping -c 1 -W 1 {address} >/dev/null && echo yes || echo no") == "yes", SEEN, "it")
    posing.stops(two, one, "eth1")
    assert up.ask("DELETE", f"{path}/{nic['port_id']}")[0] == 202
    until(lambda: macs(two) == before, SEEN, "the guest to lose the NIC")
    until(lambda: up.unexplained() == [], SEEN, "the detach to end")


def macs(guest: Guest) -> list[str]:
    return sorted(guest.run("cat /sys/class/net/eth*/address").split())


# --- faults
def break_all(story: Story) -> None:
    """The agent stands still meanwhile, so that the doctor sees it. Then all is mended, and that is known."""
    up, host = story.up, hurt(story)
    until(lambda: host.doctor() == [], MENDED, "all to be well")
    for together in host.wounds():
        os.kill(up.pid, signal.SIGSTOP)
        try:
            for wound in together:
                wound.done()
                said = host.doctor()
                assert [line for line in said if wound.named in line], (wound.named, said)
            if story.switch and not story.switch.runs:
                story.switch.start()
        finally:
            os.kill(up.pid, signal.SIGCONT)
        until(lambda: host.doctor() == [], MENDED, f"{[wound.named for wound in together]} to be mended")
        for wound in together:
            until(lambda one=wound: host.mended(one.mended), MENDED, wound.mended)  # type: ignore[misc]
        for guest in story.guests:
            until(guest.is_reached, MENDED, "the guests to be reached again")
        until(story.pings, MENDED, "them to reach each other")
        assert json.loads(story.guests[0].run(METADATA_OF))["uuid"] == story.guests[0].id


def hurt(story: Story) -> wounds.Host:
    (router,) = story.shown("routers")
    one, two = (str(story.port(guest)["id"]) for guest in story.guests)
    network = story.networks[0]
    return wounds.Host(
        state=story.up.state,
        plug=story.plug,
        switch=story.switch,
        network=network,
        ports=(one, two),
        router=router["id"],
        dhcp=lambda: story.cloud.oracle.dnsmasqs()[network],
    )


def release_a_floating_ip(story: Story) -> None:
    """While connections by it carry something: what came in by it ends, and nobody answers there; who had it
    goes on going out, as those without one do, and is there again when it is given back."""
    one, two = story.guests
    (floating,) = story.shown("floatingips", f"floating_ip_address={FIRST}")
    (router,) = story.shown("routers")
    (shared,) = router["external_gateway_info"]["external_fixed_ips"]
    two.run(f"ping {OUTSIDE} > /dev/null 2>&1 < /dev/null &")
    until(lambda: is_pinged_by(FIRST), SEEN, "its pings")
    with Ticks(two) as inwards:
        lead(story, floating["id"], None)
        until(inwards.ended, 60, "the connection to who had the address to end")
    until(lambda: is_pinged_by(shared["ip_address"]), SEEN, "its pings by the router's own address")
    until(lambda: not answers(FIRST), SEEN, "nobody to answer at the address")
    assert not two.is_reached(5)
    assert addresses(two) == {two.address: "fixed"}
    until(one.is_reached, SEEN, "the other guest")
    lead(story, floating["id"], floating["port_id"])
    until(two.is_reached, 60, "the guest at its address again")
    assert is_pinged_by(shared["ip_address"]), "what goes out already goes on as it was"
    two.run(f"killall ping; ping {OUTSIDE} > /dev/null 2>&1 < /dev/null &")
    until(lambda: is_pinged_by(FIRST), SEEN, "new pings by its own address")
    two.run("killall ping")


def lead(story: Story, floating_ip: str, port: str | None) -> None:
    path, body = f"{NETWORK}/floatingips/{floating_ip}", {"floatingip": {"port_id": port}}
    status, answer = story.up.ask("PUT", path, body)
    assert status == 200, answer


def answers(address: str) -> bool:
    """To who asks from outside."""
    command = ["ping", "-c", "1", "-W", "1", address]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def is_pinged_by(address: str) -> bool:
    """Whether the next ping that comes to the outside is from there."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as outside:
        outside.settimeout(5)
        with suppress(TimeoutError):
            return bool(outside.recvfrom(2048)[1][0] == address)
    return False


def leave_nothing(story: Story) -> None:
    cloud = story.cloud
    (router,), subnets = story.shown("routers"), story.shown("subnets")
    cloud.delete(*story.guests)
    assert [one["port_id"] for one in story.shown("floatingips")] == [None, None]
    own = [subnet["id"] for subnet in subnets if subnet["network_id"] in story.networks]
    said = openstack(
        story.up,
        f"floating ip delete {FIRST} {SECOND}",
        *(f"router remove subnet r {subnet}" for subnet in own),
        "router delete r",
        "network delete public",
    )
    assert story.shown("routers") == [], said
    until(lambda: not linux.namespace_exists(names.router(router["id"])), SEEN, "the router to go")
    if story.switch:
        until(lambda: story.switch.bridges() == [], SEEN, "the bridge to go")  # type: ignore[union-attr]

    def left() -> list[str]:
        return [line for line in cloud.oracle.left() if line != f"device {OWN_DEVICE} is left"]

    with suppress(AssertionError):
        until(lambda: left() == [], SEEN, "all of it to go")
    assert left() == []
