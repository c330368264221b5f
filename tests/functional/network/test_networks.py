"""Networks through the API."""

from __future__ import annotations

from typing import Any

import pytest

from kilonova.config import Bus, Config, Network
from kilonova.network.builtin.service import BuiltinNetwork

from .conftest import ADMIN, ALICE, BOB, Caller, path_of


def test_a_new_network_has_neutrons_attributes(alice: Caller) -> None:
    made = alice.create("network", name="red", description="d")
    assert made == {
        "id": made["id"],
        "name": "red",
        "description": "d",
        "project_id": ALICE,
        "tenant_id": ALICE,
        "admin_state_up": True,
        "status": "ACTIVE",
        "shared": False,
        "router:external": False,
        "is_default": False,
        "mtu": 1500,
        "port_security_enabled": True,
        "availability_zone_hints": [],
        "subnets": [],
        "tags": [],
        "revision_number": 0,
        "created_at": made["created_at"],
        "updated_at": made["updated_at"],
    }
    assert alice.get(f"/networks/{made['id']}")["network"] == made


@pytest.mark.parametrize("name", ["id", "tenant_id", "project_id", "availability_zone_hints", "status"])
def test_what_never_changes(alice: Caller, net: str, name: str) -> None:
    refused = alice("PUT", f"/networks/{net}", {"network": {name: "x"}})
    assert refused.status_code == 400
    assert refused.json["NeutronError"]["message"] == f"Cannot update read-only attribute {name}"
    unknown = alice("PUT", f"/networks/{net}", {"network": {"colour": "x"}})
    assert unknown.json["NeutronError"]["message"] == "Unrecognized attribute(s) 'colour'"


def test_an_update_counts_a_revision(alice: Caller, net: str) -> None:
    changed = alice.update("network", net, name="new", mtu=1400, admin_state_up=False)
    assert (changed["name"], changed["mtu"], changed["admin_state_up"]) == ("new", 1400, False)
    assert changed["revision_number"] == 1
    assert alice.update("network", net)["revision_number"] == 1


def test_many_at_once_are_all_or_nothing(alice: Caller) -> None:
    result = alice("POST", "/networks", {"networks": [{"name": "a"}, {"name": "b"}]})
    assert [item["name"] for item in result.json["networks"]] == ["a", "b"]
    assert alice("POST", "/networks", {"networks": [{"name": "c"}, {"mtu": 9000}]}).status_code == 400
    assert len(alice.ids("networks")) == 2


def test_what_comes_later_is_refused_in_words(alice: Caller, admin: Caller) -> None:
    for attributes in (
        {"provider:network_type": "vlan"},
        {"provider:physical_network": "physnet1"},
        {"provider:network_type": "vxlan", "router:external": True},
        {"provider:segmentation_id": 7, "router:external": True},
        {"availability_zone_hints": ["a"]},
        {"mtu": 1501},
        {"mtu": 20},
    ):
        assert admin.refused_create("network", **attributes) == (400, "InvalidInput")
    assert alice.create("network", **{"router:external": False, "availability_zone_hints": []})


def test_sharing_is_for_admins_and_shows_a_network_to_all(alice: Caller, bob: Caller, admin: Caller) -> None:
    assert alice.refused_create("network", shared=True) == (403, "PolicyNotAuthorized")
    shared = admin.create("network", name="all", shared=True)["id"]
    assert bob.get(f"/networks/{shared}")["network"]["shared"] is True
    assert bob.refused_update("network", shared, name="mine") == (403, "PolicyNotAuthorized")
    assert bob.refused("DELETE", f"/networks/{shared}") == (403, "PolicyNotAuthorized")
    assert bob.refused_create("subnet", network_id=shared, cidr="10.9.0.0/24")[0] == 403
    admin.create("subnet", network_id=shared, cidr="10.9.0.0/24")
    bob.create("port", network_id=shared)
    assert admin.refused_update("network", shared, shared=False) == (409, "InvalidSharedSetting")
    mine = alice.create("network")["id"]
    assert alice.refused_update("network", mine, shared=True)[0] == 403


