"""Networks shared with some projects: who may say so, what they may do then, and what keeps it so."""

from __future__ import annotations

from typing import Any

import pytest
from tests.functional.network.conftest import ADMIN, ALICE, BOB, Caller
from tests.statements import sent

from kilonova.domain.context import RequestContext
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.builtin.service import BuiltinNetwork

BOB_HIMSELF = RequestContext(request_id="r", user_id="u", project_id=BOB, roles=frozenset({"member"}))
IN_USE = (409, "RbacPolicyInUse")


def share(caller: Caller, network: str, target: str, action: str = "access_as_shared") -> str:
    made = create(caller, network, target, action)
    assert made.status_code == 201, made.text
    return str(made.json["rbac_policy"]["id"])


def share_group(caller: Caller, group: str, target: str) -> str:
    made = create(caller, group, target, object_type="security_group")
    assert made.status_code == 201, made.text
    return str(made.json["rbac_policy"]["id"])


def create(caller: Caller, network: str, target: str, action: str = "access_as_shared", **more: Any) -> Any:
    body = {"object_type": "network", "object_id": network, "target_tenant": target, "action": action}
    return caller("POST", "/rbac-policies", {"rbac_policy": body | more})


def listed(caller: Caller, **query: Any) -> list[tuple[str, str]]:
    found = caller.get("/rbac-policies", **query)["rbac_policies"]
    return sorted((policy["target_tenant"], policy["action"]) for policy in found)


@pytest.fixture
def outside(admin: Caller) -> str:
    net = admin.create("network", name="public", **{"router:external": True})["id"]
    admin.create("subnet", network_id=net, cidr="198.51.100.0/24", enable_dhcp=False)
    return str(net)


def test_a_network_is_shared_with_one_project(
    alice: Caller, bob: Caller, admin: Caller, network: BuiltinNetwork, net: str, subnet: dict[str, Any]
) -> None:
    assert bob.refused("GET", f"/networks/{net}")[0] == 404
    policy = share(alice, net, BOB)
    shown = alice.get(f"/rbac-policies/{policy}")["rbac_policy"]
    assert shown == {
        "id": policy,
        "project_id": ALICE,
        "tenant_id": ALICE,
        "object_type": "network",
        "object_id": net,
        "target_tenant": BOB,
        "action": "access_as_shared",
    }
    assert bob.get(f"/networks/{net}")["network"]["shared"] is True
    assert alice.get(f"/networks/{net}")["network"]["shared"] is False
    assert bob.ids("networks", shared=True) == [net]
    assert alice.ids("networks", shared=True) == admin.ids("networks", shared=True) == []
    assert bob.ids("subnets") == bob.ids("subnets", shared=True) == [subnet["id"]]
    assert alice.ids("subnets", shared=False) == [subnet["id"]]
    assert alice.ids("subnets", shared=True) == bob.ids("subnets", shared=False) == []
    assert bob.refused_update("network", net, name="x") == (403, "PolicyNotAuthorized")
    assert bob.refused("DELETE", f"/networks/{net}")[0] == 403
    assert bob.refused("DELETE", f"/rbac-policies/{policy}") == (404, "RbacPolicyNotFound")
    asked = [RequestedNetwork(network_id=net)]
    assert network.validate(BOB_HIMSELF, asked, 1) == asked
    assert network.auto(BOB_HIMSELF) == asked
    port = bob.create("port", network_id=net)["id"]
    assert alice.refused("DELETE", f"/rbac-policies/{policy}") == IN_USE
    bob.delete("port", port)
    assert alice("DELETE", f"/rbac-policies/{policy}").status_code == 204
    assert bob.ids("networks") == []


