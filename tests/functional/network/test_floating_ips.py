"""Floating IPs over Neutron's API: where they lead, and what they are refused."""

from __future__ import annotations

from typing import Any

import pytest
from tests.functional.network.conftest import BOB, Caller
from tests.functional.network.test_network_races import at_once
from tests.functional.network.test_routers import attach, refused

from kilonova.network.builtin.service import BuiltinNetwork


@pytest.fixture
def external(admin: Caller) -> str:
    net = admin.create("network", name="public", **{"router:external": True})
    admin.create("subnet", network_id=net["id"], cidr="198.51.100.0/24", enable_dhcp=False)
    return str(net["id"])


@pytest.fixture
def router(alice: Caller, subnet: dict[str, Any], external: str) -> str:
    router = str(alice.create("router", external_gateway_info={"network_id": external})["id"])
    attach(alice, router, subnet_id=subnet["id"])
    return router


def port(caller: Caller, net: str, **more: Any) -> dict[str, Any]:
    return caller.create("port", network_id=net, **more)


def floating(caller: Caller, external: str, **more: Any) -> dict[str, Any]:
    return caller.create("floatingip", floating_network_id=external, **more)


def test_the_life_of_a_floating_ip(alice: Caller, net: str, external: str, router: str) -> None:
    first, second = port(alice, net, name="p"), port(alice, net)
    made = floating(alice, external, description="d")
    assert made["floating_ip_address"] == "198.51.100.3"
    assert (made["port_id"], made["fixed_ip_address"], made["router_id"]) == (None, None, None)
    assert (made["status"], made["port_details"]) == ("DOWN", None)
    there = alice.update("floatingip", made["id"], port_id=first["id"])
    assert there["port_id"] == first["id"]
    assert there["fixed_ip_address"] == first["fixed_ips"][0]["ip_address"]
    assert there["router_id"] == router
    assert there["port_details"]["name"] == "p"
    moved = alice.update("floatingip", made["id"], port_id=second["id"])
    assert moved["fixed_ip_address"] == second["fixed_ips"][0]["ip_address"]
    assert alice.ids("floatingips", port_id=second["id"], router_id=router) == [made["id"]]
    assert alice.update("floatingip", made["id"], description="new")["port_id"] == second["id"]
    free = alice.update("floatingip", made["id"], port_id=None)
    assert (free["port_id"], free["router_id"], free["status"]) == (None, None, "DOWN")
    at_birth = floating(alice, external, port_id=first["id"])
    assert at_birth["router_id"] == router
    alice.delete("floatingip", at_birth["id"])
    alice.delete("floatingip", made["id"])
    assert alice.refused("GET", f"/floatingips/{made['id']}") == (404, "FloatingIPNotFound")


def test_ports_of_no_project_are_no_bodys_to_see(
    alice: Caller, client: object, external: str, router: str
) -> None:
    floating(alice, external)
    unscoped = Caller(client, "unscoped")  # type: ignore[arg-type]
    assert unscoped.ids("ports") == unscoped.ids("floatingips") == unscoped.ids("routers") == []


def test_the_address_is_held_and_comes_back(alice: Caller, admin: Caller, external: str) -> None:
    fixed = "198.51.100.40"
    assert (
        alice.refused_create("floatingip", floating_network_id=external, floating_ip_address=fixed)[0] == 403
    )
    made = floating(admin, external, floating_ip_address=fixed)
    (held,) = admin.get("/ports", device_owner="network:floatingip")["ports"]
    assert held["fixed_ips"][0]["ip_address"] == fixed
    assert admin.refused("DELETE", f"/ports/{held['id']}") == (409, "ServicePortInUse")
    assert admin.refused_create("floatingip", floating_network_id=external, floating_ip_address=fixed) == (
        409,
        "IpAddressInUse",
    )
    admin.delete("floatingip", made["id"])
    assert admin.ids("ports", device_owner="network:floatingip") == []
    floating(admin, external, floating_ip_address=fixed)