def test_anothers_network_does_not_exist(alice: Caller, bob: Caller, admin: Caller, net: str) -> None:
    for method, body in (("GET", None), ("PUT", {"network": {"name": "x"}}), ("DELETE", None)):
        assert bob.refused(method, f"/networks/{net}", body) == (404, "NetworkNotFound")
    assert bob.ids("networks") == []
    assert bob.refused_create("port", network_id=net) == (404, "NetworkNotFound")
    assert admin.ids("networks") == [net]
    assert alice.ids("networks") == [net]


def test_a_reader_only_reads(reader: Caller, net: str) -> None:
    assert reader.ids("networks") == [net]
    assert reader.refused_create("network") == (403, "PolicyNotAuthorized")
    assert reader.refused_update("network", net, name="x") == (403, "PolicyNotAuthorized")
    assert reader.refused("DELETE", f"/networks/{net}") == (403, "PolicyNotAuthorized")
    assert reader.refused("PUT", f"/networks/{net}/tags", {"tags": ["a"]})[0] == 403


def test_an_admin_makes_networks_for_others(alice: Caller, bob: Caller, admin: Caller) -> None:
    made = admin.create("network", project_id=BOB)
    assert made["tenant_id"] == BOB
    assert bob.ids("networks") == [made["id"]]
    assert alice.refused_create("network", tenant_id=BOB)[0] == 400
    assert alice.refused_create("network", tenant_id=ALICE, project_id=BOB)[0] == 400
    assert admin.create("network")["project_id"] == ADMIN


def test_a_token_without_project_makes_nothing(client: object) -> None:
    unscoped, unscoped_admin = Caller(client, "unscoped"), Caller(client, "unscoped-admin")
    assert unscoped.refused_create("network")[0] == 403
    assert unscoped.ids("networks") == []
    assert unscoped_admin.refused_create("network")[0] == 400
    assert unscoped_admin.create("network", tenant_id=BOB)["project_id"] == BOB


def test_deleting_takes_subnets_and_dhcp_along_but_no_ports(
    alice: Caller, net: str, subnet: dict[str, object]
) -> None:
    port = alice.create("port", network_id=net)["id"]
    assert alice.refused("DELETE", f"/networks/{net}") == (409, "NetworkInUse")
    alice.delete("port", port)
    alice.delete("network", net)
    assert alice.refused("GET", f"/networks/{net}")[0] == 404
    assert alice.ids("subnets") == alice.ids("ports") == []


def test_quota(alice: Caller, limited: BuiltinNetwork) -> None:
    alice.create("network")
    assert alice.refused("POST", "/networks", {"networks": [{}, {}]}) == (409, "OverQuota")
    alice.create("network")
    assert alice.refused_create("network") == (409, "OverQuota")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b'"network"',
        b"{}",
        b'{"network": null}',
        b'{"network": []}',
        b'{"networks": []}',
        b'{"networks": {}}',
        b'{"network": {}, "networks": []}',
        b'{"port": {}}',
        b'{"network": {"foo": 1}}',
        b'{"network": {"name": 5}}',
        b'{"network": {"name": null}}',
        b'{"network": {"name": "a\\u0000b"}}',
        b'{"network": {"admin_state_up": "maybe"}}',
        b'{"network": {"mtu": -1}}',
        b'{"network": {"mtu": 1e400}}',
        b'{"network": {"mtu": 99999999999999999999999999}}',
        b'{"network": {"shared": 2}}',
        b'{"network": {"tenant_id": ""}}',
        b'{"network": {"id": "x"}}',
        b'{"network": {"name": "\\ud800"}}',
        b"\xff\xfe",
        b'{"network": {"name": "\xff"}}',
        b"[" * 5000,
    ],
)
def test_malformed_bodies(alice: Caller, body: bytes) -> None:
    headers = {"X-Auth-Token": "alice", "Content-Type": "application/json"}
    result = alice.client.simulate_post("/networking/v2.0/networks", body=body, headers=headers)
    assert result.status_code == 400, result.text
    assert result.json["NeutronError"]["type"] == "HTTPBadRequest"


