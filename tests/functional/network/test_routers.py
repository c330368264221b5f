"""Routers over Neutron's API: their interfaces, gateways, extra routes, and what they are refused."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import pytest
from falcon.testing import TestClient
from tests.functional.network.conftest import ALICE, BOB, Caller
from tests.functional.network.test_network_races import at_once

from kilonova.network.builtin.changes import Change
from kilonova.network.builtin.service import BuiltinNetwork


def attach(caller: Caller, router: str, **asked: Any) -> dict[str, Any]:
    result = caller("PUT", f"/routers/{router}/add_router_interface", asked)
    assert result.status_code == 200, result.text
    return dict(result.json)


def detach(caller: Caller, router: str, **asked: Any) -> dict[str, Any]:
    result = caller("PUT", f"/routers/{router}/remove_router_interface", asked)
    assert result.status_code == 200, result.text
    return dict(result.json)


def refused(caller: Caller, router: str, verb: str, **asked: Any) -> tuple[int, str]:
    return caller.refused("PUT", f"/routers/{router}/{verb}", asked)


@pytest.fixture
def external(admin: Caller) -> dict[str, Any]:
    net = admin.create("network", name="public", **{"router:external": True})
    admin.create("subnet", network_id=net["id"], cidr="198.51.100.0/24", enable_dhcp=False)
    return admin.get(f"/networks/{net['id']}")["network"]  # type: ignore[no-any-return]


@pytest.fixture
def router(alice: Caller) -> str:
    return str(alice.create("router", name="r")["id"])


def test_the_life_of_a_router(alice: Caller, subnet: dict[str, Any], external: dict[str, Any]) -> None:
    made = alice.create("router", name="r", description="d")
    assert made["external_gateway_info"] is None
    assert (made["status"], made["admin_state_up"], made["routes"]) == ("ACTIVE", True, [])
    router = made["id"]
    added = attach(alice, router, subnet_id=subnet["id"])
    assert added["subnet_ids"] == [added["subnet_id"]] == [subnet["id"]]
    joined = alice.get(f"/routers/{router}")["router"]
    assert joined["revision_number"] > made["revision_number"]
    port = alice.get(f"/ports/{added['port_id']}")["port"]
    assert (port["device_owner"], port["device_id"]) == ("network:router_interface", router)
    assert port["fixed_ips"] == [{"subnet_id": subnet["id"], "ip_address": "10.0.0.1"}]
    assert alice.ids("ports", device_id=router) == [port["id"]]

    changed = alice.update("router", router, name="new", external_gateway_info={"network_id": external["id"]})
    gateway = changed["external_gateway_info"]
    assert (gateway["network_id"], gateway["enable_snat"]) == (external["id"], True)
    assert gateway["external_fixed_ips"][0]["ip_address"] == "198.51.100.2"
    assert alice.refused("DELETE", f"/routers/{router}") == (409, "RouterInUse")
    assert alice.ids("routers", name="new") == [router]

    before = changed["revision_number"]
    assert detach(alice, router, port_id=port["id"])["subnet_id"] == subnet["id"]
    assert alice.get(f"/routers/{router}")["router"]["revision_number"] > before
    alice.delete("router", router)
    assert alice.refused("GET", f"/routers/{router}") == (404, "RouterNotFound")
    assert alice.ids("ports", device_id=router) == []


def test_the_networks_service_keeps_its_ports(
    alice: Caller, admin: Caller, subnet: dict[str, Any], router: str, external: dict[str, Any]
) -> None:
    added = attach(alice, router, subnet_id=subnet["id"])
    alice.update("router", router, external_gateway_info={"network_id": external["id"]})
    (gateway,) = admin.get("/ports", device_owner="network:router_gateway")["ports"]
    assert alice.refused("GET", f"/ports/{gateway['id']}")[0] == 404
    for port in (added["port_id"], gateway["id"]):
        assert admin.refused("DELETE", f"/ports/{port}") == (409, "ServicePortInUse")
        assert admin.refused_update("port", port, fixed_ips=[])[1] == "ServicePortInUse"
    assert alice.refused("DELETE", f"/subnets/{subnet['id']}") == (409, "SubnetInUse")
    assert alice.refused_update("subnet", subnet["id"], gateway_ip=None) == (409, "GatewayIpInUse")
    assert admin.refused("DELETE", f"/networks/{external['id']}") == (409, "NetworkInUse")
    assert admin.refused_update("network", external["id"], **{"router:external": False}) == (
        409,
        "ExternalNetworkInUse",
    )


def test_external_networks(alice: Caller, admin: Caller, bob: Caller, external: dict[str, Any]) -> None:
    assert external["router:external"] is True
    assert alice.get(f"/networks/{external['id']}")["network"]["name"] == "public"
    assert alice.ids("networks", **{"router:external": True}) == [external["id"]]
    assert admin.ids("networks", **{"router:external": False}) == []
    assert alice.refused_create("network", **{"router:external": True})[0] == 403
    alice.delete("port", alice.create("port", network_id=external["id"])["id"])
    own = alice.create("network")["id"]
    assert alice.refused_update("network", own, **{"router:external": True})[0] == 403
    alice.create("port", network_id=own)
    assert admin.refused_update("network", own, **{"router:external": True}) == (409, "NetworkInUse")
    assert admin.update("network", external["id"], **{"router:external": False})["router:external"] is False
    assert bob.refused("GET", f"/networks/{external['id']}")[0] == 404


def test_interfaces_that_cannot_be(
    alice: Caller, bob: Caller, net: str, subnet: dict[str, Any], router: str, external: dict[str, Any]
) -> None:
    add = "add_router_interface"
    assert refused(alice, router, add) == (400, "BadRequest")
    assert refused(alice, router, add, subnet_id=subnet["id"], port_id="x") == (400, "BadRequest")
    assert refused(alice, router, add, subnet_id="x") == (404, "SubnetNotFound")
    assert refused(alice, router, add, port_id="x") == (404, "PortNotFound")
    assert refused(bob, router, add, subnet_id=subnet["id"]) == (404, "RouterNotFound")
    without = alice.create("subnet", network_id=net, cidr="10.9.0.0/24", gateway_ip=None)
    assert refused(alice, router, add, subnet_id=without["id"]) == (400, "BadRequest")
    attach(alice, router, subnet_id=subnet["id"])
    assert refused(alice, router, add, subnet_id=subnet["id"]) == (400, "BadRequest")
    other = alice.create("router")["id"]
    assert refused(alice, other, add, subnet_id=subnet["id"]) == (409, "IpAddressInUse")
    twin = alice.create("network")["id"]
    overlapping = alice.create("subnet", network_id=twin, cidr="10.0.0.0/25")
    assert refused(alice, router, add, subnet_id=overlapping["id"]) == (400, "BadRequest")
    taken = alice.create("port", network_id=net, device_id="somebody")["id"]
    assert refused(alice, other, add, port_id=taken) == (409, "PortInUse")
    several = alice.create(
        "port", network_id=net, fixed_ips=[{"subnet_id": subnet["id"]}, {"subnet_id": without["id"]}]
    )
    assert refused(alice, other, add, port_id=several["id"]) == (400, "BadRequest")


def test_a_second_router_of_a_network_comes_by_a_port(
    alice: Caller, net: str, subnet: dict[str, Any], router: str
) -> None:
    port = alice.create("port", network_id=net, fixed_ips=[{"subnet_id": subnet["id"]}])
    added = attach(alice, router, port_id=port["id"])
    assert (added["port_id"], added["subnet_id"]) == (port["id"], subnet["id"])
    remove = "remove_router_interface"
    other = alice.create("subnet", network_id=net, cidr="10.9.0.0/24")["id"]
    assert refused(alice, router, remove, subnet_id=other) == (404, "RouterInterfaceNotFoundForSubnet")
    assert refused(alice, router, remove, port_id="x") == (404, "RouterInterfaceNotFound")
    assert refused(alice, router, remove, port_id=port["id"], subnet_id=other) == (
        409,
        "SubnetMismatchForPort",
    )
    detach(alice, router, subnet_id=subnet["id"])
    assert alice.refused("GET", f"/ports/{port['id']}")[0] == 404


def test_a_shared_networks_gateway_is_its_owners(alice: Caller, admin: Caller, bob: Caller) -> None:
    shared = admin.create("network", shared=True, project_id=ALICE)["id"]
    subnet = alice.create("subnet", network_id=shared, cidr="10.0.0.0/24")["id"]
    router = bob.create("router")["id"]
    assert refused(bob, router, "add_router_interface", subnet_id=subnet)[0] == 403
    port = bob.create("port", network_id=shared)
    attach(bob, router, port_id=port["id"])


def test_gateways(alice: Caller, admin: Caller, net: str, router: str, external: dict[str, Any]) -> None:
    def gateway(caller: Caller, **info: Any) -> tuple[int, str]:
        return caller.refused_update("router", router, external_gateway_info=info)

    assert gateway(alice, network_id=net) == (400, "BadRequest")
    assert gateway(alice, network_id="x") == (404, "NetworkNotFound")
    assert gateway(alice, enable_snat=False) == (400, "InvalidInput")
    assert gateway(alice, network_id=external["id"], enable_snat=False)[0] == 403
    fixed = [{"ip_address": "198.51.100.77"}]
    assert gateway(alice, network_id=external["id"], external_fixed_ips=fixed)[0] == 403
    info = {"network_id": external["id"], "enable_snat": False, "external_fixed_ips": fixed}
    shown = admin.update("router", router, external_gateway_info=info)["external_gateway_info"]
    assert (shown["enable_snat"], shown["external_fixed_ips"][0]["ip_address"]) == (False, "198.51.100.77")
    # What a client read may be sent back; another address moves it.
    admin.update("router", router, external_gateway_info=shown)
    fixed = [{"ip_address": "198.51.100.78"}]
    info = {"network_id": external["id"], "external_fixed_ips": fixed}
    shown = admin.update("router", router, external_gateway_info=info)["external_gateway_info"]
    assert (shown["enable_snat"], shown["external_fixed_ips"][0]["ip_address"]) == (True, "198.51.100.78")
    assert alice.update("router", router, external_gateway_info={})["external_gateway_info"] is None
    assert admin.ids("ports", device_owner="network:router_gateway") == []
    empty = admin.create("network", **{"router:external": True})["id"]
    assert gateway(alice, network_id=empty) == (400, "BadRequest")
    made = alice.create("router", external_gateway_info={"network_id": external["id"]})
    assert made["external_gateway_info"]["network_id"] == external["id"]


def test_extra_routes(alice: Caller, subnet: dict[str, Any], router: str) -> None:
    attach(alice, router, subnet_id=subnet["id"])
    route = {"destination": "192.168.0.0/24", "nexthop": "10.0.0.9"}
    assert alice.update("router", router, routes=[route])["routes"] == [route]
    for wrong in (
        {"destination": "192.168.0.0/24", "nexthop": "10.7.0.9"},
        {"destination": "192.168.0.0/24", "nexthop": "10.0.0.1"},
        {"destination": "0.0.0.0/0", "nexthop": "10.0.0.9"},
    ):
        assert alice.refused_update("router", router, routes=[wrong]) == (400, "InvalidRoutes")
    many = [{"destination": f"192.168.{n}.0/24", "nexthop": "10.0.0.9"} for n in range(31)]
    assert alice.refused_update("router", router, routes=many) == (400, "RoutesExhausted")
    assert refused(alice, router, "remove_router_interface", subnet_id=subnet["id"]) == (
        409,
        "RouterInterfaceInUseByRoute",
    )
    other = {"destination": "192.168.1.0/24", "nexthop": "10.0.0.9"}
    body = {"router": {"routes": [other]}}
    both = alice("PUT", f"/routers/{router}/add_extraroutes", body).json["router"]["routes"]
    assert both == [route, other]
    left = alice("PUT", f"/routers/{router}/remove_extraroutes", body).json["router"]["routes"]
    assert left == [route]
    assert alice.update("router", router, routes=[])["routes"] == []
    detach(alice, router, subnet_id=subnet["id"])


def test_who_sees_and_changes_a_router(alice: Caller, bob: Caller, reader: Caller, router: str) -> None:
    assert bob.ids("routers") == []
    assert bob.refused("DELETE", f"/routers/{router}")[0] == 404
    assert reader.ids("routers") == [router]
    assert reader.refused_update("router", router, name="x")[0] == 403
    assert alice.refused_create("router", distributed=True)[0] == 400
    assert alice.refused_create("router", project_id=BOB)[0] == 400
    assert alice("PUT", f"/routers/{router}/tags/t").status_code == 201
    assert alice.ids("routers", tags="t") == [router]
    assert alice.update("router", router, admin_state_up=False)["admin_state_up"] is False


def test_the_quota(alice: Caller, network: BuiltinNetwork, external: dict[str, Any]) -> None:
    few = msgspec.structs.replace(network.config.network, quota_router=2, quota_floatingip=2)
    network.config = msgspec.structs.replace(network.config, network=few)

    def floating(_: int) -> Any:
        return alice("POST", "/floatingips", {"floatingip": {"floating_network_id": external["id"]}})

    assert at_once(5, lambda _: alice("POST", "/routers", {"router": {}})) == {201: 2, 409: 3}
    assert at_once(5, floating) == {201: 2, 409: 3}
    used = alice.get(f"/quotas/{ALICE}/details")["quota"]
    assert (used["router"]["used"], used["floatingip"]["used"]) == (2, 2)


def test_one_of_many_gets_the_gateways_address(alice: Caller, subnet: dict[str, Any]) -> None:
    routers = [alice.create("router")["id"] for _ in range(4)]
    asked = {"subnet_id": subnet["id"]}
    got = at_once(4, lambda n: alice("PUT", f"/routers/{routers[n]}/add_router_interface", asked))
    assert got == {200: 1, 409: 3}


def test_a_router_goes_or_is_used(alice: Caller, subnet: dict[str, Any]) -> None:
    for _ in range(4):
        router = alice.create("router")["id"]

        def ask(number: int, router: str = router) -> Any:
            if number == 0:
                return alice("DELETE", f"/routers/{router}")
            return alice("PUT", f"/routers/{router}/add_router_interface", {"subnet_id": subnet["id"]})

        got = at_once(2, ask)
        assert got in ({204: 1, 404: 1}, {409: 1, 200: 1}), got
        if got[200]:
            detach(alice, router, subnet_id=subnet["id"])
            alice.delete("router", router)
    assert alice.ids("ports", device_owner="network:router_interface") == []


def test_a_port_that_becomes_a_routers_is_guarded_no_more(
    alice: Caller, client: TestClient, network: BuiltinNetwork, net: str, subnet: dict[str, Any], router: str
) -> None:
    """Its groups lose a member, and hosts hear it."""
    told: list[Change] = []
    network._tell = told.append
    group = alice.create("security_group")["id"]
    pairs = [{"ip_address": "10.9.9.9"}]
    port = alice.create("port", network_id=net, security_groups=[group], allowed_address_pairs=pairs)["id"]
    told.clear()
    attach(alice, router, port_id=port)
    shown = alice.get(f"/ports/{port}")["port"]
    assert (shown["security_groups"], shown["port_security_enabled"]) == ([], False)
    assert shown["allowed_address_pairs"] == []
    assert {one for change in told for one in change.members} == {group}
    alice.delete("security_group", group)


def test_a_subnet_that_is_not_there_is_no_interface(alice: Caller, net: str, router: str) -> None:
    none = str(uuid.uuid4())
    assert refused(alice, router, "remove_router_interface", subnet_id=none) == (404, "SubnetNotFound")
    own = alice.create("subnet", network_id=net, cidr="10.0.0.0/24")["id"]
    assert refused(alice, router, "remove_router_interface", subnet_id=own) == (
        404,
        "RouterInterfaceNotFoundForSubnet",
    )


def test_a_router_is_on_one_host(alice: Caller) -> None:
    """Who asks for just that gets it; it is shown nowhere, since no such extension is offered."""
    made = alice.create("router", ha=False, distributed=False)
    assert not {"ha", "distributed"} & set(made)
    assert alice.refused_create("router", ha=True) == (400, "InvalidInput")
    assert alice.refused_update("router", made["id"], distributed=True) == (400, "InvalidInput")
