"""Address groups over Neutron's API, and what hosts are told of them."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from tests.functional.network.conftest import ALICE, BOB, Caller

from kilonova.domain.hosts import Capacity, HostReport
from kilonova.domain.security_groups import Filter
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import hosts, port_security
from kilonova.store.schema.security_groups import security_group_rules

GROUP, RULE = "address_group", "security_group_rule"


@pytest.fixture
def friends(alice: Caller) -> str:
    return str(alice.create(GROUP, name="friends", addresses=["192.0.2.0/24"])["id"])


def change(caller: Caller, group: str, what: str, *addresses: str) -> Any:
    return caller("PUT", f"/address-groups/{group}/{what}_addresses", {"addresses": list(addresses)})


def test_the_life_of_an_address_group(alice: Caller, friends: str) -> None:
    shown = alice.get(f"/address-groups/{friends}")[GROUP]
    assert shown == {
        "id": friends,
        "name": "friends",
        "description": "",
        "project_id": ALICE,
        "tenant_id": ALICE,
        "addresses": ["192.0.2.0/24"],
        "shared": False,
        "tags": [],
        "revision_number": shown["revision_number"],
        "created_at": shown["created_at"],
        "updated_at": shown["updated_at"],
    }
    more = change(alice, friends, "add", "10.1.2.3", "fd00::5/8", "10.1.2.3/32").json[GROUP]
    assert more["addresses"] == ["10.1.2.3/32", "192.0.2.0/24", "fd00::/8"]
    assert more["revision_number"] > shown["revision_number"]
    assert change(alice, friends, "remove", "192.0.2.7/24").json[GROUP]["addresses"] == [
        "10.1.2.3/32",
        "fd00::/8",
    ]
    assert alice.update(GROUP, friends, name="others")["name"] == "others"
    page = alice.get("/address-groups", name="others", sort_key="name")["address_groups"]
    assert [one["id"] for one in page] == [friends]
    empty = alice.create(GROUP)
    assert (empty["name"], empty["addresses"]) == ("", [])
    alice.delete(GROUP, friends)
    assert alice.refused("GET", f"/address-groups/{friends}") == (404, "AddressGroupNotFound")


def test_what_is_refused(alice: Caller, friends: str) -> None:
    def wrong(what: str, *addresses: str) -> tuple[int, str]:
        result = change(alice, friends, what, *addresses)
        return result.status_code, result.json["NeutronError"]["type"]

    assert wrong("add", "192.0.2.0/24") == (400, "AddressesAlreadyExist")
    assert wrong("remove", "10.0.0.0/8") == (404, "AddressesNotFound")
    for bad in ("x", "10.0.0.0/33", "fe80::1%eth0", "", "10.0.0.1,10.0.0.2"):
        assert wrong("add", bad) == (400, "InvalidInput")
        assert alice.refused_create(GROUP, addresses=[bad]) == (400, "InvalidInput")
    many = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(1000)]
    assert wrong("add", *many) == (400, "InvalidInput")
    assert change(alice, friends, "add", *many[:999]).status_code == 200
    assert alice.refused_update(GROUP, friends, addresses=[])[0] == 400


def test_whose_it_is(alice: Caller, bob: Caller, reader: Caller, admin: Caller, friends: str) -> None:
    assert bob.refused("GET", f"/address-groups/{friends}") == (404, "AddressGroupNotFound")
    assert change(bob, friends, "add", "10.0.0.0/8").status_code == 404
    assert reader.get(f"/address-groups/{friends}")[GROUP]["id"] == friends
    assert change(reader, friends, "add", "10.0.0.0/8").status_code == 403
    assert reader.refused("DELETE", f"/address-groups/{friends}") == (403, "PolicyNotAuthorized")
    assert reader.refused_create(GROUP) == (403, "PolicyNotAuthorized")
    assert admin.create(GROUP, project_id=BOB)["project_id"] == BOB
    own = bob.create("security_group", name="g")["id"]
    body = {"security_group_id": own, "direction": "ingress", "remote_address_group_id": friends}
    assert bob.refused_create(RULE, **body) == (404, "AddressGroupNotFound")


def test_a_rule_about_it(alice: Caller, network: BuiltinNetwork, friends: str) -> None:
    own = alice.create("security_group", name="g")["id"]
    body = {"security_group_id": own, "direction": "ingress", "remote_address_group_id": friends}
    for ethertype in ("IPv4", "IPv6"):
        made = alice.create(RULE, ethertype=ethertype, **body)
        assert (made["remote_address_group_id"], made["remote_ip_prefix"]) == (friends, None)
        assert made["normalized_cidr"] is None
    assert alice.refused_create(RULE, **body) == (409, "SecurityGroupRuleExists")
    assert alice.refused("DELETE", f"/address-groups/{friends}") == (409, "AddressGroupInUse")
    other = {**body, "remote_group_id": own}
    assert alice.refused_create(RULE, **other) == (400, "SecurityGroupMultipleRemoteEntites")
    # A release without address groups lets in nobody by such a rule.
    with network.db.read() as conn:
        query = sa.select(security_group_rules.c.remote_ip_prefix).where(
            security_group_rules.c.remote_address_group_id == friends
        )
        assert set(conn.scalars(query)) == {"0.0.0.0/32", "::/128"}
    for rule in alice.get("/security-group-rules", direction="ingress", security_group_id=own)[f"{RULE}s"]:
        alice.delete(RULE, rule["id"])
    alice.delete(GROUP, friends)


def test_hosts_are_told(
    alice: Caller, network: BuiltinNetwork, net: str, subnet: dict[str, Any], friends: str
) -> None:
    own = alice.create("security_group", name="g")["id"]
    body = {"security_group_id": own, "direction": "ingress", "remote_address_group_id": friends}
    alice.create(RULE, protocol="tcp", port_range_min=80, port_range_max=80, **body)
    port = alice.create("port", network_id=net, security_groups=[own])["id"]
    asked = [RequestedNetwork(network_id=net, port_id=port)]
    network.allocate_for_instance("server", ALICE, "h", "host", "zone", asked)
    state = network.state("host", [port])
    wanted = Filter(
        direction="ingress", ethertype="IPv4", protocol=6, port_min=80, port_max=80, remote_group=friends
    )
    assert wanted in state.groups[own]
    assert state.members[friends] == ["192.0.2.0/24"]
    told: list[Any] = []
    network._tell = told.append
    change(alice, friends, "add", "fd00::/8")
    assert [set(one.members) for one in told] == [{friends}]
    assert network.state("host", [port]).members[friends] == ["192.0.2.0/24", "fd00::/8"]


def test_who_is_told_of_other_addresses(
    alice: Caller, network: BuiltinNetwork, net: str, subnet: dict[str, Any], friends: str
) -> None:
    own = alice.create("security_group", name="g")["id"]
    body = {"security_group_id": own, "direction": "ingress", "remote_address_group_id": friends}
    alice.create(RULE, **body)
    port = alice.create("port", network_id=net, security_groups=[own])["id"]
    asked = [RequestedNetwork(network_id=net, port_id=port)]
    network.allocate_for_instance("server", ALICE, "h", "host", "zone", asked)
    report = HostReport(
        hypervisor_hostname="host",
        hypervisor_type="QEMU",
        hypervisor_version=1,
        host_ip="192.0.2.1",
        total=Capacity(vcpus=1, memory_mb=1, disk_gb=1),
        follows_network=True,
    )
    with network.db.write() as conn:
        hosts.report_all(conn, {"host": report}, "nova", network.config.compute)
        assert port_security.concerned(conn, set(), {friends}, set()) == {"host": ({friends}, set())}
        assert port_security.concerned(conn, set(), {"other"}, set()) == {}
