"""IPv6 through the API: subnets of each mode, the addresses of ports, dual stack."""

from __future__ import annotations

import uuid
from ipaddress import IPv6Network
from typing import Any

import pytest
from tests.statements import sent

from kilonova.domain.addresses import eui64
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import hosts

from .conftest import ALICE, BOB, Caller

SIX = "2001:db8:1::/64"


def six(who: Caller, net: str, mode: str | None = None, cidr: str = SIX, **more: Any) -> dict[str, Any]:
    modes = {} if mode is None else {"ipv6_ra_mode": mode, "ipv6_address_mode": mode}
    return who.create("subnet", network_id=net, cidr=cidr, ip_version=6, **modes, **more)


def own(mac: str, cidr: str = SIX) -> str:
    return str(eui64(IPv6Network(cidr), mac))


def ips(port: dict[str, Any]) -> list[str]:
    return [fixed["ip_address"] for fixed in port["fixed_ips"]]


def dhcp_addresses(who: Caller, net: str) -> list[str]:
    found = who.get("/ports", network_id=net, device_owner="network:dhcp")["ports"]
    return [ip for port in found for ip in ips(port)]


def boot(network: BuiltinNetwork, net: str, ip: str | None = None) -> str:
    server = str(uuid.uuid4())
    asked = [RequestedNetwork(network_id=net, fixed_ip=ip)]
    network.allocate_for_instance(server, ALICE, "vm", "host1", "nova", asked)
    return server


def test_neutrons_defaults(alice: Caller, net: str) -> None:
    made = six(alice, net)
    wanted = {
        "ip_version": 6,
        "cidr": SIX,
        "gateway_ip": "2001:db8:1::1",
        "allocation_pools": [{"start": "2001:db8:1::2", "end": "2001:db8:1:0:ffff:ffff:ffff:ffff"}],
        "enable_dhcp": True,
        "ipv6_ra_mode": None,
        "ipv6_address_mode": None,
    }
    assert {name: made[name] for name in wanted} == wanted
    assert alice.ids("subnets", ip_version=6) == [made["id"]]
    assert dhcp_addresses(alice, net) == []


@pytest.mark.parametrize("mode", ["slaac", "dhcpv6-stateless"])
def test_ports_have_the_address_of_their_mac(alice: Caller, admin: Caller, net: str, mode: str) -> None:
    made = six(alice, net, mode)
    assert (made["ipv6_ra_mode"], made["ipv6_address_mode"]) == (mode, mode)
    assert alice.ids("subnets", ipv6_ra_mode=mode) == [made["id"]]
    port = alice.create("port", network_id=net)
    assert ips(port) == [own(port["mac_address"])]
    mac = "fa:16:3e:12:34:56"
    moved = admin.update("port", port["id"], mac_address=mac)
    assert ips(moved) == [own(mac)]
    assert alice.update("port", port["id"], fixed_ips=[])["fixed_ips"] == moved["fixed_ips"]
    assert (
        alice.update("port", port["id"], fixed_ips=moved["fixed_ips"])
        == alice.get(f"/ports/{port['id']}")["port"]
    )
    refused = alice.refused_create("port", network_id=net, fixed_ips=[{"ip_address": "2001:db8:1::5"}])
    assert refused == (400, "AllocationOnAutoAddressSubnet")
    assert dhcp_addresses(alice, net) != []


