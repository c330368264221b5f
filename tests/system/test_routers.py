"""Routers and floating IPs with real guests, by the openstack client, through `kilonova up`.

Booting and the client's start are what takes time here: one story, told once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.running import until
from tests.system.cloud import Cloud, Guest, openstack, real_cloud

from kilonova.network.host import linux, names

pytestmark = pytest.mark.system

FLOATING = "198.51.100.77"
NETWORK = "/networking/v2.0"


def shown(cloud: Cloud, kind: str) -> list[Any]:
    status, answer = cloud.up.ask("GET", f"{NETWORK}/{kind}")
    assert status == 200, answer
    return list(answer[kind])


def addresses(guest: Guest) -> dict[str, str]:
    """Of the server, as it is shown: address → its type."""
    several = guest.shown()["addresses"].values()
    return {one["addr"]: one["OS-EXT-IPS:type"] for own in several for one in own}


def test_the_story_of_a_router(guest_image: Path) -> None:
    with real_cloud(guest_image) as cloud:
        up = cloud.up
        cloud.key("k")
        networks = [up.network("10.93.1.0/24"), up.network("10.93.2.0/24")]
        one, two = (cloud.boot(name, [network], "k") for name, network in zip("ab", networks, strict=True))
        for guest in (one, two):
            guest.awaits_boot()
        ping = f"ping -c 1 -W 2 {two.address} >/dev/null && echo yes || echo no"
        assert one.run(ping) == "no"

        subnets = {s["network_id"]: s["id"] for s in shown(cloud, "subnets")}
        said = openstack(
            up,
            "network create --external public",
            "subnet create --network public --subnet-range 198.51.100.0/24 --no-dhcp public",
            "router create r",
            "router set r --external-gateway public",
            *(f"router add subnet r {subnets[network]}" for network in networks),
            f"floating ip create public --floating-ip-address {FLOATING}",
            f"server add floating ip a {FLOATING}",
        )
        (router,), (floating,) = shown(cloud, "routers"), shown(cloud, "floatingips")
        assert router["external_gateway_info"]["enable_snat"], said
        assert floating["status"] == "ACTIVE", said
        assert addresses(one) == {one.address: "fixed", FLOATING: "floating"}, said

        fixed = {guest: guest.address for guest in (one, two)}
        for guest in (one, two):
            guest.address = FLOATING
        until(one.is_reached, 60, "the first guest at the floating IP")
        assert one.run("hostname") == "a"
        until(lambda: one.run(ping) == "yes", 20, "the other network, through the router")
        out = "ping -c 1 -W 5 198.51.100.1 >/dev/null && echo out"
        assert one.run(
            f"{out}; wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json"
        ).startswith("out\n{")

        up.kill()
        assert one.is_reached(20)  # nobody is needed for it to go on
        up.start()
        said = openstack(
            up, f"server remove floating ip a {FLOATING}", f"server add floating ip b {FLOATING}"
        )
        until(two.is_reached, 60, f"the second guest at the floating IP: {said}")
        assert two.run("hostname") == "b"
        assert addresses(one) == {fixed[one]: "fixed"}
        assert addresses(two) == {fixed[two]: "fixed", FLOATING: "floating"}

        cloud.delete(one, two)
        assert shown(cloud, "floatingips")[0]["port_id"] is None
        said = openstack(
            up,
            f"floating ip delete {FLOATING}",
            *(f"router remove subnet r {subnets[network]}" for network in networks),
            "router delete r",
            "network delete public",
        )
        assert shown(cloud, "routers") == [], said
        until(lambda: not linux.namespace_exists(names.router(router["id"])), 30, "the router to go")
        until(lambda: cloud.oracle.left() == [], 30, "all of it to go")
