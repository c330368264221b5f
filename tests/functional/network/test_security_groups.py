"""Security groups and their rules: Neutron's API, over both databases."""

from __future__ import annotations

from typing import Any

import pytest
from falcon.testing import TestClient
from tests.statements import sent

from kilonova.network.builtin import port_groups
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import ports as port_store

from .conftest import ALICE, BOB, Caller

GROUP, RULE = "security_group", "security_group_rule"


def default_of(caller: Caller) -> dict[str, Any]:
    (found,) = caller.get("/security-groups", name="default")["security_groups"]
    return dict(found)


@pytest.fixture
def web(alice: Caller) -> str:
    return str(alice.create(GROUP, name="web")["id"])


def test_a_new_group_lets_out_everything_and_nothing_in(alice: Caller) -> None:
    made = alice.create(GROUP, name="web", description="d", stateful=True)
    rules = made.pop("security_group_rules")
    assert made == {
        "id": made["id"],
        "name": "web",
        "description": "d",
        "project_id": ALICE,
        "tenant_id": ALICE,
        "stateful": True,
        "shared": False,
        "tags": [],
        "revision_number": 0,
        "created_at": made["created_at"],
        "updated_at": made["updated_at"],
    }
    assert {(rule["direction"], rule["ethertype"]) for rule in rules} == {
        ("egress", "IPv4"),
        ("egress", "IPv6"),
    }
    (rule, _) = rules
    assert {name: value for name, value in rule.items() if value is None} == dict.fromkeys(
        (
            *("protocol", "port_range_min", "port_range_max", "remote_ip_prefix", "normalized_cidr"),
            *("remote_group_id", "remote_address_group_id"),
        )
    )
    assert rule["belongs_to_default_sg"] is False
    assert alice.get(f"/security-group-rules/{rule['id']}")[RULE] == rule


def test_the_default_group_is_there_when_it_is_needed_and_stays(
    alice: Caller, bob: Caller, admin: Caller, reader: Caller, net: str
) -> None:
    port = alice.create("port", network_id=net)
    default = default_of(reader)
    assert port["security_groups"] == [default["id"]]
    rules = {(r["direction"], r["ethertype"], r["remote_group_id"]) for r in default["security_group_rules"]}
    own = default["id"]
    assert rules == {
        ("egress", "IPv4", None),
        ("egress", "IPv6", None),
        ("ingress", "IPv4", own),
        ("ingress", "IPv6", own),
    }
    assert all(rule["belongs_to_default_sg"] for rule in default["security_group_rules"])
    assert default_of(bob)["id"] != own
    assert alice.refused("DELETE", f"/security-groups/{own}") == (409, "SecurityGroupCannotRemoveDefault")
    assert admin.refused("DELETE", f"/security-groups/{own}") == (409, "SecurityGroupInUse")
    for who in (alice, admin):
        refused = who.refused_update(GROUP, own, name="x")
        assert refused == (409, "SecurityGroupCannotUpdateDefault")
    assert alice.refused_create(GROUP, name="default") == (409, "SecurityGroupDefaultAlreadyExists")
    assert alice.update(GROUP, own, description="d", name="default")["description"] == "d"
    alice.delete(RULE, default["security_group_rules"][0]["id"])
    assert len(default_of(alice)["security_group_rules"]) == 3


def test_an_admin_deletes_a_default_group_that_comes_again_when_it_is_needed(
    alice: Caller, admin: Caller, net: str
) -> None:
    """A project that is cleared away leaves none."""
    first = default_of(alice)["id"]
    admin.delete(GROUP, first)
    assert alice.refused("GET", f"/security-groups/{first}")[0] == 404
    port = alice.create("port", network_id=net)
    assert port["security_groups"] == [default_of(alice)["id"]] != [first]


