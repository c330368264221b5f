"""Ports of floating IPs that lead inside, over Neutron's API, and what hosts are told of them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.functional.network.conftest import Caller
from tests.functional.network.test_floating_ips import external, floating, port, router
from tests.functional.network.test_network_races import at_once
from tests.functional.network.test_routers import attach, refused

from kilonova.domain.routers import RouterForwarding
from kilonova.network.builtin import host_routers
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import routers as router_store

__all__ = ["external", "router"]


@pytest.fixture
def public(alice: Caller, external: str, router: str) -> str:
    """A floating IP of Alice's that leads nowhere."""
    return str(floating(alice, external)["id"])


def path(floating_id: str, forwarding_id: str = "") -> str:
    return f"/floatingips/{floating_id}/port_forwardings" + (f"/{forwarding_id}" if forwarding_id else "")


def forward(caller: Caller, floating_id: str, port_id: str, **asked: Any) -> dict[str, Any]:
    body = {"internal_port_id": port_id, "protocol": "tcp", "external_port": 8022, "internal_port": 22}
    result = caller("POST", path(floating_id), {"port_forwarding": {**body, **asked}})
    assert result.status_code == 201, result.text
    return dict(result.json["port_forwarding"])


def wrong(caller: Caller, floating_id: str, **asked: Any) -> tuple[int, str]:
    return caller.refused("POST", path(floating_id), {"port_forwarding": asked})


def test_the_life_of_a_port_forwarding(alice: Caller, net: str, public: str, router: str) -> None:
    first, second = port(alice, net), port(alice, net)
    made = forward(alice, public, first["id"], description="ssh")
    assert made == {
        "id": made["id"],
        "internal_port_id": first["id"],
        "internal_ip_address": first["fixed_ips"][0]["ip_address"],
        "protocol": "tcp",
        "internal_port": 22,
        "internal_port_range": "22:22",
        "external_port": 8022,
        "external_port_range": "8022:8022",
        "description": "ssh",
    }
    shown = alice.get(f"/floatingips/{public}")["floatingip"]
    assert (shown["router_id"], shown["port_id"], shown["fixed_ip_address"]) == (router, None, None)
    assert shown["port_forwardings"] == [made]
    assert alice.ids("floatingips", router_id=router) == [public]
    web = forward(alice, public, second["id"], internal_port=80, external_port=80)
    wide = {"external_port": None, "internal_port": None}
    ranged = forward(
        alice,
        public,
        second["id"],
        protocol="UDP",
        **wide,
        external_port_range="5000:5009",
        internal_port_range="6000:6009",
    )
    assert (ranged["protocol"], ranged["external_port"]) == ("udp", None)
    assert ranged["internal_port_range"] == "6000:6009"

    def listed(**filters: Any) -> list[str]:
        return [one["id"] for one in alice.get(path(public), **filters)["port_forwardings"]]

    assert sorted(listed()) == sorted([made["id"], web["id"], ranged["id"]])
    assert listed(external_port=80) == [web["id"]]
    assert listed(protocol="udp", internal_port_id=second["id"]) == [ranged["id"]]
    assert listed(external_port_range="5000:5009") == [ranged["id"]]
    page = alice.get(path(public), limit=1, sort_key="external_port", sort_dir="desc")
    assert [one["id"] for one in page["port_forwardings"]] == [made["id"]]
    assert page["port_forwardings_links"][0]["rel"] == "next"

    changes = {"port_forwarding": {"external_port": 2222, "internal_port_id": second["id"]}}
    changed = alice("PUT", path(public, made["id"]), changes).json["port_forwarding"]
    assert (changed["external_port"], changed["internal_port"]) == (2222, 22)
    assert changed["internal_ip_address"] == second["fixed_ips"][0]["ip_address"]
    for one in listed():
        assert alice("DELETE", path(public, one)).status_code == 204
    assert alice.refused("GET", path(public, made["id"])) == (404, "PortForwardingNotFound")
    assert alice.get(f"/floatingips/{public}")["floatingip"]["router_id"] is None