def test_dual_stack(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    six(alice, net, "slaac")
    six(alice, net, cidr="2001:db8:2::/64")
    port = alice.create("port", network_id=net)
    four, manual, automatic = ips(port)
    assert four.startswith("10.0.0.")
    assert manual == "2001:db8:2::2"
    assert automatic == own(port["mac_address"])
    only = alice.create("port", network_id=net, fixed_ips=[{"subnet_id": subnet["id"]}])
    assert [":" in ip for ip in ips(only)] == [False, True]
    spelt = {"fixed_ips": "ip_address=2001:0db8:2:0::2"}
    assert alice.ids("ports", **spelt) == [port["id"]]
    taken = [{"ip_address": "2001:db8:2:0:0:0:0:2"}]
    assert alice.refused_create("port", network_id=net, fixed_ips=taken) == (409, "IpAddressInUse")


def test_an_automatic_subnet_comes_and_goes_under_ports(
    alice: Caller, network: BuiltinNetwork, net: str, subnet: dict[str, Any]
) -> None:
    server = boot(network, net)
    free = alice.create("port", network_id=net)
    made = six(alice, net, "slaac")
    (vif,) = network.vifs([server])[server]
    assert [address.ip for address in vif.addresses][1:] == [own(vif.mac)]
    assert ips(alice.get(f"/ports/{free['id']}")["port"])[1:] == [own(free["mac_address"])]
    alice.delete("subnet", made["id"])
    (vif,) = network.vifs([server])[server]
    assert len(vif.addresses) == 1
    assert [":" in ip for ip in dhcp_addresses(alice, net)] == [False]


def test_an_automatic_subnet_costs_no_more_with_many_ports(
    alice: Caller, network: BuiltinNetwork, net: str
) -> None:
    def cost() -> tuple[int, int]:
        with sent(network.db) as come:
            made = six(alice, net, "slaac")["id"]
        with sent(network.db) as go:
            alice.delete("subnet", made)
        return len(come), len(go)

    for _ in range(2):
        boot(network, net)
        alice.create("port", network_id=net)
    few = cost()
    for _ in range(3):
        boot(network, net)
        alice.create("port", network_id=net)
    assert cost() == few


def test_the_only_subnet_goes_with_the_dhcp_port(alice: Caller, net: str) -> None:
    made = six(alice, net, "slaac")
    assert len(alice.ids("ports", network_id=net)) == 1
    alice.delete("subnet", made["id"])
    assert alice.ids("ports", network_id=net) == []


def test_a_manual_subnet_stays_while_it_is_used(alice: Caller, net: str) -> None:
    made = six(alice, net)
    alice.create("port", network_id=net)
    assert alice.refused("DELETE", f"/subnets/{made['id']}") == (409, "SubnetInUse")


def test_stateful_addresses_are_given_out(alice: Caller, net: str) -> None:
    six(alice, net, "dhcpv6-stateful")
    port = alice.create("port", network_id=net)
    assert dhcp_addresses(alice, net) == ["2001:db8:1::2"]
    assert ips(port) == ["2001:db8:1::3"]


@pytest.mark.parametrize(
    "said",
    [
        {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "dhcpv6-stateful"},
        {"ipv6_ra_mode": "slaac", "enable_dhcp": False},
        {"ipv6_ra_mode": "slaac", "cidr": "2001:db8:1::/80"},
        {"ipv6_ra_mode": "nonsense"},
        {"ip_version": 4, "ipv6_ra_mode": "slaac", "cidr": "10.9.0.0/24"},
        {"ip_version": 4},
        {"ip_version": 5},
        {"cidr": "10.9.0.0/24"},
        {"cidr": "2001:db8::/32"},
        {"gateway_ip": "10.0.0.1"},
        {"gateway_ip": "2001:db8:9::1"},
        {"gateway_ip": "fe80::1%eth0"},
        {"dns_nameservers": ["9.9.9.9"]},
        {"host_routes": [{"destination": "10.0.0.0/8", "nexthop": "10.0.0.1"}]},
    ],
)
def test_nonsense(alice: Caller, net: str, said: dict[str, Any]) -> None:
    asked = {"network_id": net, "cidr": SIX, "ip_version": 6} | said
    assert alice.refused_create("subnet", **asked) == (400, "InvalidInput")


def test_pools_of_ipv6(alice: Caller, net: str) -> None:
    def pool(start: str, end: str) -> tuple[int, str]:
        asked = {"network_id": net, "cidr": SIX, "ip_version": 6}
        return alice.refused_create("subnet", **asked, allocation_pools=[{"start": start, "end": end}])

    assert pool("10.0.0.2", "10.0.0.3") == (400, "InvalidAllocationPool")
    assert pool("2001:db8:1::9", "2001:db8:1::8") == (400, "InvalidAllocationPool")
    assert pool("2001:db8:1::9", "2001:db8:2::a") == (400, "OutOfBoundsAllocationPool")
    assert pool("2001:db8:1::", "2001:db8:1::a") == (400, "OutOfBoundsAllocationPool")
    assert pool("2001:db8:1::1", "2001:db8:1::a") == (409, "GatewayConflictWithAllocationPools")


def test_updates(alice: Caller, net: str) -> None:
    made = six(alice, net, "slaac", dns_nameservers=["2001:DB8::53"])
    assert made["dns_nameservers"] == ["2001:db8::53"]
    for said in ({"enable_dhcp": False}, {"ipv6_ra_mode": "dhcpv6-stateful"}, {"gateway_ip": "10.0.0.1"}):
        assert alice.refused_update("subnet", made["id"], **said)[0] == 400
    changed = alice.update("subnet", made["id"], gateway_ip=None, dns_nameservers=["2001:db8::54"])
    assert (changed["gateway_ip"], changed["dns_nameservers"]) == (None, ["2001:db8::54"])


def test_a_link_that_cannot_carry_it(alice: Caller) -> None:
    small = alice.create("network", mtu=1279)["id"]
    asked = {"network_id": small, "cidr": SIX, "ip_version": 6}
    assert alice.refused_create("subnet", **asked) == (400, "InvalidInput")
    net = alice.create("network", mtu=1280)["id"]
    six(alice, net)
    assert alice.refused_update("network", net, mtu=1279) == (400, "InvalidInput")


def test_address_pairs(alice: Caller, net: str) -> None:
    pairs = [{"ip_address": "2001:0DB8::5"}, {"ip_address": "2001:db8:5::/48"}]
    port = alice.create("port", network_id=net, allowed_address_pairs=pairs)
    shown = [pair["ip_address"] for pair in port["allowed_address_pairs"]]
    assert shown == ["2001:db8::5", "2001:db8:5::/48"]
    twice = [{"ip_address": "2001:db8::5"}, {"ip_address": "2001:db8:0::5"}]
    for wrong in (twice, [{"ip_address": "fe80::1%eth0"}]):
        assert alice.refused_update("port", port["id"], allowed_address_pairs=wrong)[0] == 400


def test_a_server_with_an_address_that_it_asked_for(alice: Caller, network: BuiltinNetwork, net: str) -> None:
    six(alice, net)
    server = boot(network, net, "2001:db8:1::77")
    (vif,) = network.vifs([server])[server]
    assert [address.ip for address in vif.addresses] == ["2001:db8:1::77"]


def test_external_networks_have_none(admin: Caller, alice: Caller) -> None:
    outside = admin.create("network", **{"router:external": True})["id"]
    asked = {"network_id": outside, "cidr": SIX, "ip_version": 6}
    assert admin.refused_create("subnet", **asked) == (400, "InvalidInput")
    inside = admin.create("network")["id"]
    six(admin, inside)
    assert admin.refused_update("network", inside, **{"router:external": True}) == (400, "InvalidInput")


def test_a_router_has_the_gateways_of_both(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    made = six(alice, net, "slaac")
    router = alice.create("router")["id"]
    for one in (subnet, made):
        joined = alice("PUT", f"/routers/{router}/add_router_interface", {"subnet_id": one["id"]})
        assert joined.status_code == 200, joined.text
        port = alice.get(f"/ports/{joined.json['port_id']}")["port"]
        assert ips(port) == [one["gateway_ip"]]
    assert alice.refused("DELETE", f"/subnets/{made['id']}") == (409, "SubnetInUse")
    other = alice.create("network")["id"]
    same = six(alice, other, "slaac")
    path = f"/routers/{router}/add_router_interface"
    assert alice.refused("PUT", path, {"subnet_id": same["id"]})[0] == 400
    routes = [{"destination": "2001:db8:9::/64", "nexthop": "2001:db8:1::5"}]
    assert alice.refused_update("router", router, routes=routes)[0] == 400
    assert (
        alice("PUT", f"/routers/{router}/remove_router_interface", {"subnet_id": made["id"]}).status_code
        == 200
    )
    alice.delete("subnet", made["id"])


def test_only_a_router_at_the_gateways_address_advertises(
    alice: Caller, bob: Caller, admin: Caller, network: BuiltinNetwork, net: str
) -> None:
    """Whoever the network is shared with has a router there too, but no guest may follow that."""
    policy = {"object_type": "network", "object_id": net, "target_tenant": BOB, "action": "access_as_shared"}
    assert admin("POST", "/rbac-policies", {"rbac_policy": policy}).status_code == 201
    made = six(alice, net, "slaac")
    with network.db.write() as conn:
        hosts.seen(conn, "nova-compute", "h1", "nova")
    leads = alice.create("router")["id"]
    poses = bob.create("router")["id"]
    port = bob.create("port", network_id=net)["id"]
    asked = {"subnet_id": made["id"]}
    assert alice("PUT", f"/routers/{leads}/add_router_interface", asked).status_code == 200
    assert bob("PUT", f"/routers/{poses}/add_router_interface", {"port_id": port}).status_code == 200
    modes = {
        router.id: [address.ra_mode for interface in router.interfaces for address in interface.addresses]
        for router in network.host_routers("h1").routers
    }
    assert modes == {leads: ["slaac"], poses: [None]}