def test_change_and_delete(alice: Caller, bob: Caller, reader: Caller, web: str, net: str) -> None:
    changed = alice.update(GROUP, web, name="www", description="x")
    assert (changed["name"], changed["description"], changed["revision_number"]) == ("www", "x", 1)
    assert alice.refused_update(GROUP, web, name="default")[0] == 409
    assert alice.refused_update(GROUP, web, stateful=False) == (400, "InvalidInput")
    assert alice.refused_create(GROUP, stateful=False) == (400, "InvalidInput")
    assert bob.refused("GET", f"/security-groups/{web}") == (404, "SecurityGroupNotFound")
    assert bob.refused_create(RULE, security_group_id=web, direction="ingress")[0] == 404
    assert reader.refused_update(GROUP, web, name="x") == (403, "PolicyNotAuthorized")
    assert reader.refused_create(RULE, security_group_id=web, direction="ingress")[0] == 403
    twice = alice.refused_create("port", network_id=net, security_groups=[web, web])
    assert twice == (400, "InvalidInput")
    port = alice.create("port", network_id=net, security_groups=[web])
    assert port["security_groups"] == [web]
    assert alice.refused("DELETE", f"/security-groups/{web}") == (409, "SecurityGroupInUse")
    alice.delete("port", port["id"])
    about = alice.create(
        RULE, security_group_id=default_of(alice)["id"], direction="ingress", remote_group_id=web
    )
    alice.delete(GROUP, web)
    assert alice.refused("GET", f"/security-group-rules/{about['id']}") == (404, "SecurityGroupRuleNotFound")
    assert alice.refused("DELETE", f"/security-groups/{web}") == (404, "SecurityGroupNotFound")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({"protocol": "TCP", "port_range_min": 22, "port_range_max": 22}, {"protocol": "tcp"}),
        ({"protocol": 6, "port_range_min": "1", "port_range_max": 65535}, {"protocol": "6"}),
        ({"protocol": "icmp", "port_range_min": 0}, {"port_range_min": 0, "port_range_max": None}),
        ({"protocol": "icmp", "port_range_min": 8, "port_range_max": 0}, {"port_range_max": 0}),
        ({"protocol": "any"}, {"protocol": None}),
        ({"protocol": "112"}, {"protocol": "112"}),
        ({"remote_ip_prefix": "10.1.2.3"}, {"remote_ip_prefix": "10.1.2.3/32"}),
        (
            {"remote_ip_prefix": "10.1.2.3/8"},
            {"remote_ip_prefix": "10.1.2.3/8", "normalized_cidr": "10.0.0.0/8"},
        ),
        ({"ethertype": "ipv6", "protocol": "icmp"}, {"ethertype": "IPv6", "protocol": "icmp"}),
        ({"ethertype": "IPv6", "remote_ip_prefix": "fd00::/64"}, {"normalized_cidr": "fd00::/64"}),
        ({"description": "why"}, {"description": "why"}),
    ],
)
def test_rules(alice: Caller, web: str, said: dict[str, Any], shown: dict[str, Any]) -> None:
    made = alice.create(RULE, security_group_id=web, direction="ingress", **said)
    assert {name: made[name] for name in shown} == shown
    again = alice.refused_create(RULE, security_group_id=web, direction="ingress", **said)
    assert again == (409, "SecurityGroupRuleExists")


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ({"port_range_min": 1, "port_range_max": 2}, "SecurityGroupProtocolRequiredWithPorts"),
        ({"protocol": "tcp", "port_range_min": 2, "port_range_max": 1}, "SecurityGroupInvalidPortRange"),
        ({"protocol": "tcp", "port_range_min": 2}, "SecurityGroupInvalidPortRange"),
        ({"protocol": "udp", "port_range_min": 0, "port_range_max": 1}, "SecurityGroupInvalidPortValue"),
        ({"protocol": "17", "port_range_min": 1, "port_range_max": 65536}, "SecurityGroupInvalidPortValue"),
        (
            {"protocol": "gre", "port_range_min": 1, "port_range_max": 1},
            "SecurityGroupInvalidProtocolForPort",
        ),
        ({"protocol": "icmp", "port_range_min": 256}, "SecurityGroupInvalidIcmpValue"),
        ({"protocol": "icmp", "port_range_max": 1}, "SecurityGroupMissingIcmpType"),
        ({"protocol": "nothing"}, "SecurityGroupRuleInvalidProtocol"),
        ({"protocol": 256}, "SecurityGroupRuleInvalidProtocol"),
        ({"protocol": -1}, "SecurityGroupRuleInvalidProtocol"),
        ({"protocol": "icmpv6"}, "SecurityGroupEthertypeConflictWithProtocol"),
        ({"ethertype": "arp"}, "SecurityGroupRuleInvalidEtherType"),
        ({"remote_ip_prefix": "fd00::/8"}, "SecurityGroupRuleParameterConflict"),
        ({"remote_ip_prefix": "x"}, "InvalidCIDR"),
        ({"ethertype": "IPv6", "remote_ip_prefix": "2001:db8::%x/32"}, "InvalidCIDR"),
        ({"ethertype": "IPv6", "remote_ip_prefix": "fe80::1%eth0"}, "InvalidCIDR"),
        (
            {"remote_address_group_id": "x", "remote_ip_prefix": "10.0.0.0/8"},
            "SecurityGroupMultipleRemoteEntites",
        ),
        ({"direction": "both"}, "HTTPBadRequest"),
        ({"stateful": True}, "HTTPBadRequest"),
    ],
)
def test_wrong_rules(alice: Caller, web: str, said: dict[str, Any], refused: str) -> None:
    body = {"security_group_id": web, "direction": "ingress", **said}
    assert alice.refused_create(RULE, **body) == (400, refused)