def test_what_everybody_may_use_is_a_policy_too(alice: Caller, bob: Caller, admin: Caller) -> None:
    net = admin.create("network", tenant_id=ALICE, shared=True)["id"]
    assert listed(alice) == [("*", "access_as_shared")]
    (policy,) = alice.get("/rbac-policies")["rbac_policies"]
    port = bob.create("port", network_id=net)["id"]
    assert admin.refused("DELETE", f"/rbac-policies/{policy['id']}") == IN_USE
    assert admin.refused_update("network", net, shared=False) == (409, "InvalidSharedSetting")
    own = share(alice, net, BOB)
    assert alice("DELETE", f"/rbac-policies/{policy['id']}").status_code == 204
    assert bob.get(f"/networks/{net}")["network"]["shared"] is True
    assert alice.get(f"/networks/{net}")["network"]["shared"] is False
    assert alice.refused("DELETE", f"/rbac-policies/{own}") == IN_USE
    wide = {"rbac_policy": {"target_tenant": "*"}}
    assert alice.refused("PUT", f"/rbac-policies/{own}", wide) == (403, "PolicyNotAuthorized")
    assert admin("PUT", f"/rbac-policies/{own}", wide).json["rbac_policy"]["target_tenant"] == "*"
    assert alice.get(f"/networks/{net}")["network"]["shared"] is True
    narrow = {"rbac_policy": {"target_tenant": ADMIN}}
    assert alice.refused("PUT", f"/rbac-policies/{own}", narrow) == IN_USE
    bob.delete("port", port)
    admin.update("network", net, shared=False)
    assert listed(admin) == []
    assert bob.ids("networks") == []


def test_an_external_network_for_some(alice: Caller, bob: Caller, admin: Caller, outside: str) -> None:
    assert listed(admin) == [("*", "access_as_external")]
    (everybodys,) = admin.get("/rbac-policies")["rbac_policies"]
    router = alice.create("router", external_gateway_info={"network_id": outside})["id"]
    path = f"/rbac-policies/{everybodys['id']}"
    assert admin.refused("DELETE", path) == IN_USE
    own = share(admin, outside, ALICE, "access_as_external")
    assert admin("DELETE", path).status_code == 204
    assert alice.get(f"/networks/{outside}")["network"]["router:external"] is True
    assert alice.get(f"/networks/{outside}")["network"]["shared"] is False
    assert bob.refused("GET", f"/networks/{outside}")[0] == 404
    assert bob.refused_create("router", external_gateway_info={"network_id": outside})[0] == 404
    assert bob.refused_create("floatingip", floating_network_id=outside)[0] == 404
    assert bob.refused_create("port", network_id=outside) == (404, "NetworkNotFound")
    alice.delete("port", alice.create("port", network_id=outside)["id"])
    assert admin.refused("DELETE", f"/rbac-policies/{own}") == IN_USE
    alice.delete("router", router)
    assert admin("DELETE", f"/rbac-policies/{own}").status_code == 204
    assert alice.ids("networks") == []
    assert admin.get(f"/networks/{outside}")["network"]["router:external"] is False
    share(admin, outside, BOB, "access_as_external")
    assert bob.get(f"/networks/{outside}")["network"]["router:external"] is True
    assert alice.ids("networks") == []
    admin.update("network", outside, **{"router:external": False})
    assert listed(admin) == []
    admin.update("network", outside, **{"router:external": True})
    assert alice.ids("networks") == [outside]


