"""A real guest through the whole path, with each plug that uses Open vSwitch; bridge: test_whole_path.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from tests.host_oracle import real_machine
from tests.openvswitch import OpenVSwitch, installed
from tests.running import until
from tests.system import posing
from tests.system.cloud import Cloud, Guest

from kilonova.cli import network_checks
from kilonova.config import load

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network devices"),
    pytest.mark.skipif(not installed(), reason="Open vSwitch is not installed"),
]

MENDED = 30.0
"""Seconds: three times what is promised, as this machine is busy."""
METADATA = "http://169.254.169.254/openstack/latest/meta_data.json"


def is_mended_by_itself(cloud: Cloud, guest: Guest, network: str, switch: OpenVSwitch) -> None:
    """Whatever is taken from the network of a guest that runs; and the doctor says what it was."""
    up, space = cloud.up, f"kn-{network}"
    hosts = network_checks.hosts(up.state)
    options = load(up.state / "test.toml").network
    port = next(name for name in switch.ports() if not name.startswith("knb"))
    for damages in (
        [["nft", "flush", "ruleset"], ["ip", "link", "del", f"knb{network[:11]}"]],
        [["ip", "netns", "del", space], [*switch.command, "del-port", port]],
        [["ip", "link", "del", f"knt{network[:11]}"], [*switch.command, "del-br", "br-int"]],
    ):
        for damage in damages:
            subprocess.run(damage, check=True)
        until(lambda: network_checks.problems(hosts, options) == [], MENDED, f"{damages} to be mended")
        until(lambda: port in switch.ports(), MENDED, f"{port} to be on the switch again")
        until(lambda: guest.is_reached(2), MENDED, f"the guest after {damages}")
    os.kill(cloud.oracle.dnsmasqs()[network], signal.SIGKILL)
    until(lambda: network in cloud.oracle.dnsmasqs(), MENDED, "the DHCP server to come back")
    assert json.loads(guest.run(f"wget -q -O - {METADATA}"))["uuid"] == guest.id
    told = [one.what for _, one in network_checks.lately(up.state) if one.mended]
    for what in (
        f"namespace {space} made",
        "br-int",
        "DHCP server started",
        "firewall table",
        f"port {port}",
    ):
        assert [line for line in told if what in line], (what, told)


def is_ruled(cloud: Cloud, guest: Guest, network: str) -> None:
    """Ssh comes in and ping does not, until a rule lets it, then again not; who was connected stays so, and
    who poses as another is stopped. (With bridges: test_security_groups.py.)"""
    other = cloud.boot("other", [network], "k")
    cloud.up.allow(cloud.up.default_group(), protocol="udp")
    for one in (guest, other):
        one.awaits_boot()
    group = cloud.up.group("web")
    cloud.up.allow(group, protocol="tcp", port_range_min=22, port_range_max=22)
    guest.act(addSecurityGroup={"name": "web"})
    guest.act(removeSecurityGroup={"name": "default"})

    def reached_by(command: str) -> bool:
        return other.run(f"{command} >/dev/null 2>&1 && echo yes || echo no") == "yes"

    ping, ssh = f"ping -c 1 -W 1 {guest.address}", f"nc -w 5 {guest.address} 22 </dev/null | grep -q SSH"
    until(lambda: not reached_by(ping), 20, "the ping to be refused")
    assert reached_by(ssh)
    said: list[object] = []
    session = threading.Thread(target=lambda: said.append(guest.run("sleep 8; echo awake", within=90)))
    session.start()
    rule = cloud.up.allow(group, protocol="icmp")
    until(lambda: reached_by(ping), 20, "the ping to be let in")
    posing.stops(other, guest)
    cloud.up.drop(rule)
    until(lambda: not reached_by(ping), 20, "the ping to be refused again")
    assert reached_by(ssh)
    session.join()
    assert said == ["awake"]
    guest.act(addSecurityGroup={"name": "default"})
    cloud.delete(other)


@pytest.mark.parametrize("plug", ["ovs-hybrid", "ovs"])
def test_a_guest_boots_and_the_switch_restarts_under_it(plug: str, guest_image: Path) -> None:
    with real_machine() as (up, oracle):
        switch = OpenVSwitch(up.state.parent / "ovs", segments=plug == "ovs").start()
        try:
            up.start(f'[network]\nplug = "{plug}"\novsdb_connection = "{switch.connection}"\n')
            cloud = Cloud(up, oracle, guest_image)
            cloud.key("k")
            network = up.network("10.91.1.0/24")
            guest = cloud.boot("plugged", [network], "k")
            _, answer = up.ask("GET", f"/networking/v2.0/ports?device_id={guest.id}")
            (port,) = answer["ports"]
            assert port["binding:vif_type"] == "ovs"
            details = port["binding:vif_details"]
            assert details["ovs_hybrid_plug"] is (plug == "ovs-hybrid")
            assert details["port_filter"] is True
            kind = "qvo" if plug == "ovs-hybrid" else "tap"
            assert switch.ports() == {f"{kind}{port['id'][:11]}", f"knb{network[:11]}"}

            is_ruled(cloud, guest, network)
            guest.awaits_boot()
            assert guest.run("hostname") == "plugged"  # by the metadata service
            assert f" {guest.address}/24" in guest.run("ip -4 -o addr")
            assert json.loads(guest.run(f"wget -q -O - {METADATA}"))["uuid"] == guest.id
            assert len(guest.run("head -c 100000 /dev/zero | tr '\\0' x")) == 100000

            switch.kill()
            switch.start()
            until(lambda: guest.is_reached(2), 30, "the guest after a restart of the switch")
            is_mended_by_itself(cloud, guest, network, switch)

            cloud.delete(guest)
            until(lambda: switch.bridges() == [], 10, "the bridge to go")
            switch.kill()  # with its own devices
            assert oracle.left() == []
        finally:
            up.stop()
            switch.kill()
