"""Subnets that give addresses to ports of some device owners alone (Neutron's service types)."""

from __future__ import annotations

from typing import Any

import pytest

from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, BuildAborted
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.builtin.service import BuiltinNetwork

from .conftest import ALICE, Caller

SOMEBODY = RequestContext(request_id="r", user_id="u", project_id=ALICE, roles=frozenset({"member"}))


@pytest.fixture
def shared(admin: Caller) -> str:
    """A network that leads outside, and that everybody may use."""
    made = admin.create("network", name="n", shared=True)
    return str(made["id"])


def made(admin: Caller, net: str, number: int, *types: str, **more: Any) -> str:
    cidr = f"198.51.{number}.0/24"
    return str(
        admin.create(
            "subnet", network_id=net, cidr=cidr, enable_dhcp=False, service_types=list(types), **more
        )["id"]
    )


def subnets_of(port: dict[str, Any]) -> list[str]:
    return [fixed["subnet_id"] for fixed in port["fixed_ips"]]


def test_a_port_gets_what_is_for_its_owner(alice: Caller, admin: Caller, shared: str) -> None:
    plain = made(admin, shared, 1)
    compute = made(admin, shared, 2, "compute:nova", "compute:nova")
    router = made(admin, shared, 3, "network:router_gateway")
    assert admin.get(f"/subnets/{compute}")["subnet"]["service_types"] == ["compute:nova"]
    assert admin.get(f"/subnets/{plain}")["subnet"]["service_types"] == []
    for owner, subnet in (("compute:nova", compute), ("compute:other", plain), ("", plain)):
        port = alice.create("port", network_id=shared, device_owner=owner)
        assert subnets_of(port) == [subnet], owner
    named = admin.create("port", network_id=shared, fixed_ips=[{"subnet_id": router}])
    assert subnets_of(named) == [router]
    changed = admin.update("subnet", plain, service_types=["compute:other"])
    assert changed["service_types"] == ["compute:other"]
    refused = alice.refused_create("port", network_id=shared)
    assert refused == (409, "IpAddressGenerationFailureNoMatchingSubnet")
    assert admin.update("subnet", plain, service_types=[])["service_types"] == []
    assert subnets_of(alice.create("port", network_id=shared)) == [plain]


def test_what_is_for_all_stands_in_for_what_is_full(alice: Caller, admin: Caller, shared: str) -> None:
    plain = made(admin, shared, 1)
    pools = [{"start": "198.51.2.9", "end": "198.51.2.9"}]
    own = made(admin, shared, 2, "compute:nova", allocation_pools=pools)
    got = [subnets_of(alice.create("port", network_id=shared, device_owner="compute:nova")) for _ in range(2)]
    assert got == [[own], [plain]]


def test_nics_gateways_and_floating_ips(
    alice: Caller, admin: Caller, network: BuiltinNetwork, shared: str
) -> None:
    compute, others = made(admin, shared, 1, "compute:zone"), made(admin, shared, 2, "compute:elsewhere")

    def build(zone: str) -> list[str]:
        asked = [RequestedNetwork(network_id=shared)]
        (vif,) = network.allocate_for_instance(f"server-{zone}", ALICE, "h", "host", zone, asked)
        return [address.subnet.id for address in vif.addresses]

    assert (build("zone"), build("elsewhere")) == ([compute], [others])
    with pytest.raises(BuildAborted, match="compute:nowhere"):
        build("nowhere")
    for subnet in (compute, others):
        admin.update("subnet", subnet, service_types=["network:router_interface"])
    with pytest.raises(BadRequest, match="no subnet for servers"):
        network.validate(SOMEBODY, [RequestedNetwork(network_id=shared)], 1)
    public = admin.create("network", **{"router:external": True})["id"]
    floating, gateway = (
        made(admin, public, number, owner)
        for number, owner in ((3, "network:floatingip"), (4, "network:router_gateway"))
    )
    held = alice.create("floatingip", floating_network_id=public)["floating_ip_address"]
    assert held.startswith("198.51.3.")
    router = alice.create("router", external_gateway_info={"network_id": public})
    (fixed,) = router["external_gateway_info"]["external_fixed_ips"]
    assert fixed["subnet_id"] == gateway != floating


def test_automatic_addresses_too(alice: Caller, admin: Caller, shared: str) -> None:
    made(admin, shared, 1)
    before = {
        owner: alice.create("port", network_id=shared, device_owner=owner)["id"]
        for owner in ("compute:nova", "")
    }
    six = admin.create(
        "subnet",
        network_id=shared,
        ip_version=6,
        cidr="2001:db8::/64",
        ipv6_address_mode="slaac",
        service_types=["compute:nova"],
    )["id"]
    for owner, there in before.items():
        now = alice.create("port", network_id=shared, device_owner=owner)
        for port in (alice.get(f"/ports/{there}")["port"], now):
            assert (six in subnets_of(port)) == (owner == "compute:nova"), owner


def test_who_may_and_what(alice: Caller, admin: Caller, net: str) -> None:
    said = {"network_id": net, "cidr": "10.9.0.0/24"}
    denied = (403, "PolicyNotAuthorized")
    assert alice.refused_create("subnet", **said, service_types=["compute:nova"]) == denied
    own = alice.create("subnet", **said, service_types=[])["id"]
    assert alice.refused_update("subnet", own, service_types=["compute:nova"]) == denied
    for wrong in ("nova", "", "compute"):
        refused = admin.refused_update("subnet", own, service_types=[wrong])
        assert refused == (400, "InvalidSubnetServiceType")
    assert admin.refused_update("subnet", own, service_types="compute:nova")[0] == 400
    assert admin.refused_update("subnet", own, service_types=[1])[0] == 400
    assert admin.update("subnet", own, service_types=None)["service_types"] == []


def test_filters(admin: Caller, shared: str) -> None:
    plain, one = made(admin, shared, 1), made(admin, shared, 2, "compute:nova")
    two = made(admin, shared, 3, "compute:nova_2", "network:floatingip")
    for asked, found in (
        ("compute:nova", [one]),
        ("compute:nova_", []),
        ("network:floatingip", [two]),
        ("%", []),
        ("", [plain]),
        (["compute:nova", "compute:nova_2"], sorted([one, two])),
    ):
        assert sorted(admin.ids("subnets", service_types=asked)) == found, asked