def test_refusals(alice: Caller, bob: Caller, reader: Caller, admin: Caller, net: str) -> None:
    def refusal(result: Any) -> tuple[int, str]:
        return result.status_code, result.json["NeutronError"]["type"]

    assert refusal(create(bob, net, BOB)) == (404, "NetworkNotFound")
    assert refusal(create(reader, net, BOB)) == (403, "PolicyNotAuthorized")
    assert refusal(create(alice, net, "*")) == (403, "PolicyNotAuthorized")
    assert refusal(create(alice, net, BOB, "access_as_external")) == (403, "PolicyNotAuthorized")
    assert refusal(create(alice, net, BOB, "nonsense")) == (400, "InvalidInput")
    assert refusal(create(alice, net, BOB, object_type="qos_policy")) == (400, "InvalidInput")
    assert refusal(create(alice, net, "")) == (400, "HTTPBadRequest")
    policy = share(alice, net, BOB)
    assert refusal(create(alice, net, BOB)) == (409, "DuplicateRbacPolicy")
    other = share(alice, net, ADMIN)
    body = {"rbac_policy": {"target_tenant": BOB}}
    assert alice.refused("PUT", f"/rbac-policies/{other}", body) == (409, "DuplicateRbacPolicy")
    assert alice.refused("PUT", f"/rbac-policies/{other}", {"rbac_policy": {"action": "x"}})[0] == 400
    assert refusal(create(bob, net, ADMIN)) == (400, "InvalidInput")
    assert alice.refused("GET", "/rbac-policies?changed_since=2020-01-01T00:00:00")[0] == 400
    assert alice.refused("GET", "/rbac-policies?sort_key=created_at")[0] == 400
    assert listed(alice, target_tenant=BOB) == [(BOB, "access_as_shared")]
    assert listed(alice, object_type="network", limit=1) != []
    assert listed(bob) == []
    alice.delete("network", net)
    assert alice.refused("GET", f"/rbac-policies/{policy}")[0] == 404
    assert listed(admin) == []


def test_the_quota_of_policies(alice: Caller, admin: Caller, net: str) -> None:
    admin("PUT", f"/quotas/{ALICE}", {"quota": {"rbac_policy": 1}})
    share(alice, net, BOB)
    assert create(alice, net, ADMIN).json["NeutronError"]["type"] == "OverQuota"
    used = alice.get(f"/quotas/{ALICE}/details")["quota"]["rbac_policy"]
    assert used == {"limit": 1, "used": 1, "reserved": 0}


def test_what_the_release_before_shared_is_not_lost(
    alice: Caller, bob: Caller, admin: Caller, network: BuiltinNetwork, net: str
) -> None:
    """It writes the column alone."""
    with network.write() as conn:
        conn.exec_driver_sql("UPDATE networks SET shared = true")
    assert bob.ids("networks") == [net]
    share(alice, net, ADMIN)
    assert bob.ids("networks") == [net]
    assert listed(admin) == [("*", "access_as_shared"), (ADMIN, "access_as_shared")]


def test_what_the_release_before_took_back_is_taken_back(
    alice: Caller, bob: Caller, admin: Caller, network: BuiltinNetwork, outside: str
) -> None:
    """It writes the columns alone, and the next policy for one project is for that one."""
    net = admin.create("network", shared=True)["id"]
    with network.write() as conn:
        conn.exec_driver_sql("UPDATE networks SET shared = false, external = false")
    share(admin, net, ALICE)
    assert alice.ids("networks") == [net]
    assert bob.ids("networks") == []
    assert listed(admin, object_id=net) == [(ALICE, "access_as_shared")]
    share(admin, outside, ALICE, "access_as_external")
    assert bob.ids("networks") == []
    assert listed(admin, object_id=outside) == [(ALICE, "access_as_external")]


def test_a_list_of_many_costs_as_many_statements_as_of_one(
    alice: Caller, bob: Caller, network: BuiltinNetwork, net: str
) -> None:
    def statements(path: str) -> int:
        with sent(network.db) as seen:
            bob.get(path)
        return len(seen)

    share(alice, net, BOB)
    few = [statements(path) for path in ("/networks", "/rbac-policies")]
    for _ in range(4):
        share(alice, str(alice.create("network")["id"]), BOB)
    assert [statements(path) for path in ("/networks", "/rbac-policies")] == few


