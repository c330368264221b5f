"""Subnets through the API, and the DHCP port that follows them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from kilonova.domain.servers import RequestedNetwork
from kilonova.network.builtin.service import BuiltinNetwork

from .conftest import ALICE, Caller


def dhcp_port(alice: Caller, net: str) -> dict[str, Any] | None:
    ports = alice.get("/ports", network_id=net, device_owner="network:dhcp")["ports"]
    assert len(ports) <= 1
    return ports[0] if ports else None


def boot(network: BuiltinNetwork, net: str) -> str:
    server = str(uuid.uuid4())
    network.allocate_for_instance(server, ALICE, "vm", "host1", "nova", [RequestedNetwork(network_id=net)])
    return server


def test_a_new_subnet_has_neutrons_defaults(alice: Caller, net: str) -> None:
    made = alice.create("subnet", network_id=net, cidr="10.1.2.0/24", ip_version=4)
    assert made == {
        "id": made["id"],
        "name": "",
        "description": "",
        "project_id": ALICE,
        "tenant_id": ALICE,
        "network_id": net,
        "ip_version": 4,
        "cidr": "10.1.2.0/24",
        "gateway_ip": "10.1.2.1",
        "allocation_pools": [{"start": "10.1.2.2", "end": "10.1.2.254"}],
        "enable_dhcp": True,
        "dns_nameservers": [],
        "host_routes": [],
        "ipv6_ra_mode": None,
        "ipv6_address_mode": None,
        "subnetpool_id": None,
        "service_types": [],
        "tags": [],
        "revision_number": 0,
        "created_at": made["created_at"],
        "updated_at": made["updated_at"],
    }
    assert alice.get(f"/subnets/{made['id']}")["subnet"] == made
    assert alice.get(f"/networks/{net}")["network"]["subnets"] == [made["id"]]


def test_everything_can_be_said(alice: Caller, net: str) -> None:
    said = {
        "name": "s",
        "description": "d",
        "cidr": "10.1.0.0/16",
        "gateway_ip": "10.1.5.5",
        "allocation_pools": [
            {"start": "10.1.6.0", "end": "10.1.6.255"},
            {"start": "10.1.3.1", "end": "10.1.4.9"},
        ],
        "enable_dhcp": False,
        "dns_nameservers": ["9.9.9.9", "1.1.1.1"],
        "host_routes": [{"destination": "192.168.0.0/16", "nexthop": "10.1.0.9"}],
    }
    made = alice.create("subnet", network_id=net, **said)
    said["allocation_pools"].reverse()
    assert {name: made[name] for name in said} == said
    assert dhcp_port(alice, net) is None


def test_the_gateway_divides_the_default_pool(alice: Caller, net: str) -> None:
    made = alice.create("subnet", network_id=net, cidr="10.0.0.0/29", gateway_ip="10.0.0.3")
    assert made["allocation_pools"] == [
        {"start": "10.0.0.1", "end": "10.0.0.2"},
        {"start": "10.0.0.4", "end": "10.0.0.6"},
    ]
    without = alice.create("subnet", network_id=net, cidr="10.0.1.0/30", gateway_ip=None)
    assert without["gateway_ip"] is None
    assert without["allocation_pools"] == [{"start": "10.0.1.1", "end": "10.0.1.2"}]


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"cidr": "10.0.0.5/24"}, "InvalidInput"),
        ({"cidr": "10.0.0.0/33"}, "InvalidInput"),
        ({"cidr": "10.0.0.0/31"}, "InvalidInput"),
        ({"cidr": "10.0.0.0/-1"}, "InvalidInput"),
        ({"cidr": "nonsense"}, "InvalidInput"),
        ({"cidr": ""}, "InvalidInput"),
        ({"cidr": "0.0.0.0/0"}, "InvalidInput"),
        ({"cidr": "127.0.0.0/24"}, "InvalidInput"),
        ({"cidr": "169.254.0.0/16"}, "InvalidInput"),
        ({"cidr": "224.0.0.0/8"}, "InvalidInput"),
        ({"cidr": "100.127.3.0/24"}, "InvalidInput"),
        ({"cidr": "fd00::/64"}, "InvalidInput"),
        ({"cidr": 5}, "HTTPBadRequest"),
        ({}, "InvalidInput"),
        ({"cidr": "10.0.0.0/24", "ip_version": 6}, "InvalidInput"),
        ({"cidr": "10.0.0.0/24", "ip_version": 5}, "InvalidInput"),
        ({"use_default_subnetpool": True}, "InvalidInput"),
        ({"subnetpool_id": "prefix_delegation", "ip_version": 6}, "InvalidInput"),
        ({"cidr": "10.0.0.0/24", "segment_id": "x"}, "HTTPBadRequest"),
        ({"cidr": "10.0.0.0/24", "gateway_ip": "10.0.1.1"}, "InvalidInput"),
        ({"cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.0"}, "InvalidInput"),
        ({"cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.255"}, "InvalidInput"),
        ({"cidr": "10.0.0.0/24", "gateway_ip": "x"}, "InvalidInput"),
        ({"cidr": "10.0.0.0/24", "dns_nameservers": ["x"]}, "InvalidInput"),
        ({"cidr": "10.0.0.0/24", "dns_nameservers": ["9.9.9.9", "9.9.9.9"]}, "InvalidInput"),
        ({"cidr": "10.0.0.0/24", "host_routes": [{"destination": "x", "nexthop": "1.2.3.4"}]},
         "InvalidInput"),
        ({"cidr": "10.0.0.0/24", "host_routes": [{"destination": "1.2.3.0/24", "nexthop": "x"}]},
         "InvalidInput"),
        ({"cidr": "10.0.0.0/24", "host_routes": [{"destination": "1.2.3.0/24"}]}, "HTTPBadRequest"),
        ({"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "10.0.0.9", "end": "10.0.0.8"}]},
         "InvalidAllocationPool"),
        ({"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "x", "end": "y"}]}, "InvalidAllocationPool"),
        ({"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "10.0.0.9", "end": "10.0.1.9"}]},
         "OutOfBoundsAllocationPool"),
        ({"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "10.0.0.0", "end": "10.0.0.9"}]},
         "OutOfBoundsAllocationPool"),
        ({"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "10.0.0.2"}]}, "HTTPBadRequest"),
    ],
)  # fmt: skip
def test_wrong_subnets(alice: Caller, net: str, wrong: dict[str, Any], kind: str) -> None:
    assert alice.refused_create("subnet", network_id=net, **wrong) == (400, kind)
    assert alice.ids("subnets") == []


def test_pools_must_not_meet_each_other_or_the_gateway(alice: Caller, net: str) -> None:
    def pools(*ends: int) -> list[dict[str, str]]:
        pairs = zip(ends[::2], ends[1::2], strict=True)
        return [{"start": f"10.0.0.{a}", "end": f"10.0.0.{b}"} for a, b in pairs]

    create = {"network_id": net, "cidr": "10.0.0.0/24"}
    assert alice.refused_create("subnet", **create, allocation_pools=pools(5, 9, 9, 12)) == (
        409,
        "OverlappingAllocationPools",
    )
    for gateway in ({}, {"gateway_ip": "10.0.0.7"}):
        assert alice.refused_create("subnet", **create, **gateway, allocation_pools=pools(1, 9)) == (
            409,
            "GatewayConflictWithAllocationPools",
        )
    subnet = alice.create("subnet", **create, allocation_pools=pools(10, 20))["id"]
    assert alice.refused_update("subnet", subnet, gateway_ip="10.0.0.15")[1] == (
        "GatewayConflictWithAllocationPools"
    )
    assert alice.refused_update("subnet", subnet, allocation_pools=pools(1, 5))[0] == 409


def test_subnets_of_one_network_do_not_overlap(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    for cidr in ("10.0.0.0/24", "10.0.0.128/25", "10.0.0.0/8"):
        assert alice.refused_create("subnet", network_id=net, cidr=cidr) == (400, "InvalidInput")
    other = alice.create("network")["id"]
    alice.create("subnet", network_id=other, cidr="10.0.0.0/24")


def test_update(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    changed = alice.update(
        "subnet",
        subnet["id"],
        name="new",
        gateway_ip=None,
        dns_nameservers=["8.8.8.8"],
        allocation_pools=[{"start": "10.0.0.100", "end": "10.0.0.110"}],
    )
    assert changed["gateway_ip"] is None
    assert changed["dns_nameservers"] == ["8.8.8.8"]
    assert changed["revision_number"] == 1
    assert alice.create("port", network_id=net)["fixed_ips"][0]["ip_address"] == "10.0.0.100"
    assert alice.refused_update("subnet", subnet["id"], cidr="10.0.0.0/25")[0] == 400
    assert alice.refused_update("subnet", subnet["id"], gateway_ip="10.0.0.100")[0] == 409


def test_a_gateway_cannot_be_a_ports_address(alice: Caller, net: str) -> None:
    pool = [{"start": "10.0.0.10", "end": "10.0.0.20"}]
    subnet = alice.create("subnet", network_id=net, cidr="10.0.0.0/24", allocation_pools=pool)
    gateway = {"network_id": net, "fixed_ips": [{"ip_address": "10.0.0.1"}]}
    assert alice.refused_create("port", **gateway) == (409, "IpAddressInUse")
    alice.create("port", network_id=net, fixed_ips=[{"ip_address": "10.0.0.5"}])
    assert alice.refused_update("subnet", subnet["id"], gateway_ip="10.0.0.5") == (409, "GatewayIpInUse")
    assert alice.update("subnet", subnet["id"], gateway_ip="10.0.0.6")["gateway_ip"] == "10.0.0.6"


def test_the_dhcp_port_follows_the_subnets(alice: Caller, net: str) -> None:
    first = alice.create("subnet", network_id=net, cidr="10.0.0.0/24")
    port = dhcp_port(alice, net)
    assert port is not None
    assert port["device_id"] == f"dhcp-{net}"
    assert port["fixed_ips"] == [{"subnet_id": first["id"], "ip_address": "10.0.0.2"}]
    second = alice.create("subnet", network_id=net, cidr="10.0.1.0/24")
    both = dhcp_port(alice, net)
    assert both is not None
    assert both["id"] == port["id"]
    assert [fixed["ip_address"] for fixed in both["fixed_ips"]] == ["10.0.0.2", "10.0.1.2"]
    alice.update("subnet", first["id"], enable_dhcp=False)
    one = dhcp_port(alice, net)
    assert one is not None
    assert [fixed["subnet_id"] for fixed in one["fixed_ips"]] == [second["id"]]
    alice.delete("subnet", second["id"])
    assert dhcp_port(alice, net) is None
    alice.update("subnet", first["id"], enable_dhcp=True)
    assert dhcp_port(alice, net) is not None


def test_nobody_changes_the_dhcp_port(alice: Caller, admin: Caller, net: str, subnet: dict[str, Any]) -> None:
    port = dhcp_port(alice, net)
    assert port is not None
    for caller in (alice, admin):
        assert caller.refused("DELETE", f"/ports/{port['id']}") == (409, "ServicePortInUse")
        assert caller.refused_update("port", port["id"], fixed_ips=[]) == (409, "ServicePortInUse")
        assert caller.refused_create("port", network_id=net, device_owner="network:dhcp")[0] == 400


def test_dhcp_needs_an_address(alice: Caller, net: str) -> None:
    none: dict[str, Any] = {"network_id": net, "cidr": "10.0.0.0/24", "allocation_pools": []}
    assert alice.refused_create("subnet", **none) == (409, "IpAddressGenerationFailure")
    assert alice.ids("subnets") == []
    alice.create("subnet", **none, enable_dhcp=False)
    assert alice.refused_create("port", network_id=net) == (409, "IpAddressGenerationFailure")


def test_delete(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    port = alice.create("port", network_id=net)["id"]
    assert alice.refused("DELETE", f"/subnets/{subnet['id']}") == (409, "SubnetInUse")
    alice.delete("port", port)
    alice.delete("subnet", subnet["id"])
    assert alice.refused("GET", f"/subnets/{subnet['id']}") == (404, "SubnetNotFound")
    assert dhcp_port(alice, net) is None


def test_others(alice: Caller, bob: Caller, reader: Caller, net: str, subnet: dict[str, Any]) -> None:
    assert bob.refused("GET", f"/subnets/{subnet['id']}") == (404, "SubnetNotFound")
    assert bob.refused_update("subnet", subnet["id"], name="x")[0] == 404
    assert bob.refused("DELETE", f"/subnets/{subnet['id']}")[0] == 404
    assert bob.refused_create("subnet", network_id=net, cidr="10.5.0.0/24") == (404, "NetworkNotFound")
    assert bob.ids("subnets") == []
    assert reader.ids("subnets") == [subnet["id"]]
    assert reader.refused("DELETE", f"/subnets/{subnet['id']}")[0] == 403
    assert alice.refused_create("subnet", network_id="nothing", cidr="10.5.0.0/24")[0] == 404


def test_quota(alice: Caller, limited: BuiltinNetwork, net: str) -> None:
    for n in range(2):
        alice.create("subnet", network_id=net, cidr=f"10.{n}.0.0/24")
    assert alice.refused_create("subnet", network_id=net, cidr="10.3.0.0/24") == (409, "OverQuota")


def test_a_change_of_a_subnet_is_one_of_its_network(alice: Caller, net: str) -> None:
    def revision() -> int:
        return int(alice.get(f"/networks/{net}")["network"]["revision_number"])

    before = revision()
    subnet = alice.create("subnet", network_id=net, cidr="10.0.0.0/24")["id"]
    alice.update("subnet", subnet, name="x")
    assert revision() == before + 2
    alice.delete("subnet", subnet)
    assert revision() == before + 3