def test_the_remote_of_a_rule(alice: Caller, bob: Caller, web: str) -> None:
    body = {"security_group_id": web, "direction": "ingress"}
    both = alice.refused_create(RULE, **body, remote_group_id=web, remote_ip_prefix="10.0.0.0/8")
    assert both == (400, "SecurityGroupRemoteGroupAndRemoteIpPrefix")
    foreign = bob.create(GROUP)["id"]
    for other in (foreign, "x"):
        assert alice.refused_create(RULE, **body, remote_group_id=other) == (404, "SecurityGroupNotFound")
    assert alice.create(RULE, **body, remote_group_id=web)["remote_group_id"] == web
    # From anywhere is the same as from no matter where.
    alice.create(RULE, **body, remote_ip_prefix="0.0.0.0/0")
    assert alice.refused_create(RULE, **body) == (409, "SecurityGroupRuleExists")


def test_rules_in_bulk_are_made_together_or_not_at_all(alice: Caller, web: str) -> None:
    body = {"security_group_id": web, "direction": "ingress", "protocol": "tcp"}
    rules = [{**body, "port_range_min": port, "port_range_max": port} for port in (80, 443)]
    made = alice("POST", "/security-group-rules", {"security_group_rules": rules})
    assert (made.status_code, len(made.json["security_group_rules"])) == (201, 2)
    more = [{**body, "port_range_min": 8080, "port_range_max": 8080}] * 2
    assert alice.refused("POST", "/security-group-rules", {"security_group_rules": more})[0] == 409
    group = alice.get(f"/security-groups/{web}")[GROUP]
    assert (len(group["security_group_rules"]), group["revision_number"]) == (4, 2)
    rule = made.json["security_group_rules"][0]
    assert alice.update(RULE, rule["id"], description="d")["description"] == "d"
    assert alice.refused_update(RULE, rule["id"], protocol="udp")[0] == 400


def test_groups_are_shared_with_nobody(alice: Caller, web: str) -> None:
    assert len(alice.get("/security-groups", shared=False)["security_groups"]) == 2
    assert alice.get("/security-groups", shared=True)["security_groups"] == []


def test_lists(alice: Caller, bob: Caller, web: str, client: TestClient) -> None:
    for port in (1, 2, 3):
        alice.create(
            RULE,
            security_group_id=web,
            direction="ingress",
            protocol="udp",
            port_range_min=port,
            port_range_max=port,
        )

    def rules(**query: Any) -> list[Any]:
        found = alice.get("/security-group-rules", security_group_id=web, **query)["security_group_rules"]
        return [rule["port_range_min"] for rule in found]

    assert rules(direction="ingress", sort_key="port_range_min", sort_dir="desc") == [3, 2, 1]
    assert rules(port_range_min=2) == [2]
    assert len(rules(ethertype="IPv4")) == 4
    assert rules(sort_key="port_range_min", limit=3) == [None, None, 1]
    page = alice.get("/security-group-rules", limit=2, fields="id")
    assert [list(rule) for rule in page["security_group_rules"]] == [["id"], ["id"]]
    assert "/networking/v2.0/security-group-rules?" in page["security_group_rules_links"][0]["href"]
    assert len(bob.get("/security-group-rules")["security_group_rules"]) == 4  # its own default group's
    assert alice("PUT", f"/security-groups/{web}/tags", {"tags": ["a"]}).status_code == 200
    assert [group["id"] for group in alice.get("/security-groups", tags="a")["security_groups"]] == [web]
    assert alice.refused("GET", "/security-groups?nothing=1")[0] == 400


def test_a_list_of_many_costs_as_many_statements_as_of_one(alice: Caller, network: BuiltinNetwork) -> None:
    def statements() -> int:
        with sent(network.db) as seen:
            alice.get("/security-groups")
        return len(seen)

    alice.create(GROUP)
    few = statements()
    for _ in range(5):
        alice.create(GROUP)
    assert statements() == few


def test_quotas(alice: Caller, admin: Caller, web: str) -> None:
    used = alice.get(f"/quotas/{ALICE}/details")["quota"]
    assert used[GROUP] == {"limit": 10, "used": 2, "reserved": 0}
    assert used[RULE] == {"limit": 100, "used": 6, "reserved": 0}
    admin("PUT", f"/quotas/{ALICE}", {"quota": {GROUP: 2, RULE: 6}})
    assert alice.refused_create(GROUP) == (409, "OverQuota")
    assert alice.refused_create(RULE, security_group_id=web, direction="ingress") == (409, "OverQuota")