def test_a_security_group_is_shared_with_one_project(
    alice: Caller, bob: Caller, admin: Caller, network: BuiltinNetwork
) -> None:
    group = alice.create("security_group", name="web")["id"]
    path = f"/security-groups/{group}"
    assert bob.refused("GET", path)[0] == 404
    net = bob.create("network")["id"]
    assert bob.refused_create("port", network_id=net, security_groups=[group])[0] == 404
    before = alice.get(path)["security_group"]["revision_number"]
    policy = share_group(alice, group, BOB)
    assert alice.get(path)["security_group"]["revision_number"] > before
    shown = alice.get(f"/rbac-policies/{policy}")["rbac_policy"]
    assert (shown["object_type"], shown["object_id"]) == ("security_group", group)
    assert bob.get(path)["security_group"]["shared"] is True
    assert alice.get(path)["security_group"]["shared"] is False
    found = bob.get("/security-groups", shared=True)["security_groups"]
    assert [one["id"] for one in found] == [group]
    assert alice.get("/security-groups", shared=True)["security_groups"] == []
    assert admin.get("/security-groups", shared=True)["security_groups"] == []
    rules = bob.get("/security-group-rules", security_group_id=group)["security_group_rules"]
    assert len(rules) == len(bob.get(path)["security_group"]["security_group_rules"]) == 2
    assert bob.refused_update("security_group", group, name="x") == (403, "PolicyNotAuthorized")
    assert bob.refused("DELETE", path)[0] == 403
    assert bob.refused("DELETE", f"/security-group-rules/{rules[0]['id']}")[0] == 403
    rule = {"security_group_id": group, "direction": "ingress", "protocol": "tcp"}
    assert bob.refused_create("security_group_rule", **rule)[0] == 403
    assert network.security_groups(BOB_HIMSELF, ["web"]) == [group]
    port = bob.create("port", network_id=net, security_groups=[group])["id"]
    assert alice.refused("DELETE", f"/rbac-policies/{policy}") == IN_USE
    elsewhere = {"rbac_policy": {"target_tenant": ADMIN}}
    assert alice.refused("PUT", f"/rbac-policies/{policy}", elsewhere) == IN_USE
    assert alice.refused("DELETE", path) == (409, "SecurityGroupInUse")
    bob.update("port", port, security_groups=[])
    own = bob.create("security_group", name="web")["id"]
    assert network.security_groups(BOB_HIMSELF, ["web"]) == [own]
    about = bob.create("security_group_rule", **{**rule, "security_group_id": own, "remote_group_id": group})
    assert alice.refused("DELETE", f"/rbac-policies/{policy}") == IN_USE
    bob.delete("security_group_rule", about["id"])
    assert alice("DELETE", f"/rbac-policies/{policy}").status_code == 204
    assert bob.refused("GET", path)[0] == 404
    remote = {**rule, "security_group_id": own, "remote_group_id": group}
    assert bob.refused_create("security_group_rule", **remote)[0] == 404


def test_a_security_group_for_everybody(alice: Caller, bob: Caller, admin: Caller) -> None:
    group = alice.create("security_group")["id"]
    made = create(alice, group, "*", object_type="security_group")
    assert made.json["NeutronError"]["type"] == "PolicyNotAuthorized"
    policy = share_group(admin, group, "*")
    assert bob.get(f"/security-groups/{group}")["security_group"]["shared"] is True
    assert alice.get(f"/security-groups/{group}")["security_group"]["shared"] is True
    assert listed(admin, object_type="security_group") == [("*", "access_as_shared")]
    assert listed(admin, object_type="network") == []
    net = bob.create("network")["id"]
    port = bob.create("port", network_id=net, security_groups=[group])["id"]
    assert admin.refused("DELETE", f"/rbac-policies/{policy}") == IN_USE
    own = share_group(admin, group, BOB)
    assert admin("DELETE", f"/rbac-policies/{policy}").status_code == 204
    assert admin.refused("DELETE", f"/rbac-policies/{own}") == IN_USE
    bob.delete("port", port)
    alice.delete("security_group", group)
    assert listed(admin) == []


