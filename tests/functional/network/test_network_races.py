"""Requests at the same moment: one of them gets what only one can have, the others hear why not."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from falcon.testing import Result
from tests.functional.network.conftest import Caller

from kilonova.network.builtin.service import BuiltinNetwork


def at_once(count: int, ask: Callable[[int], Result]) -> Counter[int]:
    """How many got which status."""
    begin = threading.Barrier(count)

    def run(number: int) -> int:
        begin.wait()
        return int(ask(number).status_code)

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(run, range(count)))


def post(caller: Caller, kind: str, **attributes: Any) -> Result:
    return caller("POST", f"/{kind}s", {kind: attributes})


def test_subnets_do_not_overlap(alice: Caller, net: str) -> None:
    """Nor does a network get two DHCP ports of the subnets that are made together."""
    got = at_once(6, lambda _: post(alice, "subnet", network_id=net, cidr="10.0.0.0/24"))
    assert got == {201: 1, 400: 5}
    got = at_once(4, lambda n: post(alice, "subnet", network_id=net, cidr=f"10.0.{n + 1}.0/24"))
    assert got == {201: 4}
    (dhcp,) = alice.get("/ports", device_owner="network:dhcp")["ports"]
    assert len(dhcp["fixed_ips"]) == 5


def test_the_first_subnets_of_a_network(alice: Caller, net: str) -> None:
    assert at_once(4, lambda n: post(alice, "subnet", network_id=net, cidr=f"10.0.{n}.0/24")) == {201: 4}
    assert len(alice.get("/ports", device_owner="network:dhcp")["ports"]) == 1


def test_an_address_is_given_once(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    wanted = [{"subnet_id": subnet["id"], "ip_address": "10.0.0.50"}]
    got = at_once(6, lambda _: post(alice, "port", network_id=net, fixed_ips=wanted))
    assert got == {201: 1, 409: 5}
    assert at_once(8, lambda _: post(alice, "port", network_id=net)) == {201: 8}
    ports = alice.get("/ports")["ports"]
    assert len({ip["ip_address"] for port in ports for ip in port["fixed_ips"]}) == len(ports) == 10


def test_a_mac_is_given_once(alice: Caller, net: str) -> None:
    mac = "fa:16:3e:00:00:01"
    assert at_once(6, lambda _: post(alice, "port", network_id=net, mac_address=mac)) == {201: 1, 409: 5}


def test_quotas_hold(alice: Caller, limited: BuiltinNetwork) -> None:
    assert at_once(8, lambda _: post(alice, "network")) == {201: 2, 409: 6}
    net = alice.ids("networks")[0]
    assert at_once(6, lambda _: post(alice, "port", network_id=net)) == {201: 2, 409: 4}
    cidrs = at_once(6, lambda n: post(alice, "subnet", network_id=net, cidr=f"10.{n}.0.0/24"))
    assert cidrs == {201: 2, 409: 4}


def test_a_network_goes_or_is_used(alice: Caller) -> None:
    for _ in range(5):
        net = str(alice.create("network")["id"])

        def ask(number: int, net: str = net) -> Result:
            return alice("DELETE", f"/networks/{net}") if number == 0 else post(alice, "port", network_id=net)

        got = at_once(3, ask)
        assert got in (Counter({204: 1, 404: 2}), Counter({409: 1, 201: 2})), got
        assert len(alice.ids("ports", network_id=net)) == got[201]


def test_a_subnet_goes_or_is_used(alice: Caller, net: str) -> None:
    for _ in range(5):
        subnet = alice.create("subnet", network_id=net, cidr="10.0.0.0/24")["id"]
        wanted = [{"subnet_id": subnet}]

        def ask(number: int, subnet: str = subnet, wanted: Any = wanted) -> Result:
            if number == 0:
                return alice("DELETE", f"/subnets/{subnet}")
            return post(alice, "port", network_id=net, fixed_ips=wanted)

        got = at_once(3, ask)
        assert got in (Counter({204: 1, 400: 2}), Counter({409: 1, 201: 2})), got
        for port in alice.ids("ports"):
            if got[201]:
                alice("DELETE", f"/ports/{port}")
        if got[409]:
            alice.delete("subnet", subnet)


def test_tags_at_once(alice: Caller, net: str) -> None:
    got = at_once(8, lambda n: alice("PUT", f"/networks/{net}/tags/t{n // 2}"))
    assert set(got) <= {201, 200}
    assert alice.get(f"/networks/{net}/tags")["tags"] == ["t0", "t1", "t2", "t3"]


def test_updates_of_one_port(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    port = alice.create("port", network_id=net)

    def ask(number: int) -> Result:
        return alice("PUT", f"/ports/{port['id']}", {"port": {"name": f"p{number}"}})

    assert at_once(6, ask) == {200: 6}
    assert alice.get(f"/ports/{port['id']}")["port"]["revision_number"] == port["revision_number"] + 6