def test_groups_of_ports(alice: Caller, bob: Caller, admin: Caller, net: str, web: str) -> None:
    port = alice.create("port", network_id=net, security_groups=[])
    assert port["security_groups"] == []
    for wrong in (["x"], [bob.create(GROUP)["id"]]):
        refused = alice.refused_update("port", port["id"], security_groups=wrong)
        assert refused == (404, "SecurityGroupNotFound")
    assert alice.update("port", port["id"], security_groups=[web])["security_groups"] == [web]
    assert [p["id"] for p in alice.get("/ports", security_groups=web)["ports"]] == [port["id"]]
    refused = alice.refused_update("port", port["id"], port_security_enabled=False)
    assert refused == (409, "PortSecurityPortHasSecurityGroup")
    alice.update("port", port["id"], port_security_enabled=False, security_groups=[])
    refused = alice.refused_update("port", port["id"], security_groups=[web])
    assert refused == (409, "PortSecurityAndIPRequiredForSecurityGroups")
    assert alice.update("port", port["id"], port_security_enabled=True, security_groups=[web])
    assert alice.update("port", port["id"], security_groups=None)["security_groups"] == []
    refused = alice.refused_create("port", network_id=net, port_security_enabled=False, security_groups=[web])
    assert refused == (409, "PortSecurityAndIPRequiredForSecurityGroups")
    foreign = admin.create("port", network_id=net, tenant_id=BOB)
    assert foreign["security_groups"] == [default_of(bob)["id"]]


def test_a_port_of_the_release_before_is_in_the_default_group(
    alice: Caller, network: BuiltinNetwork, net: str
) -> None:
    port = alice.create("port", network_id=net, security_groups=[])["id"]
    with network.write() as conn:
        port_store.update(conn, [port], {"has_groups": None})
        found = port_store.by_id(conn, [port], for_update=True).values()
        (adopted,) = port_groups.adopted(conn, list(found))
    assert adopted.security_groups == [default_of(alice)["id"]]
    assert alice.get(f"/ports/{port}")["port"]["security_groups"] == adopted.security_groups


def test_protocols_of_ipv6_by_their_numbers(alice: Caller, web: str) -> None:
    rule = {"security_group_id": web, "direction": "ingress", "protocol": "58"}
    wrong = alice.refused_create(RULE, **rule, ethertype="IPv4")
    assert wrong == (400, "SecurityGroupEthertypeConflictWithProtocol")
    alice.create(RULE, **rule, ethertype="IPv6")


def test_rules_by_the_network_that_their_prefix_means(alice: Caller, web: str) -> None:
    rules = [
        alice.create(
            RULE,
            security_group_id=web,
            direction="ingress",
            ethertype="IPv6" if ":" in prefix else "IPv4",
            remote_ip_prefix=prefix,
        )
        for prefix in ("10.2.0.9/16", "10.1.0.9/255.255.0.0", "FD00:0::1/64", "::ffff:1.2.3.4", "10.3.0.1")
    ]
    assert rules[1]["remote_ip_prefix"] == "10.1.0.9/16"
    assert [rule["normalized_cidr"] for rule in rules] == [
        *("10.2.0.0/16", "10.1.0.0/16", "fd00::/64", "::ffff:102:304/128", "10.3.0.1/32")
    ]

    def found(**query: Any) -> list[str]:
        listed = alice.get("/security-group-rules", security_group_id=web, direction="ingress", **query)
        return [rule["id"] for rule in listed["security_group_rules"]]

    ids = [rule["id"] for rule in rules]
    assert [found(normalized_cidr=rule["normalized_cidr"]) for rule in rules] == [[one] for one in ids]
    assert found(normalized_cidr=["10.1.0.0/16", "nothing", "10.2.0.9/16"]) == [ids[1]]
    assert found(normalized_cidr="") == []
    assert len(alice.get("/security-group-rules", normalized_cidr="")["security_group_rules"]) == 6
    in_order = found(sort_key="normalized_cidr")
    assert [one for one in in_order if one in (ids[0], ids[1], ids[4])] == [ids[1], ids[0], ids[4]]


def test_rules_of_default_groups(alice: Caller, admin: Caller, web: str) -> None:
    default = default_of(alice)["id"]

    def groups(caller: Caller, **query: Any) -> set[str]:
        listed = caller.get("/security-group-rules", **query)["security_group_rules"]
        return {rule["security_group_id"] for rule in listed}

    assert groups(alice, belongs_to_default_sg="true") == {default}
    assert groups(alice, belongs_to_default_sg="False") == {web}
    assert default in groups(admin, belongs_to_default_sg="1")
    assert alice.refused("GET", "/security-group-rules?belongs_to_default_sg=x")[0] == 400