def test_a_port_that_goes_leaves_it_free(alice: Caller, net: str, external: str, router: str) -> None:
    its = port(alice, net)
    made = floating(alice, external, port_id=its["id"])
    alice.delete("port", its["id"])
    shown = alice.get(f"/floatingips/{made['id']}")["floatingip"]
    assert (shown["port_id"], shown["fixed_ip_address"], shown["router_id"]) == (None, None, None)
    assert alice.ids("floatingips", status="DOWN") == [made["id"]]
    alice.update("router", router, external_gateway_info={})
    for interface in alice.ids("ports", device_id=router):
        alice("PUT", f"/routers/{router}/remove_router_interface", {"port_id": interface})
    alice.delete("router", router)


def test_a_port_that_moves_leaves_it_free(
    alice: Caller, net: str, subnet: dict[str, Any], external: str, router: str
) -> None:
    its = port(alice, net)
    made = floating(alice, external, port_id=its["id"])
    wanted = [{"subnet_id": subnet["id"], "ip_address": "10.0.0.99"}]
    alice.update("port", its["id"], fixed_ips=wanted)
    assert alice.get(f"/floatingips/{made['id']}")["floatingip"]["port_id"] is None


def test_what_it_needs_stays(
    alice: Caller, net: str, subnet: dict[str, Any], external: str, router: str
) -> None:
    floating(alice, external, port_id=port(alice, net)["id"])
    assert refused(alice, router, "remove_router_interface", subnet_id=subnet["id"]) == (
        409,
        "RouterInterfaceInUseByFloatingIP",
    )
    assert alice.refused_update("router", router, external_gateway_info={}) == (
        409,
        "RouterExternalGatewayInUseByFloatingIp",
    )


def test_where_it_cannot_lead(
    alice: Caller, bob: Caller, admin: Caller, net: str, subnet: dict[str, Any], external: str, router: str
) -> None:
    def wrong(caller: Caller = alice, **asked: Any) -> tuple[int, str]:
        return caller.refused_create("floatingip", **{"floating_network_id": external, **asked})

    assert wrong(floating_network_id=net) == (400, "BadRequest")
    assert wrong(floating_network_id="x") == (404, "NetworkNotFound")
    assert wrong(port_id="x") == (404, "PortNotFound")
    assert wrong(fixed_ip_address="10.0.0.5") == (400, "BadRequest")
    its = port(alice, net)
    assert wrong(port_id=its["id"], fixed_ip_address="10.0.0.77") == (400, "BadRequest")
    assert wrong(bob, port_id=its["id"]) == (404, "PortNotFound")
    assert wrong(admin, subnet_id=subnet["id"])[0] == 400
    bare = port(alice, net, fixed_ips=[])
    assert wrong(port_id=bare["id"]) == (400, "BadRequest")
    twice = port(alice, net, fixed_ips=[{"subnet_id": subnet["id"]}, {"subnet_id": subnet["id"]}])
    assert wrong(port_id=twice["id"]) == (400, "BadRequest")
    second = twice["fixed_ips"][1]["ip_address"]
    assert (
        floating(alice, external, port_id=twice["id"], fixed_ip_address=second)["fixed_ip_address"] == second
    )
    floating(alice, external, port_id=its["id"])
    assert wrong(port_id=its["id"]) == (409, "FloatingIPPortAlreadyAssociated")
    island = alice.create("network")["id"]
    alice.create("subnet", network_id=island, cidr="10.5.0.0/24")
    assert wrong(port_id=port(alice, island)["id"]) == (404, "ExternalGatewayForFloatingIPNotFound")
    (gateway,) = alice.ids("ports", device_id=router)
    assert wrong(port_id=gateway) == (400, "BadRequest")
    assert wrong(project_id=BOB) == (400, "HTTPBadRequest")


