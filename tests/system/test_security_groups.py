"""Security groups with real guests: what comes in, changed while they run.

Booting is what takes time here: two guests serve all tests, which run in this order.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.running import until
from tests.system import posing
from tests.system.cloud import SERVERS, Cloud, Guest, Ticks, real_cloud

pytestmark = pytest.mark.system

RULES = "/networking/v2.0/security-group-rules"


@dataclass
class Pair:
    cloud: Cloud
    web: Guest
    """In the group ``web``, which lets in ssh."""
    other: Guest
    """In the default group."""
    group: str

    def between(self, guest: Guest, command: str) -> bool:
        """Whether the command, run in the other guest, reaches this one."""
        line = f"{command} {guest.address} >/dev/null 2>&1 && echo yes || echo no"
        return self.other.run(line) == "yes"


@pytest.fixture(scope="module")
def pair(guest_image: Path) -> Iterator[Pair]:
    with real_cloud(guest_image) as cloud:
        up = cloud.up
        cloud.key("k")
        network = up.network("10.92.1.0/24")
        group = up.group("web")
        up.allow(group, protocol="tcp", port_range_min=22, port_range_max=22)
        other = cloud.boot("other", [network], "k")
        web = cloud.boot("web", [network], "k", security_groups=[{"name": "web"}])
        for guest in (web, other):
            guest.awaits_boot()
        yield Pair(cloud, web, other, group)


def test_what_is_allowed_comes_in_and_nothing_else(pair: Pair) -> None:
    assert pair.web.shown()["security_groups"] == [{"name": "web"}]
    until(pair.web.is_reached, 60, "ssh, from the host")
    assert not pair.between(pair.web, "ping -c 1 -W 2")
    assert pair.web.run(f"ping -c 1 -W 5 {pair.other.address} >/dev/null && echo yes") == "yes"


def test_changed_live(pair: Pair) -> None:
    rule = pair.cloud.up.allow(pair.group, protocol="icmp")
    until(lambda: pair.between(pair.web, "ping -c 1 -W 1"), 60, "the ping to be let in")
    pair.cloud.up.drop(rule)
    until(lambda: not pair.between(pair.web, "ping -c 1 -W 1"), 60, "the ping to be refused")


def test_a_guest_that_poses_as_another_is_stopped(pair: Pair) -> None:
    up = pair.cloud.up
    rules = [
        up.allow(pair.group, protocol="icmp"),
        up.allow(up.default_group(), protocol="udp"),
    ]
    until(lambda: pair.between(pair.web, "ping -c 1 -W 1"), 60, "the ping to be let in")
    posing.stops(pair.other, pair.web)
    for rule in rules:
        up.drop(rule)


def test_members_of_a_group(pair: Pair) -> None:
    default = pair.cloud.up.default_group()
    rule = pair.cloud.up.allow(pair.group, protocol="icmp", remote_group_id=default)
    until(lambda: pair.between(pair.web, "ping -c 1 -W 1"), 60, "the member to be let in")
    act(pair.other, "removeSecurityGroup", "default")
    act(pair.other, "addSecurityGroup", "web")
    until(lambda: not pair.between(pair.web, "ping -c 1 -W 1"), 60, "who is no member to be refused")
    act(pair.other, "addSecurityGroup", "default")
    until(lambda: pair.between(pair.web, "ping -c 1 -W 1"), 60, "the member to be let in again")
    names = {group["name"] for group in pair.other.shown()["security_groups"]}
    assert names == {"default", "web"}
    _, shown = pair.cloud.up.ask("GET", f"{SERVERS}/{pair.other.id}/os-security-groups")
    assert {group["name"] for group in shown["security_groups"]} == names
    pair.cloud.up.drop(rule)
    until(lambda: not pair.between(pair.web, "ping -c 1 -W 1"), 60, "the member to be refused, as all are")


def test_addresses_of_an_address_group(pair: Pair) -> None:
    up = pair.cloud.up
    groups = "/networking/v2.0/address-groups"
    asked = {"address_group": {"name": "friends", "addresses": ["192.0.2.0/24"]}}
    group = up.ask("POST", groups, asked)[1]["address_group"]["id"]
    rule = up.allow(pair.group, protocol="icmp", remote_address_group_id=group)
    assert not pair.between(pair.web, "ping -c 1 -W 1")
    addresses = {"addresses": [f"{pair.other.address}/31"]}
    assert up.ask("PUT", f"{groups}/{group}/add_addresses", addresses)[0] == 200
    until(lambda: pair.between(pair.web, "ping -c 1 -W 1"), 60, "the address to be let in")
    assert up.ask("PUT", f"{groups}/{group}/remove_addresses", addresses)[0] == 200
    until(lambda: not pair.between(pair.web, "ping -c 1 -W 1"), 60, "the address to be refused")
    up.drop(rule)
    assert up.ask("DELETE", f"{groups}/{group}")[0] == 204


def test_a_connection_outlives_what_does_not_concern_it_and_no_more(pair: Pair) -> None:
    up = pair.cloud.up
    ssh = up.ask("GET", f"{RULES}?security_group_id={pair.group}&direction=ingress")[1]
    (rule,) = [one["id"] for one in ssh["security_group_rules"]]
    with Ticks(pair.web) as session:
        for port in (80, 81, 82):
            up.drop(up.allow(pair.group, protocol="tcp", port_range_min=port, port_range_max=port))
        icmp = up.allow(pair.group, protocol="icmp")
        until(lambda: pair.between(pair.web, "ping -c 1 -W 1"), 60, "the ping to be let in")
        session.go_on()
        up.drop(icmp)
        until(lambda: not pair.between(pair.web, "ping -c 1 -W 1"), 60, "the ping to be refused")
        session.go_on()
        up.drop(rule)
        until(session.ended, 60, "the connection to end")
    assert not pair.web.is_reached(5)
    up.allow(pair.group, protocol="tcp", port_range_min=22, port_range_max=22)
    until(pair.web.is_reached, 60, "ssh to be let in")


def test_rules_that_change_while_nobody_enforces_them(pair: Pair) -> None:
    up = pair.cloud.up
    rule = up.allow(pair.group, protocol="icmp")
    up.kill()
    up.start()
    until(lambda: pair.between(pair.web, "ping -c 1 -W 1"), 60, "the ping to be let in")
    pair.cloud.up.drop(rule)
    up.kill()  # perhaps before the host was told
    up.start()
    until(lambda: not pair.between(pair.web, "ping -c 1 -W 1"), 60, "the ping to be refused")


def test_flushed_rules_are_repaired(pair: Pair) -> None:
    assert not pair.between(pair.web, "ping -c 1 -W 1")
    before = len(pair.cloud.up.log())
    subprocess.run(["nft", "flush", "ruleset"], check=True)

    def said() -> bool:
        return "firewall table bridge" in pair.cloud.up.log()[before:]

    until(said, 60, "the rules to be missed")
    until(lambda: not pair.between(pair.web, "ping -c 1 -W 1"), 60, "the rules to be there again")
    until(pair.web.is_reached, 60, "ssh")


def act(guest: Guest, action: str, name: str) -> None:
    guest.act(**{action: {"name": name}})