def test_numbers_and_booleans_may_come_as_text(alice: Caller) -> None:
    made = alice.create("network", mtu="1400", admin_state_up="false")
    assert (made["mtu"], made["admin_state_up"]) == (1400, False)


def test_names_are_only_names(alice: Caller) -> None:
    names = ["", "<a href='x'>&", "$(reboot)", "../../etc/passwd", "'; DROP TABLE networks; --", "ネット"]
    for name in (*names, "x" * 255):
        made = alice.create("network", name=name)
        assert alice.ids("networks", name=name) == [made["id"]]
    assert alice.refused_create("network", name="x" * 256)[0] == 400


@pytest.mark.parametrize(
    "wrong", ["x", "..", "%00", "%2e%2e%2f", "0aa7c8b4-5d0e-4b3d-9b62-1f7d0c1fa3c5", "x" * 5000]
)
def test_unknown_ids(alice: Caller, wrong: str) -> None:
    for plural in ("networks", "subnets", "ports"):
        assert alice.refused("GET", f"/{plural}/{wrong}")[0] == 404


def test_tags(alice: Caller, bob: Caller, net: str) -> None:
    path = f"/networks/{net}/tags"
    assert alice("PUT", path, {"tags": ["red", "blue", "red"]}).json == {"tags": ["blue", "red"]}
    assert alice("PUT", f"{path}/green").status_code == 201
    assert alice("POST", path, {"tags": ["black"]}).status_code == 201
    assert alice.get(path) == {"tags": ["black", "blue", "green", "red"]}
    assert alice.get(f"/networks/{net}")["network"]["tags"] == ["black", "blue", "green", "red"]
    assert alice("GET", f"{path}/red").status_code == 204
    assert alice("DELETE", f"{path}/red").status_code == 204
    assert alice.refused("GET", f"{path}/red") == (404, "TagNotFound")
    assert alice.refused("DELETE", f"{path}/red") == (404, "TagNotFound")
    assert bob.refused("GET", path)[0] == bob.refused("PUT", path, {"tags": []})[0] == 404
    for wrong in ({"tags": "red"}, {"tags": [1]}, {"tags": [""]}, {"tags": ["a,b"]}, {}, {"tag": []}):
        assert alice.refused("PUT", path, wrong)[0] == 400
    other = alice.create("network")["id"]
    assert alice.ids("networks", tags="blue,green") == [net]
    assert alice.ids("networks", tags="blue,red") == []
    assert alice.ids("networks", **{"tags-any": "red,green"}) == [net]
    assert alice.ids("networks", **{"not-tags": "blue,green"}) == [other]
    assert alice.ids("networks", **{"not-tags-any": "red"}) == sorted([net, other])
    assert alice("DELETE", path).status_code == 204
    assert alice.get(path) == {"tags": []}


def test_tags_count_as_changes(alice: Caller, net: str, subnet: dict[str, Any]) -> None:
    port = alice.create("port", network_id=net)["id"]
    group = alice.create("security_group")["id"]
    router = alice.create("router")["id"]
    for kind, item in (
        ("network", net),
        ("subnet", subnet["id"]),
        ("port", port),
        ("security_group", group),
        ("router", router),
    ):
        path = f"{path_of(kind)}/{item}"
        before = alice.get(path)[kind]
        assert alice("PUT", f"{path}/tags", {"tags": ["a"]}).status_code == 200
        after = alice.get(path)[kind]
        assert after["revision_number"] == before["revision_number"] + 1
        assert alice("PUT", f"{path}/tags/a").status_code == 201
        assert alice.get(path)[kind]["revision_number"] == after["revision_number"]