def test_whose_they_are(
    alice: Caller, bob: Caller, reader: Caller, admin: Caller, net: str, public: str
) -> None:
    inside = port(alice, net)["id"]
    made = forward(alice, public, inside)["id"]
    asked = {"internal_port_id": inside, "protocol": "tcp", "external_port": 1, "internal_port": 1}
    assert bob.refused("GET", path(public)) == (404, "FloatingIPNotFound")
    assert bob.refused("DELETE", path(public, made)) == (404, "FloatingIPNotFound")
    assert wrong(bob, public, **asked) == (404, "FloatingIPNotFound")
    assert reader.get(path(public, made))["port_forwarding"]["id"] == made
    assert wrong(reader, public, **asked) == (403, "PolicyNotAuthorized")
    assert reader.refused("DELETE", path(public, made)) == (403, "PolicyNotAuthorized")
    assert admin("DELETE", path(public, made)).status_code == 204


def test_a_floating_ip_is_forwarded_as_a_whole_or_by_ports(
    alice: Caller, admin: Caller, net: str, external: str, public: str, router: str, subnet: dict[str, Any]
) -> None:
    one, two = port(alice, net)["id"], port(alice, net)["id"]
    made = forward(alice, public, one)
    assert alice.refused_update("floatingip", public, port_id=two) == (409, "FipInUseByPortForwarding")
    assert alice.refused("DELETE", f"/floatingips/{public}") == (409, "FipInUseByPortForwarding")
    assert alice.update("floatingip", public, port_id=None)["router_id"] == router
    assert alice.update("floatingip", public, description="d")["port_forwardings"] == [made]
    whole = floating(alice, external, port_id=two)["id"]
    asked = {"protocol": "tcp", "external_port": 1, "internal_port": 1}
    assert wrong(alice, whole, internal_port_id=one, **asked) == (409, "FloatingIPPortAlreadyAssociated")
    assert wrong(alice, public, internal_port_id=two, **asked) == (409, "PortHasBindingFloatingIP")
    alice.delete("floatingip", whole)
    assert refused(alice, router, "remove_router_interface", subnet_id=subnet["id"]) == (
        409,
        "RouterInterfaceInUseByFloatingIP",
    )
    assert alice.refused_update("router", router, external_gateway_info={}) == (
        409,
        "RouterExternalGatewayInUseByFloatingIp",
    )
    assert admin.refused("DELETE", f"/networks/{external}") == (409, "NetworkInUse")
    alice("DELETE", path(public, made["id"]))
    alice.delete("floatingip", public)


def test_what_cannot_be_forwarded(
    alice: Caller, bob: Caller, net: str, subnet: dict[str, Any], public: str
) -> None:
    inside = port(alice, net, fixed_ips=[{"subnet_id": subnet["id"]}, {"subnet_id": subnet["id"]}])
    first, second = (fixed["ip_address"] for fixed in inside["fixed_ips"])
    forward(alice, public, inside["id"], internal_ip_address=first)
    asked = {"internal_port_id": inside["id"], "protocol": "tcp", "external_port": 1, "internal_port": 1}

    def bad(**more: Any) -> tuple[int, str]:
        return wrong(alice, public, **{**asked, **more})

    for more in (
        {"external_port": 8022},
        {"internal_port": 22},
        {"external_port": None, "external_port_range": "8000:9000"},
        {"external_port": 0},
        {"internal_port": 65536},
        {"external_port": None},
        {"external_port_range": "2:3"},
        {"external_port": None, "external_port_range": "9:1"},
        {"external_port": None, "external_port_range": "1:2:3"},
        {"internal_port": None, "internal_port_range": "1:2"},
        {"protocol": "icmp"},
        {"internal_ip_address": "10.0.0.250"},
        {"internal_ip_address": "x"},
        {"nonsense": 1},
        {
            "external_port": None,
            "internal_port": None,
            "external_port_range": "1:2000",
            "internal_port_range": "2:2001",
        },
    ):
        assert bad(**more)[0] == 400, more
    assert bad(internal_port_id="x") == (404, "PortNotFound")
    assert bad(internal_port_id=port(alice, net, fixed_ips=[])["id"]) == (400, "BadRequest")
    island = alice.create("network")["id"]
    alice.create("subnet", network_id=island, cidr="10.5.0.0/24")
    assert bad(internal_port_id=port(alice, island)["id"]) == (400, "BadRequest")
    forward(alice, public, inside["id"], internal_ip_address=second, external_port=8023)
    forward(alice, public, inside["id"], internal_ip_address=first, protocol="udp")
    wide = {"external_port": None, "internal_port": None}
    same = {"external_port_range": "10000:20000", "internal_port_range": "10000:20000"}
    forward(alice, public, inside["id"], **wide, **same)
    forward(alice, public, inside["id"], external_port=None, external_port_range="30:40", internal_port=30)