def test_an_address_group_is_shared_with_one_project(alice: Caller, bob: Caller, admin: Caller) -> None:
    group = alice.create("address_group", name="offices", addresses=["192.0.2.0/24"])["id"]
    path = f"/address-groups/{group}"
    own = bob.create("security_group", name="web")["id"]
    rule = {"security_group_id": own, "direction": "ingress", "remote_address_group_id": group}
    assert bob.refused_create("security_group_rule", **rule) == (404, "AddressGroupNotFound")
    before = alice.get(path)["address_group"]["revision_number"]
    made = create(alice, group, BOB, object_type="address_group").json["rbac_policy"]
    assert (made["object_type"], made["object_id"]) == ("address_group", group)
    assert alice.get(path)["address_group"]["revision_number"] > before
    assert bob.get(path)["address_group"]["shared"] is True
    assert alice.get(path)["address_group"]["shared"] is False
    assert [one["id"] for one in bob.get("/address-groups", shared=True)["address_groups"]] == [group]
    assert alice.get("/address-groups", shared=True)["address_groups"] == []
    assert bob("PUT", f"{path}/add_addresses", {"addresses": ["10.0.0.0/8"]}).status_code == 403
    assert bob.refused_update("address_group", group, name="x") == (403, "PolicyNotAuthorized")
    assert bob.refused("DELETE", path) == (403, "PolicyNotAuthorized")
    assert create(bob, group, ADMIN, object_type="address_group").status_code == 400
    about = bob.create("security_group_rule", **rule)["id"]
    policy = f"/rbac-policies/{made['id']}"
    assert alice.refused("DELETE", policy) == IN_USE
    assert alice.refused("PUT", policy, {"rbac_policy": {"target_tenant": ADMIN}}) == IN_USE
    assert alice.refused("DELETE", path) == (409, "AddressGroupInUse")
    bob.delete("security_group_rule", about)
    assert alice("DELETE", policy).status_code == 204
    assert bob.refused("GET", path) == (404, "AddressGroupNotFound")
    assert bob.refused_create("security_group_rule", **rule) == (404, "AddressGroupNotFound")


def test_an_address_group_for_everybody(alice: Caller, bob: Caller, admin: Caller) -> None:
    group = admin.create("address_group", name="offices", addresses=["192.0.2.0/24"])["id"]
    assert create(admin, group, "*", object_type="address_group").status_code == 201
    for who in (alice, bob):
        assert who.get(f"/address-groups/{group}")["address_group"]["shared"] is True
    assert listed(admin, object_type="address_group") == [("*", "access_as_shared")]
    used = admin.get(f"/quotas/{ADMIN}/details")["quota"]["rbac_policy"]
    assert used["used"] == 1
    wrong = create(admin, group, BOB, "access_as_external", object_type="address_group")
    assert wrong.status_code == 400
    admin.delete("address_group", group)
    assert listed(admin) == []


def test_refusals_of_groups(alice: Caller, bob: Caller, admin: Caller) -> None:
    def refusal(who: Caller, *asked: str) -> tuple[int, str]:
        result = create(who, *asked, object_type="security_group")
        return result.status_code, result.json["NeutronError"]["type"]

    group = alice.create("security_group")["id"]
    assert refusal(alice, group, BOB, "access_as_external") == (400, "InvalidInput")
    assert refusal(bob, group, BOB) == (404, "SecurityGroupNotFound")
    share_group(alice, group, BOB)
    assert refusal(alice, group, BOB) == (409, "DuplicateRbacPolicy")
    assert refusal(bob, group, ADMIN) == (400, "InvalidInput")
    admin("PUT", f"/quotas/{ALICE}", {"quota": {"rbac_policy": 1}})
    assert refusal(alice, group, ADMIN) == (409, "OverQuota")
    used = alice.get(f"/quotas/{ALICE}/details")["quota"]["rbac_policy"]
    assert used == {"limit": 1, "used": 1, "reserved": 0}
