"""Ports through the API."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from kilonova.domain.context import RequestContext
from kilonova.domain.dhcp_options import DhcpOption
from kilonova.domain.errors import Forbidden
from kilonova.domain.hosts import Capacity, HostReport
from kilonova.domain.network import PlugKind
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import hosts

from .conftest import ALICE, BOB, Caller


def boot(network: BuiltinNetwork, **asked: str) -> str:
    server = str(uuid.uuid4())
    network.allocate_for_instance(server, ALICE, "vm", "host1", "nova", [RequestedNetwork(**asked)])
    return server


def test_a_new_port_has_neutrons_attributes(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    made = alice.create("port", network_id=net, name="p", description="d", dns_name="box")
    assert made["mac_address"].startswith("fa:16:3e:")
    assert made == {
        "id": made["id"],
        "name": "p",
        "description": "d",
        "project_id": ALICE,
        "tenant_id": ALICE,
        "network_id": net,
        "mac_address": made["mac_address"],
        "fixed_ips": [{"subnet_id": subnet["id"], "ip_address": "10.0.0.3"}],
        "admin_state_up": True,
        "status": "DOWN",
        "device_id": "",
        "device_owner": "",
        "dns_name": "box",
        "extra_dhcp_opts": [],
        "security_groups": made["security_groups"],
        "port_security_enabled": True,
        "allowed_address_pairs": [],
        "binding:vnic_type": "normal",
        "tags": [],
        "revision_number": 0,
        "created_at": made["created_at"],
        "updated_at": made["updated_at"],
    }
    assert len(made["security_groups"]) == 1
    assert alice.get(f"/ports/{made['id']}")["port"] == made


def test_fixed_ips_by_subnet_and_by_address(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    other = alice.create("subnet", network_id=net, cidr="10.0.1.0/24")["id"]

    def addresses(*fixed_ips: dict[str, str]) -> list[str]:
        made = alice.create("port", network_id=net, fixed_ips=list(fixed_ips))
        return [fixed["ip_address"] for fixed in made["fixed_ips"]]

    assert addresses() == []
    assert addresses({"subnet_id": other}) == ["10.0.1.3"]
    assert addresses({"ip_address": "10.0.1.9"}) == ["10.0.1.9"]
    assert addresses({"ip_address": "10.0.0.4", "subnet_id": subnet["id"]}) == ["10.0.0.4"]
    # The free choices leave 10.0.0.5, which is named after them.
    assert addresses(
        {"subnet_id": subnet["id"]}, {"subnet_id": subnet["id"]}, {"ip_address": "10.0.0.5"}
    ) == ["10.0.0.3", "10.0.0.6", "10.0.0.5"]


@pytest.mark.parametrize(
    ("fixed", "answer"),
    [
        ({"ip_address": "10.0.0.2"}, (409, "IpAddressInUse")),
        ({"ip_address": "10.0.0.1"}, (409, "IpAddressInUse")),
        ({"ip_address": "10.0.0.0"}, (400, "InvalidIpForSubnet")),
        ({"ip_address": "10.0.0.255"}, (400, "InvalidIpForSubnet")),
        ({"ip_address": "10.9.0.5"}, (400, "InvalidIpForNetwork")),
        ({"ip_address": "x"}, (400, "InvalidInput")),
        ({"ip_address": "fd00::1"}, (400, "InvalidIpForNetwork")),
        ({"subnet_id": "nothing"}, (400, "InvalidInput")),
        ({}, (400, "InvalidInput")),
        ({"foo": 1}, (400, "HTTPBadRequest")),
        ({"ip_address": 7}, (400, "HTTPBadRequest")),
    ],
)
def test_wrong_addresses(
    alice: Caller, net: str, subnet: dict[str, Any], fixed: dict[str, Any], answer: tuple[int, str]
) -> None:
    assert alice.refused_create("port", network_id=net, fixed_ips=[fixed]) == answer
    twice = [{"ip_address": "10.0.0.9"}, {"ip_address": "10.0.0.9"}]
    assert alice.refused_create("port", network_id=net, fixed_ips=twice) == (409, "IpAddressInUse")


def test_an_address_of_another_networks_subnet(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    other = alice.create("network")["id"]
    foreign = [{"subnet_id": subnet["id"]}]
    assert alice.refused_create("port", network_id=other, fixed_ips=foreign) == (400, "InvalidInput")


@pytest.mark.parametrize(
    "wrong",
    [
        {"mac_address": "01:00:5e:00:00:01"},
        {"mac_address": "00:00:00:00:00:00"},
        {"mac_address": "fa:16:3e:00:00"},
        {"mac_address": "fa-16-3e-00-00-01"},
        {"device_owner": "network:router_interface"},
        {"device_id": 5},
        {"dns_name": "-bad-"},
        {"dns_name": "a b"},
        {"binding:vnic_type": "direct"},
        {"allowed_address_pairs": [{"ip_address": "x"}]},
        {"allowed_address_pairs": [{"ip_address": "10.0.0.9", "mac_address": "x"}]},
        {"allowed_address_pairs": [{"mac_address": "fa:16:3e:00:00:01"}]},
        {"allowed_address_pairs": [{"ip_address": "10.0.0.9"}] * 2},
        {"security_groups": [5]},
        {"fixed_ips": {}},
        {"network_id": 3},
        {"status": "ACTIVE"},
    ],
)
def test_wrong_ports(alice: Caller, net: str, wrong: dict[str, Any]) -> None:
    assert alice.refused_create("port", **{"network_id": net, **wrong})[0] == 400


def test_macs_are_unique_on_their_network(alice: Caller, net: str) -> None:
    mac = alice.create("port", network_id=net, mac_address="FA:16:3E:AA:BB:CC")["mac_address"]
    assert mac == "fa:16:3e:aa:bb:cc"
    assert alice.refused_create("port", network_id=net, mac_address=mac) == (409, "MacAddressInUse")
    other = alice.create("network")["id"]
    assert alice.create("port", network_id=other, mac_address=mac)["mac_address"] == mac


def test_port_security_and_address_pairs(alice: Caller, net: str) -> None:
    pairs = [{"ip_address": "10.0.0.0/25"}, {"ip_address": "10.9.9.9", "mac_address": "FA:16:3E:00:00:01"}]
    port = alice.create("port", network_id=net, allowed_address_pairs=pairs)
    assert port["allowed_address_pairs"] == [
        {"ip_address": "10.0.0.0/25", "mac_address": port["mac_address"]},
        {"ip_address": "10.9.9.9", "mac_address": "fa:16:3e:00:00:01"},
    ]
    required = (409, "AddressPairAndPortSecurityRequired")
    assert alice.refused_update("port", port["id"], port_security_enabled=False) == required
    off = {"port_security_enabled": False, "security_groups": []}
    changed = alice.update("port", port["id"], allowed_address_pairs=[], **off)
    assert changed["port_security_enabled"] is False
    open_net = alice.create("network", port_security_enabled=False)["id"]
    assert alice.create("port", network_id=open_net)["port_security_enabled"] is False
    assert alice.refused_create("port", network_id=open_net, allowed_address_pairs=pairs) == required


def test_update(alice: Caller, admin: Caller, net: str, subnet: dict[str, Any]) -> None:
    port = alice.create("port", network_id=net)
    kept = port["fixed_ips"]
    changed = alice.update("port", port["id"], fixed_ips=[*kept, {"subnet_id": subnet["id"]}], name="n")
    assert [fixed["ip_address"] for fixed in changed["fixed_ips"]] == ["10.0.0.3", "10.0.0.4"]
    assert changed["revision_number"] == 1
    assert alice.update("port", port["id"], fixed_ips=changed["fixed_ips"])["revision_number"] == 1
    by_subnet = [{"subnet_id": subnet["id"]}, {"ip_address": "10.0.0.4"}]
    assert alice.update("port", port["id"], fixed_ips=by_subnet)["fixed_ips"] == changed["fixed_ips"]
    moved = alice.update("port", port["id"], fixed_ips=[{"ip_address": "10.0.0.50"}], device_id="mine")
    assert [fixed["ip_address"] for fixed in moved["fixed_ips"]] == ["10.0.0.50"]
    again = alice.create("port", network_id=net, fixed_ips=[{"ip_address": "10.0.0.3"}])
    assert alice.refused_update("port", again["id"], fixed_ips=moved["fixed_ips"]) == (409, "IpAddressInUse")
    assert alice.get(f"/ports/{again['id']}")["port"]["fixed_ips"] == again["fixed_ips"]
    assert admin.refused_update("port", again["id"], mac_address=port["mac_address"])[0] == 409
    assert alice.refused_update("port", again["id"], mac_address="fa:16:3e:12:34:56")[0] == 403
    assert alice.update("port", again["id"], mac_address=again["mac_address"])["name"] == ""
    assert alice.refused_update("port", again["id"], network_id=net)[0] == 400


def test_binding_is_for_admins(alice: Caller, admin: Caller, net: str) -> None:
    for attribute in ({"binding:host_id": "h"}, {"binding:profile": {"a": 1}}):
        assert alice.refused_create("port", network_id=net, **attribute) == (403, "PolicyNotAuthorized")
    port = admin.create(
        "port", network_id=net, tenant_id=ALICE, **{"binding:host_id": "h", "binding:profile": {"a": [1]}}
    )
    assert port["binding:host_id"] == "h"
    assert port["binding:profile"] == {"a": [1]}
    assert port["binding:vif_type"] == "unbound"
    assert admin.ids("ports", **{"binding:host_id": "h"}) == [port["id"]]
    assert "binding:host_id" not in alice.get(f"/ports/{port['id']}")["port"]
    for profile in ({"a": "x" * 5000}, "x", []):
        assert admin("PUT", f"/ports/{port['id']}", {"port": {"binding:profile": profile}}).status_code == 400
    assert admin.update("port", port["id"], **{"binding:host_id": None})["binding:host_id"] == ""


@pytest.mark.parametrize("depth", [100, 500, 900, 5000])
def test_a_deep_profile_is_taken_or_refused(admin: Caller, net: str, depth: int) -> None:
    profile = b'{"a":' * depth + b"1" + b"}" * depth
    body = b'{"port": {"network_id": "%s", "binding:profile": %s}}' % (net.encode(), profile)
    headers = {"X-Auth-Token": "admin", "Content-Type": "application/json"}
    result = admin.client.simulate_post("/networking/v2.0/ports", body=body, headers=headers)
    assert result.status_code in (201, 400)
    assert len(admin.ids("ports")) == (result.status_code == 201)


def test_a_port_on_anothers_shared_network(bob: Caller, admin: Caller) -> None:
    shared = admin.create("network", shared=True)["id"]
    subnet = admin.create("subnet", network_id=shared, cidr="10.0.0.0/24")["id"]
    port = bob.create("port", network_id=shared, fixed_ips=[{"subnet_id": subnet}])
    for attribute in (
        {"fixed_ips": [{"ip_address": "10.0.0.9"}]},
        {"mac_address": "fa:16:3e:00:00:01"},
        {"port_security_enabled": False},
        {"allowed_address_pairs": [{"ip_address": "10.0.0.9"}]},
        {"device_owner": "network:router_interface"},
    ):
        assert bob.refused_create("port", network_id=shared, **attribute) == (403, "PolicyNotAuthorized")
        assert bob.refused_update("port", port["id"], **attribute) == (403, "PolicyNotAuthorized")
    more = bob.update("port", port["id"], fixed_ips=[*port["fixed_ips"], {"subnet_id": subnet}])
    assert len(more["fixed_ips"]) == 2
    assert bob.ids("ports") == [port["id"]]
    bob.delete("port", port["id"])


def test_a_networks_owner_changes_no_port_of_others(alice: Caller, bob: Caller, admin: Caller) -> None:
    """Neutron's update_port is the port's owner's; the network's may look and delete."""
    shared = admin.create("network", project_id=ALICE, shared=True)["id"]
    alice.create("subnet", network_id=shared, cidr="10.0.0.0/24")
    port = bob.create("port", network_id=shared)["id"]
    assert alice.get(f"/ports/{port}")["port"]["project_id"] == BOB
    for change in ({"admin_state_up": False}, {"security_groups": []}, {"port_security_enabled": False}):
        assert alice.refused_update("port", port, **change) == (403, "PolicyNotAuthorized")
    assert bob.update("port", port, name="mine")["name"] == "mine"
    alice.delete("port", port)


@pytest.mark.parametrize("plug", ["ovs-hybrid", "ovs"])
def test_a_port_shows_its_hosts_plug(
    admin: Caller, network: BuiltinNetwork, net: str, subnet: dict[str, Any], plug: PlugKind
) -> None:
    told = HostReport(
        hypervisor_hostname="host1",
        hypervisor_type="QEMU",
        hypervisor_version=1,
        host_ip="192.0.2.1",
        total=Capacity(vcpus=1, memory_mb=1, disk_gb=1),
        plug=plug,
    )
    with network.db.write() as conn:
        hosts.report_all(conn, {"host1": told}, "nova", network.config.compute)
    (port,) = admin.get("/ports", device_id=boot(network, network_id=net))["ports"]
    assert port["binding:vif_type"] == "ovs"
    hybrid = {"ovs_hybrid_plug": plug == "ovs-hybrid"}
    details = {"connectivity": "l2", "port_filter": True, "bridge_name": "br-int"}
    assert port["binding:vif_details"] == details | hybrid


def test_others(alice: Caller, bob: Caller, reader: Caller, admin: Caller, net: str) -> None:
    port = alice.create("port", network_id=net)["id"]
    assert bob.refused("GET", f"/ports/{port}") == (404, "PortNotFound")
    assert bob.refused_update("port", port, name="x") == (404, "PortNotFound")
    assert bob.refused("DELETE", f"/ports/{port}") == (404, "PortNotFound")
    assert reader.ids("ports") == [port]
    assert reader.refused("DELETE", f"/ports/{port}") == (403, "PolicyNotAuthorized")
    # The owner of a network sees every port on it, and may clear it.
    foreign = admin.create("port", network_id=net, tenant_id=BOB)["id"]
    assert set(alice.ids("ports")) == {port, foreign}
    alice.delete("port", foreign)


def test_a_servers_port_stays_as_it_is(
    alice: Caller, admin: Caller, network: BuiltinNetwork, net: str, subnet: dict[str, Any]
) -> None:
    server = boot(network, network_id=net)
    (port,) = admin.get("/ports", device_id=server)["ports"]
    assert port["device_owner"] == "compute:nova"
    assert port["binding:host_id"] == "host1"
    assert port["binding:vif_type"] == "bridge"
    details = {"connectivity": "l2", "port_filter": True, "bridge_name": f"brq{net[:11]}"}
    assert port["binding:vif_details"] == details
    assert port["dns_name"] == "vm"
    for change in (
        {"device_id": ""},
        {"mac_address": "fa:16:3e:00:00:01"},
        {"binding:host_id": "other"},
    ):
        assert admin.refused_update("port", port["id"], **change) == (409, "PortInUse")
    assert alice.refused("DELETE", f"/networks/{net}") == (409, "NetworkInUse")
    assert alice.refused("DELETE", f"/subnets/{subnet['id']}") == (409, "SubnetInUse")
    alice.update("port", port["id"], name="n", device_id=server, fixed_ips=port["fixed_ips"])


def test_the_status_is_what_hosts_say(
    alice: Caller, network: BuiltinNetwork, net: str, subnet: dict[str, Any]
) -> None:
    def statuses() -> set[str]:
        return {port["status"] for port in alice.get("/ports", network_id=net)["ports"]}

    server, other = boot(network, network_id=net), boot(network, network_id=net)
    assert statuses() == {"DOWN"}
    network.port_status([server], True)
    network.port_status([other], True)
    network.port_status([other], True)
    assert statuses() == {"ACTIVE"}  # DHCP's too
    network.port_status([other], False)
    assert len(alice.ids("ports", status="DOWN")) == 1
    network.deallocate_for_instance(server)
    assert statuses() == {"DOWN"}


def test_quota(alice: Caller, limited: BuiltinNetwork, net: str) -> None:
    alice.create("subnet", network_id=net, cidr="10.0.0.0/24")  # its DHCP port does not count
    for _ in range(2):
        alice.create("port", network_id=net)
    assert alice.refused_create("port", network_id=net) == (409, "OverQuota")


def told(port: dict[str, Any]) -> dict[str, str]:
    return {option["opt_name"]: option["opt_value"] for option in port["extra_dhcp_opts"]}


def test_dhcp_options_of_a_port(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    def option(name: str, value: str | None, **more: Any) -> dict[str, Any]:
        return {"opt_name": name, "opt_value": value, **more}

    port = alice.create("port", network_id=net)
    assert port["extra_dhcp_opts"] == []
    asked = [option("bootfile-name", "pxelinux.0"), option("router", ""), option("150", "192.0.2.1")]
    port = alice.update("port", port["id"], extra_dhcp_opts=asked)
    assert told(port) == {"bootfile-name": "pxelinux.0", "router": "", "150": "192.0.2.1"}
    revision = port["revision_number"]
    more = [option("bootfile-name", "other.0"), option("router", None), option("ntp-server", "192.0.2.2")]
    port = alice.update("port", port["id"], extra_dhcp_opts=more)
    assert told(port) == {"bootfile-name": "other.0", "150": "192.0.2.1", "ntp-server": "192.0.2.2"}
    assert port["revision_number"] > revision
    assert told(alice.update("port", port["id"], name="p")) == told(port)
    assert told(alice.update("port", port["id"], extra_dhcp_opts=[])) == told(port)
    assert told(alice.update("port", port["id"], extra_dhcp_opts=[option("150", None)])) == {
        "bootfile-name": "other.0",
        "ntp-server": "192.0.2.2",
    }
    for wrong in (
        option("nonsense", "1"),
        option("client-id", "x"),
        option("51", "1"),
        option("dns-server", "x"),
        option("dns-server", "10.0.0.1,"),
        option("mtu", "65536"),
        option("mtu", "-1"),
        option("bootfile-name", "a,b"),
        option("bootfile-name", "a\nb"),
        option("bootfile-name", "a #b"),
        option("bootfile-name", "x" * 256),
        option("classless-static-route", "10.0.0.0/33,10.0.0.1"),
        option("classless-static-route", "10.0.0.0/24"),
        option("200", "1.2.3.4/24"),
        option("200", "12:34:zz,5"),
        option("domain-search", "a..b"),
        option("bootfile-name", "x", ip_version=6),
        option("bootfile-name", "x", ip_version=5),
        {"opt_name": "mtu"},
    ):
        assert alice.refused_update("port", port["id"], extra_dhcp_opts=[wrong])[0] == 400, wrong
    assert alice.refused_create("port", network_id=net, extra_dhcp_opts=[option("x", "y")])[0] == 400


def test_the_host_of_a_nic_is_told_of_its_dhcp_options(
    alice: Caller, network: BuiltinNetwork, net: str, subnet: dict[str, Any]
) -> None:
    port = alice.create("port", network_id=net)["id"]
    asked = [RequestedNetwork(network_id=net, port_id=port)]
    (vif,) = network.allocate_for_instance("server", ALICE, "h", "host", "zone", asked)
    assert vif.extra_dhcp_opts == []
    heard: list[Any] = []
    network._tell = heard.append
    mtu = {"opt_name": "mtu", "opt_value": "1400"}
    alice.update("port", port, extra_dhcp_opts=[mtu])
    assert [list(change.servers) for change in heard if change.servers] == [[("host", "server")]]
    (now,) = network.vifs(["server"])["server"]
    assert now.extra_dhcp_opts == [DhcpOption(opt_name="mtu", opt_value="1400")]
    assert now.wiring != vif.wiring


def test_a_port_on_an_external_network(
    alice: Caller, reader: Caller, admin: Caller, network: BuiltinNetwork
) -> None:
    """Whom it leads outside may have ports there, as in Neutron, but choose nothing there."""
    public = admin.create("network", **{"router:external": True})["id"]
    subnet = admin.create("subnet", network_id=public, cidr="198.51.100.0/24", enable_dhcp=False)["id"]
    port = alice.create("port", network_id=public)
    assert port["fixed_ips"] == [{"subnet_id": subnet, "ip_address": "198.51.100.2"}]
    denied = (403, "PolicyNotAuthorized")
    for fixed in ({"subnet_id": subnet}, {"ip_address": "198.51.100.9"}):
        assert alice.refused_create("port", network_id=public, fixed_ips=[fixed]) == denied
    assert alice.refused_create("port", network_id=public, mac_address="fa:16:3e:00:00:09") == denied
    assert alice.refused_create("port", network_id=public, port_security_enabled=False) == denied
    assert reader.refused_create("port", network_id=public) == denied
    asked = [RequestedNetwork(port_id=port["id"])]
    with pytest.raises(Forbidden, match="external network"):
        network.validate(RequestContext(request_id="r", user_id="u", project_id=ALICE), asked, 1)
    admin.create("port", network_id=public, fixed_ips=[{"ip_address": "198.51.100.9"}])
    assert admin.refused("DELETE", f"/networks/{public}") == (409, "NetworkInUse")
    alice.delete("port", port["id"])
    admin.update("network", public, shared=True)
    alice.create("port", network_id=public, fixed_ips=[{"subnet_id": subnet}])