def test_it_goes_with_its_port(
    alice: Caller, net: str, subnet: dict[str, Any], external: str, public: str
) -> None:
    inside, other = port(alice, net), port(alice, net)["id"]
    forward(alice, public, inside["id"])
    forward(alice, public, other, external_port=1)
    wanted = [{"subnet_id": subnet["id"], "ip_address": "10.0.0.99"}]
    alice.update("port", inside["id"], fixed_ips=wanted)
    (left,) = alice.get(path(public))["port_forwardings"]
    assert left["internal_port_id"] == other
    before = alice.get(f"/floatingips/{public}")["floatingip"]["revision_number"]
    alice.delete("port", other)
    shown = alice.get(f"/floatingips/{public}")["floatingip"]
    assert (shown["port_forwardings"], shown["router_id"], shown["status"]) == ([], None, "DOWN")
    assert shown["revision_number"] > before
    alice.update("floatingip", public, port_id=inside["id"])


def test_one_router_leads_all_of_a_floating_ip(alice: Caller, net: str, external: str, public: str) -> None:
    forward(alice, public, port(alice, net)["id"])
    far = alice.create("network")["id"]
    there = alice.create("subnet", network_id=far, cidr="10.7.0.0/24")["id"]
    second = alice.create("router", external_gateway_info={"network_id": external})["id"]
    attach(alice, second, subnet_id=there)
    asked = {"protocol": "tcp", "external_port": 1, "internal_port": 1}
    assert wrong(alice, public, internal_port_id=port(alice, far)["id"], **asked) == (400, "BadRequest")


def test_a_port_is_forwarded_once(alice: Caller, net: str, public: str) -> None:
    inside = [port(alice, net)["id"] for _ in range(4)]

    def ask(number: int) -> Any:
        body = {"internal_port_id": inside[number], "protocol": "tcp", "external_port": 1, "internal_port": 1}
        return alice("POST", path(public), {"port_forwarding": body})

    assert at_once(4, ask) == {201: 1, 400: 3}


def test_the_routers_host_is_told(
    alice: Caller, network: BuiltinNetwork, net: str, public: str, router: str
) -> None:
    told: list[Any] = []
    network._tell = told.append
    with network.db.write() as conn:
        assert router_store.move(conn, router, "", "host")
    inside = port(alice, net)
    made = forward(alice, public, inside["id"])
    assert any("host" in change.hosts for change in told)
    with network.db.read() as conn:
        (state,) = host_routers.of_host(conn, "host").routers
    public_address = alice.get(f"/floatingips/{public}")["floatingip"]["floating_ip_address"]
    assert state.floating_ips == []
    assert state.forwardings == [
        RouterForwarding(
            floating_ip=public_address,
            fixed_ip=made["internal_ip_address"],
            protocol="tcp",
            external_first=8022,
            external_last=8022,
            internal_first=22,
            internal_last=22,
        )
    ]
    assert alice.ids("floatingips", status="ACTIVE") == [public]
    told.clear()
    alice.delete("port", inside["id"])
    assert any("host" in change.hosts for change in told)
    with network.db.read() as conn:
        assert host_routers.of_host(conn, "host").routers[0].forwardings == []