def test_a_filter_without_a_value_finds_what_has_none(alice: Caller, net: str) -> None:
    without = alice.create("subnet", network_id=net, cidr="10.0.0.0/24", gateway_ip=None)["id"]
    alice.create("subnet", network_id=net, cidr="10.0.1.0/24")
    assert alice.ids("subnets", gateway_ip="") == [without]
    group = alice.create("security_group")["id"]
    alice.create("security_group_rule", security_group_id=group, direction="ingress", protocol="tcp")
    rules = {"security_group_id": group, "direction": "ingress"}
    for empty in ("remote_group_id", "remote_ip_prefix", "port_range_min"):
        found = alice.get("/security-group-rules", **rules, **{empty: ""})["security_group_rules"]
        assert len(found) == 1, empty
    assert alice.refused("GET", "/networks?shared=")[0] == 400


def test_tunnels_take_their_part_of_the_mtu(alice: Caller, admin: Caller, network: BuiltinNetwork) -> None:
    """Where a broker joins several hosts. External networks are not in tunnels."""
    network.config = Config(bus=Bus(url="amqp://u:p@broker/"))
    made = alice.create("network")
    assert made["mtu"] == 1450
    assert alice.refused_create("network", mtu=1451) == (400, "InvalidInput")
    assert alice.refused_update("network", made["id"], mtu=1451) == (400, "InvalidInput")
    assert admin.create("network", **{"router:external": True})["mtu"] == 1500
    network.config = Config(bus=Bus(url="amqp://u:p@broker/"), network=Network(tunnels=False))
    assert alice.create("network")["mtu"] == 1500


def test_how_many_addresses_are_given(alice: Caller, admin: Caller, net: str, subnet: dict[str, Any]) -> None:
    small = [{"start": "10.0.1.10", "end": "10.0.1.19"}]
    alice.create("subnet", network_id=net, cidr="10.0.1.0/24", allocation_pools=small, enable_dhcp=False)
    alice.create("port", network_id=net)
    empty = alice.create("network", name="empty")["id"]
    path = "/network-ip-availabilities"
    shown = admin.get(f"{path}/{net}")["network_ip_availability"]
    each = {one["cidr"]: (one["used_ips"], one["total_ips"]) for one in shown["subnet_ip_availability"]}
    assert each == {"10.0.0.0/24": (2, 253), "10.0.1.0/24": (0, 10)}
    assert (shown["network_name"], shown["used_ips"], shown["total_ips"]) == ("net", 2, 263)

    def listed(**query: Any) -> dict[str, tuple[int, int]]:
        found = admin.get(path, **query)["network_ip_availabilities"]
        return {one["network_id"]: (one["used_ips"], one["total_ips"]) for one in found}

    assert listed() == {net: (2, 263), empty: (0, 0)}
    assert listed(ip_version=6, network_name="net") == {net: (0, 0)}
    assert listed(project_id=BOB) == {}
    assert admin.refused("GET", f"{path}?ip_version=5")[0] == 400
    assert admin.refused("GET", f"{path}?mtu=5")[0] == 400
    assert alice.refused("GET", path) == (403, "PolicyNotAuthorized")


def test_availabilities_lead_from_page_to_page(alice: Caller, admin: Caller) -> None:
    made = {alice.create("network", name=name)["id"] for name in "abc"}
    path: str | None = "/network-ip-availabilities?limit=1&sort_key=network_name"
    seen = []
    while path is not None:
        page = admin("GET", path).json
        seen += [one["network_name"] for one in page["network_ip_availabilities"]]
        further = [
            one["href"] for one in page.get("network_ip_availabilities_links", []) if one["rel"] == "next"
        ]
        path = further[0].partition("/v2.0")[2] if further else None
    assert seen == ["a", "b", "c"]
    assert len(made) == 3
    assert admin.refused("GET", "/network-ip-availabilities?marker=nothing")[0] == 404
    assert admin.refused("GET", "/network-ip-availabilities?sort_key=mtu")[0] == 400
