"""What is made for a project that has no network, and what it is made of."""

from __future__ import annotations

from typing import Any

import pytest
from tests.functional.network.conftest import ALICE, BOB, Caller
from tests.functional.network.test_network_races import at_once

from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.builtin.service import BuiltinNetwork

HERSELF = RequestContext(request_id="r", user_id="u", project_id=ALICE, roles=frozenset({"member"}))
PATH = f"/auto-allocated-topology/{ALICE}"


@pytest.fixture
def outside(admin: Caller) -> str:
    """The default external network."""
    net = admin.create("network", is_default=True, **{"router:external": True})["id"]
    admin.create("subnet", network_id=net, cidr="198.51.100.0/24", enable_dhcp=False)
    return str(net)


@pytest.fixture
def pools(admin: Caller) -> None:
    """Default ones, of both IP versions."""
    admin.create("subnetpool", prefixes=["10.0.0.0/8"], default_prefixlen=26, is_default=True)
    admin.create("subnetpool", prefixes=["2001:db8::/48"], is_default=True)


def topology(who: Caller, **query: Any) -> dict[str, Any]:
    return dict(who.get(PATH, **query)["auto_allocated_topology"])


def test_a_network_with_a_way_out(alice: Caller, outside: str, pools: None) -> None:
    assert topology(alice, fields="dry-run")["id"] == "dry-run=pass"
    assert alice.ids("routers") == []
    made = topology(alice)
    assert topology(alice) == made
    assert made["tenant_id"] == ALICE
    (net,) = alice.get("/networks", **{"router:external": False})["networks"]
    assert (net["id"], net["name"]) == (made["id"], "auto_allocated_network")
    subnets = alice.get("/subnets", network_id=net["id"], sort_key="ip_version")["subnets"]
    assert [one["cidr"] for one in subnets] == ["10.0.0.0/26", "2001:db8::/64"]
    assert [one["ipv6_ra_mode"] for one in subnets] == [None, "slaac"]
    (router,) = alice.get("/routers")["routers"]
    assert router["external_gateway_info"]["network_id"] == outside
    ports = alice.get("/ports", device_id=router["id"])["ports"]
    assert {port["network_id"] for port in ports} == {net["id"]}
    assert len(ports) == 2
    assert alice("DELETE", PATH).status_code == 204
    assert alice.ids("routers") == alice.ids("subnets", network_id=net["id"]) == []
    assert alice.ids("networks") == [outside]
    assert alice("DELETE", PATH).status_code == 204


def test_it_stays_while_it_is_used(alice: Caller, outside: str, pools: None) -> None:
    net = topology(alice)["id"]
    port = alice.create("port", network_id=net)["id"]
    assert alice.refused("DELETE", PATH) == (409, "NetworkInUse")
    assert len(alice.ids("routers")) == 1
    alice.delete("port", port)
    assert alice("DELETE", PATH).status_code == 204


def test_it_is_made_once(alice: Caller, outside: str, pools: None) -> None:
    assert at_once(4, lambda _: alice("GET", PATH)) == {200: 4}
    assert len(alice.ids("routers")) == 1


def test_a_new_one_if_its_router_is_gone(alice: Caller, outside: str, pools: None) -> None:
    old = topology(alice)["id"]
    (router,) = alice.ids("routers")
    for port in alice.ids("ports", device_id=router):
        alice("PUT", f"/routers/{router}/remove_router_interface", {"port_id": port})
    alice.delete("router", router)
    assert topology(alice)["id"] != old


def test_what_an_admin_must_have_said(alice: Caller, bob: Caller, reader: Caller, admin: Caller) -> None:
    for query in ("?fields=dry-run", ""):
        assert alice.refused("GET", PATH + query) == (409, "AutoAllocationFailure")
    net = admin.create("network", is_default=True, **{"router:external": True})["id"]
    assert alice.refused("GET", PATH) == (409, "AutoAllocationFailure")
    admin.create("subnetpool", prefixes=["10.0.0.0/8"], default_prefixlen=26, is_default=True)
    assert alice.refused("GET", PATH) == (400, "BadRequest")  # there is no address outside
    assert alice.ids("networks") == [net]
    for who in (bob, reader):
        assert who.refused("GET", PATH) == (403, "PolicyNotAuthorized")
    assert bob.refused("DELETE", PATH) == (403, "PolicyNotAuthorized")


def test_servers_that_say_auto(alice: Caller, network: BuiltinNetwork, outside: str, admin: Caller) -> None:
    with pytest.raises(BadRequest, match="No default subnetpools"):
        network.auto(HERSELF)
    admin.create("subnetpool", prefixes=["10.0.0.0/8"], default_prefixlen=26, is_default=True)
    (asked,) = network.auto(HERSELF)
    assert asked == RequestedNetwork(network_id=topology(alice)["id"])
    assert network.auto(HERSELF) == [asked]


def test_the_default_external_network(alice: Caller, admin: Caller, outside: str) -> None:
    forbidden = (403, "PolicyNotAuthorized")
    assert admin.get(f"/networks/{outside}")["network"]["is_default"] is True
    assert admin.ids("networks", is_default=True) == [outside]
    other = admin.create("network", **{"router:external": True})["id"]
    assert admin.refused_update("network", other, is_default=True) == (409, "DefaultExternalNetworkExists")
    assert admin.refused_create("network", is_default=True) == (400, "InvalidInput")
    assert alice.refused_create("network", is_default=True) == forbidden
    admin.update("network", outside, is_default=False)
    assert admin.update("network", other, is_default=True)["is_default"] is True
    assert admin.update("network", other, **{"router:external": False})["is_default"] is False
    assert admin.update("network", outside, is_default=True)["is_default"] is True
    assert alice.refused_update("network", alice.create("network")["id"], is_default=True) == forbidden


def test_of_a_project_alone(bob: Caller, alice: Caller, outside: str, pools: None) -> None:
    topology(alice)
    assert bob.ids("networks") == [outside]
    own = bob.get(f"/auto-allocated-topology/{BOB}")["auto_allocated_topology"]["id"]
    assert sorted(bob.ids("networks")) == sorted([outside, own])
