"""Subnet pools: their rules, and the subnets that are made of them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.functional.network.conftest import ALICE, Caller
from tests.functional.network.test_network_races import at_once, post

from kilonova.network.builtin.prefixes import first_free, merged


def pool(who: Caller, *prefixes: str, **more: Any) -> dict[str, Any]:
    return who.create("subnetpool", name="pool", prefixes=list(prefixes), **more)


def taken(who: Caller, pool_id: str, net: str | None = None, **more: Any) -> str:
    """The CIDR of a new subnet, on a new network if none is named."""
    net = net or str(who.create("network")["id"])
    made = who.create("subnet", network_id=net, subnetpool_id=pool_id, **more)
    assert made["subnetpool_id"] == pool_id
    return str(made["cidr"])


def test_neutrons_defaults(alice: Caller) -> None:
    made = pool(alice, "10.1.0.0/16", "10.0.0.0/16", "10.3.0.0/24")
    wanted = {
        "name": "pool",
        "project_id": ALICE,
        "ip_version": 4,
        "prefixes": ["10.0.0.0/15", "10.3.0.0/24"],
        "min_prefixlen": 8,
        "max_prefixlen": 32,
        "default_prefixlen": 8,
        "default_quota": None,
        "shared": False,
        "is_default": False,
        "address_scope_id": None,
    }
    assert {name: made[name] for name in wanted} == wanted
    six = pool(alice, "2001:db8::/48")
    assert (six["ip_version"], six["min_prefixlen"], six["max_prefixlen"]) == (6, 64, 128)
    assert alice.ids("subnetpools", ip_version=6) == [six["id"]]
    assert alice.ids("subnetpools", address_scope_id="") == alice.ids("subnetpools")


def test_subnets_take_the_lowest_free_range(alice: Caller) -> None:
    own = pool(alice, "10.0.0.0/22", default_prefixlen="24")["id"]
    net = alice.create("network")["id"]
    assert taken(alice, own, net) == "10.0.0.0/24"
    assert taken(alice, own, prefixlen="26") == "10.0.1.0/26"
    assert taken(alice, own, net) == "10.0.2.0/24"
    assert taken(alice, own, prefixlen=25) == "10.0.1.128/25"
    assert taken(alice, own, cidr="10.0.3.64/26") == "10.0.3.64/26"
    refused = {
        (409, "SubnetAllocationError"): [{}, {"cidr": "10.0.3.0/24"}, {"cidr": "10.9.0.0/24"}],
        (400, "MinPrefixSubnetAllocationError"): [{"prefixlen": 7}],
        (400, "MaxPrefixSubnetAllocationError"): [{"prefixlen": 33}],
        (400, "InvalidInput"): [{"prefixlen": 26, "cidr": "10.0.3.0/26"}, {"ip_version": 6}],
    }
    other = alice.create("network")["id"]
    for kind, bodies in refused.items():
        for body in bodies:
            assert alice.refused_create("subnet", network_id=other, subnetpool_id=own, **body) == kind
    (gone,) = alice.ids("subnets", cidr="10.0.0.0/24", subnetpool_id=own)
    alice.delete("subnet", gone)
    assert taken(alice, own, other) == "10.0.0.0/24"
    assert alice.refused("DELETE", f"/subnetpools/{own}") == (400, "SubnetPoolDeleteError")
    for subnet in alice.ids("subnets"):
        alice.delete("subnet", subnet)
    alice.delete("subnetpool", own)


def test_subnets_of_a_network_are_of_one_pool(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    own = pool(alice, "10.64.0.0/16", default_prefixlen=24)["id"]
    kind = (400, "NetworkSubnetPoolAffinityError")
    assert alice.refused_create("subnet", network_id=net, subnetpool_id=own) == kind
    six = pool(alice, "2001:db8::/48")["id"]
    modes = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    assert taken(alice, six, net, ip_version=6, **modes) == "2001:db8::/64"
    assert taken(alice, six, net, ip_version=6, **modes) == "2001:db8:0:1::/64"
    other = alice.create("network")["id"]
    taken(alice, own, other)
    assert alice.refused_create("subnet", network_id=other, cidr="10.0.0.0/24") == kind


def test_a_project_takes_no_more_than_the_pools_quota(alice: Caller, bob: Caller, admin: Caller) -> None:
    own = pool(admin, "10.0.0.0/16", shared=True, default_prefixlen=24, default_quota=512)["id"]
    for who in (alice, bob):
        taken(who, own)
        taken(who, own)
        net = who.create("network")["id"]
        refused = who.refused_create("subnet", network_id=net, subnetpool_id=own)
        assert refused == (409, "SubnetPoolQuotaExceeded")
    admin.update("subnetpool", own, default_quota=None)
    taken(alice, own)


def test_who_sees_and_changes_a_pool(alice: Caller, bob: Caller, reader: Caller, admin: Caller) -> None:
    own = pool(alice, "10.0.0.0/16", default_prefixlen=24)["id"]
    assert bob.refused("GET", f"/subnetpools/{own}") == (404, "SubnetPoolNotFound")
    net = bob.create("network")["id"]
    assert bob.refused_create("subnet", network_id=net, subnetpool_id=own) == (404, "SubnetPoolNotFound")
    forbidden = (403, "PolicyNotAuthorized")
    assert alice.refused_create("subnetpool", prefixes=["10.0.0.0/16"], shared=True) == forbidden
    assert alice.refused_create("subnetpool", prefixes=["10.0.0.0/16"], is_default=True) == forbidden
    assert alice.refused_update("subnetpool", own, is_default=True) == forbidden
    assert reader.refused_update("subnetpool", own, name="x") == forbidden
    everybodys = pool(admin, "10.0.0.0/16", shared=True)["id"]
    assert bob.ids("subnetpools", shared=True) == [everybodys]
    assert bob.refused_update("subnetpool", everybodys, name="x") == forbidden
    assert bob.refused("DELETE", f"/subnetpools/{everybodys}") == forbidden


def test_the_default_pools(alice: Caller, admin: Caller) -> None:
    net = alice.create("network")["id"]
    default = {"network_id": net, "use_default_subnetpool": True}
    assert alice.refused_create("subnet", **default) == (400, "InvalidInput")
    own = pool(admin, "10.0.0.0/16", is_default=True, default_prefixlen=24)["id"]
    again = {"prefixes": ["10.1.0.0/16"], "is_default": True}
    assert admin.refused_create("subnetpool", **again) == (400, "InvalidInput")
    pool(admin, "2001:db8::/48", is_default=True)
    assert alice.create("subnet", **default)["subnetpool_id"] == own
    assert alice.create("subnet", **default, ip_version=6)["cidr"] == "2001:db8::/64"
    assert alice.refused_create("subnet", **default, subnetpool_id=own) == (400, "InvalidInput")


def test_ranges_only_grow(alice: Caller) -> None:
    own = pool(alice, "10.0.0.0/24")["id"]
    kind = (400, "IllegalSubnetPoolUpdate")
    for wrong in (["10.0.1.0/24"], ["10.0.0.0/25"], ["2001:db8::/48"]):
        assert alice.refused_update("subnetpool", own, prefixes=wrong) == kind
    changed = alice.update("subnetpool", own, prefixes=["10.0.0.0/23", "10.9.0.0/24"], name="new")
    assert (changed["prefixes"], changed["name"]) == (["10.0.0.0/23", "10.9.0.0/24"], "new")
    assert alice.update("subnetpool", own, min_prefixlen=20, default_prefixlen=24)["min_prefixlen"] == 20
    assert alice.refused_update("subnetpool", own, max_prefixlen=22)[1] == "IllegalSubnetPoolPrefixBounds"


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"prefixes": []}, "EmptySubnetPoolPrefixList"),
        ({"prefixes": ["10.0.0.0/8", "2001:db8::/32"]}, "PrefixVersionMismatch"),
        ({"prefixes": ["10.0.0.1/8"]}, "InvalidInput"),
        ({"min_prefixlen": 7}, "UnsupportedMinSubnetPoolPrefix"),
        ({"prefixes": ["2001:db8::/32"], "min_prefixlen": 63}, "UnsupportedMinSubnetPoolPrefix"),
        ({"max_prefixlen": 33}, "IllegalSubnetPoolPrefixBounds"),
        ({"min_prefixlen": 25, "max_prefixlen": 24}, "IllegalSubnetPoolPrefixBounds"),
        ({"default_prefixlen": 25, "max_prefixlen": 24}, "IllegalSubnetPoolPrefixBounds"),
        ({"min_prefixlen": 25, "default_prefixlen": 24}, "IllegalSubnetPoolPrefixBounds"),
        ({"default_quota": -1}, "HTTPBadRequest"),
        ({"address_scope_id": "x"}, "InvalidInput"),
    ],
)
def test_nonsense(alice: Caller, wrong: dict[str, Any], kind: str) -> None:
    asked = {"prefixes": ["10.0.0.0/8"]} | wrong
    assert alice.refused_create("subnetpool", **asked) == (400, kind)


def test_a_range_is_given_once(alice: Caller) -> None:
    own = pool(alice, "10.0.0.0/22", default_prefixlen=24)["id"]
    nets = [alice.create("network")["id"] for _ in range(6)]
    got = at_once(6, lambda n: post(alice, "subnet", network_id=nets[n], subnetpool_id=own))
    assert got == {201: 4, 409: 2}
    assert len({subnet["cidr"] for subnet in alice.get("/subnets")["subnets"]}) == 4


def test_the_search_for_a_free_range() -> None:
    def found(length: int, *busy: str) -> str:
        return str(first_free(merged(["10.0.0.0/25", "10.0.1.0/24"]), merged(busy), length))

    assert found(25) == "10.0.0.0/25"
    assert found(24) == "10.0.1.0/24"
    assert found(23) == "None"
    assert found(26, "10.0.0.16/28") == "10.0.0.64/26"
    assert found(28, "10.0.0.0/28", "10.0.0.32/28") == "10.0.0.16/28"
    assert found(25, "10.0.0.0/25", "10.0.1.0/26") == "10.0.1.128/25"
    assert found(32, "10.0.0.0/25", "10.0.1.0/24") == "None"