def test_an_address_is_given_once(alice: Caller, external: str) -> None:
    asked = {"floatingip": {"floating_network_id": external}}
    assert at_once(8, lambda _: alice("POST", "/floatingips", asked)) == {201: 8}
    found = [one["floating_ip_address"] for one in alice.get("/floatingips")["floatingips"]]
    assert len(set(found)) == 8


def test_a_port_has_one(alice: Caller, net: str, external: str, router: str) -> None:
    its = port(alice, net)["id"]
    several = [floating(alice, external)["id"] for _ in range(4)]

    def lead(number: int) -> Any:
        return alice("PUT", f"/floatingips/{several[number]}", {"floatingip": {"port_id": its}})

    assert at_once(4, lead) == {200: 1, 409: 3}


def test_it_leads_somewhere_or_the_gateway_goes(alice: Caller, net: str, external: str, router: str) -> None:
    its, made = port(alice, net)["id"], floating(alice, external)["id"]
    for _ in range(4):

        def ask(number: int) -> Any:
            if number == 0:
                return alice("PUT", f"/routers/{router}", {"router": {"external_gateway_info": {}}})
            return alice("PUT", f"/floatingips/{made}", {"floatingip": {"port_id": its}})

        got = at_once(2, ask)
        assert got in ({200: 1, 404: 1}, {200: 1, 409: 1}), got
        alice.update("floatingip", made, port_id=None)
        alice.update("router", router, external_gateway_info={"network_id": external})


def test_the_servers_addresses_show_it(
    alice: Caller, network: BuiltinNetwork, net: str, external: str, router: str
) -> None:
    """What a build is told of a port that a floating IP leads to already."""
    from kilonova.domain.servers import RequestedNetwork

    its = port(alice, net)
    made = floating(alice, external, port_id=its["id"])
    asked = [RequestedNetwork(network_id=net, port_id=its["id"])]
    (vif,) = network.allocate_for_instance("server", "p", "h", "host", "zone", asked)
    assert vif.floating_ips == {its["fixed_ips"][0]["ip_address"]: [made["floating_ip_address"]]}
    alice.update("floatingip", made["id"], port_id=None)
    assert network.vifs(["server"])["server"][0].floating_ips == {}


def test_one_whose_port_is_gone_leads_through_no_router(
    alice: Caller, net: str, external: str, router: str
) -> None:
    inside = port(alice, net)
    made = floating(alice, external, port_id=inside["id"])["id"]
    assert alice.ids("floatingips", router_id=router) == [made]
    alice.delete("port", inside["id"])
    assert alice.get(f"/floatingips/{made}")["floatingip"]["router_id"] is None
    assert alice.ids("floatingips", router_id=router) == []
    for empty in ("router_id", "port_id", "fixed_ip_address"):
        assert alice.ids("floatingips", **{empty: ""}) == [made]
        assert alice.ids("floatingips", sort_key=empty) == [made]


def test_an_external_network_goes_with_the_addresses_that_lead_nowhere(
    alice: Caller, admin: Caller, net: str, external: str, router: str
) -> None:
    inside = port(alice, net)
    used = floating(alice, external, port_id=inside["id"])["id"]
    free = floating(alice, external)["id"]
    assert admin.refused("DELETE", f"/networks/{external}") == (409, "NetworkInUse")
    assert alice.ids("floatingips", status="DOWN", port_id="") == [free]
    alice.delete("floatingip", used)
    alice.update("router", router, external_gateway_info=None)
    admin.delete("network", external)
    assert alice.ids("floatingips") == []


def test_an_update_that_says_nothing_leads_it_nowhere(
    alice: Caller, net: str, external: str, router: str
) -> None:
    made = floating(alice, external, port_id=port(alice, net)["id"])["id"]
    assert alice.update("floatingip", made, description="d")["port_id"] is not None
    assert alice.update("floatingip", made)["port_id"] is None
