"""IPv6 with real guests of two stacks: they give themselves their addresses, and rules hold for both.

Booting is what takes time here: two guests serve all tests, which run in this order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.running import until
from tests.system.cloud import Cloud, Guest, real_cloud

pytestmark = pytest.mark.system

GROUPS, RULES = "/networking/v2.0/security-groups", "/networking/v2.0/security-group-rules"
CIDR = "2001:db8:93::/64"


@dataclass
class Pair:
    cloud: Cloud
    web: Guest
    """In the group ``web``, which lets in ssh of IPv4 alone."""
    other: Guest
    group: str

    def six(self, guest: Guest) -> str:
        (found,) = guest.shown()["addresses"].values()
        (own,) = [one["addr"] for one in found if one["version"] == 6]
        return str(own)

    def between(self, command: str) -> bool:
        """Whether the command, run in the other guest, succeeds."""
        return self.other.run(f"{command} >/dev/null 2>&1 && echo yes || echo no") == "yes"

    def pings(self) -> bool:
        return self.between(f"ping -6 -c 1 -W 1 {self.six(self.web)}")

    def ssh(self) -> bool:
        """A banner is enough."""
        return self.between(f"nc -w 5 {self.six(self.web)} 22 </dev/null | grep -q SSH")


@pytest.fixture(scope="module")
def pair(guest_image: Path) -> Iterator[Pair]:
    with real_cloud(guest_image) as cloud:
        up = cloud.up
        cloud.key("k")
        network = up.network("10.93.1.0/24")
        modes = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
        subnet = {"network_id": network, "cidr": CIDR, "ip_version": 6, **modes}
        status, made = up.ask("POST", "/networking/v2.0/subnets", {"subnet": subnet})
        assert status == 201, made
        status, made = up.ask("POST", GROUPS, {"security_group": {"name": "web"}})
        assert status == 201
        group = made["security_group"]["id"]
        up.allow(group, protocol="tcp", port_range_min=22, port_range_max=22)
        other = cloud.boot("other", [network], "k")
        web = cloud.boot("web", [network], "k", security_groups=[{"name": "web"}])
        for guest in (web, other):
            guest.awaits_boot()
        yield Pair(cloud, web, other, group)


def test_each_has_the_address_that_the_api_shows(pair: Pair) -> None:
    for guest in (pair.web, pair.other):
        wanted = pair.six(guest)
        until(lambda g=guest, w=wanted: w in g.run("ip -6 addr show scope global"), 60, wanted)  # type: ignore[misc]
        assert "default" not in pair.web.run("ip -6 route"), "there is no router"


def test_what_is_allowed_comes_in_changed_live(pair: Pair) -> None:
    up = pair.cloud.up
    assert not pair.pings()
    assert not pair.ssh(), "the rule is of IPv4"
    icmp = up.allow(pair.group, protocol="ipv6-icmp", ethertype="IPv6")
    until(pair.pings, 60, "the ping to be let in")
    assert not pair.ssh()
    up.allow(pair.group, protocol="tcp", port_range_min=22, port_range_max=22, ethertype="IPv6")
    until(pair.ssh, 60, "ssh to be let in")
    assert up.ask("DELETE", f"{RULES}/{icmp}")[0] == 204
    until(lambda: not pair.pings(), 60, "the ping to be refused")
    until(pair.ssh, 60, "ssh, as before")


def test_a_guest_that_poses_as_another_is_stopped(pair: Pair) -> None:
    pair.cloud.up.allow(pair.group, protocol="ipv6-icmp", ethertype="IPv6")
    until(pair.pings, 60, "the ping to be let in")
    other = "2001:db8:93::77"
    own, device = pair.six(pair.other), "eth0"
    pair.other.run(f"sudo ip -6 addr add {other}/64 dev {device} && sleep 2")
    assert not pair.between(f"ping -6 -c 1 -W 2 -I {other} {pair.six(pair.web)}")
    mine = f"ping -6 -c 1 -W 2 -I {own} {pair.six(pair.web)}"
    until(lambda: pair.between(mine), 60, "a ping by its own address")
