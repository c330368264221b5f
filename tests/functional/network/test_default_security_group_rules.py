"""The rules that security groups are made with: an admin's to choose."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Caller

KIND, PATH = "default_security_group_rule", "/default-security-group-rules"
SSH: dict[str, Any] = {"direction": "ingress", "protocol": "tcp", "port_range_min": 22, "port_range_max": 22}


def default_of(caller: Caller) -> set[tuple[str, str, int | None, bool]]:
    (found,) = caller.get("/security-groups", name="default")["security_groups"]
    return rules_of(found)


def rules_of(group: dict[str, Any]) -> set[tuple[str, str, int | None, bool]]:
    """Direction, ethertype, port, and whether it is about the group's own members."""
    return {
        (rule["direction"], rule["ethertype"], rule["port_range_min"], rule["remote_group_id"] == group["id"])
        for rule in group["security_group_rules"]
    }


OUT = {("egress", "IPv4", None, False), ("egress", "IPv6", None, False)}
WITHIN = {("ingress", "IPv4", None, True), ("ingress", "IPv6", None, True)}


def test_neutrons_own_are_there(alice: Caller) -> None:
    found = alice.get(PATH)["default_security_group_rules"]
    shown = [
        (
            rule["direction"],
            rule["ethertype"],
            rule["remote_group_id"],
            rule["used_in_default_sg"],
            rule["used_in_non_default_sg"],
        )
        for rule in found
    ]
    assert sorted(shown, key=str) == [
        ("egress", "IPv4", None, True, True),
        ("egress", "IPv6", None, True, True),
        ("ingress", "IPv4", "PARENT", True, False),
        ("ingress", "IPv6", "PARENT", True, False),
    ]
    assert alice.get(f"{PATH}/{found[0]['id']}")[KIND] == found[0]
    within = alice.get(PATH, remote_group_id="PARENT", fields="direction", sort_key="id", limit=1)
    assert within["default_security_group_rules"] == [{"direction": "ingress"}]
    assert len(within["default_security_group_rules_links"]) == 1


def test_groups_are_made_with_what_holds_then(alice: Caller, bob: Caller, admin: Caller) -> None:
    before = alice.create("security_group", name="before")
    assert rules_of(before) == OUT
    assert default_of(alice) == OUT | WITHIN
    ssh = admin.create(KIND, **SSH, description="from anywhere")
    assert (ssh["used_in_default_sg"], ssh["used_in_non_default_sg"]) == (False, True)
    ping = admin.create(KIND, direction="ingress", protocol="icmp", port_range_min=8, used_in_default_sg=True)
    for rule in admin.get(PATH, direction="egress", ethertype="IPv6")["default_security_group_rules"]:
        admin.delete(KIND, rule["id"])
    now = alice.create("security_group", name="now")
    ping_in, ssh_in = ("ingress", "IPv4", 8, False), ("ingress", "IPv4", 22, False)
    out = ("egress", "IPv4", None, False)
    assert rules_of(now) == {out, ping_in, ssh_in}
    (told,) = [rule for rule in now["security_group_rules"] if rule["port_range_min"] == 22]
    assert (told["description"], told["protocol"]) == ("from anywhere", "tcp")
    assert default_of(bob) == {out, ping_in, *WITHIN}
    for rule in (ssh["id"], ping["id"]):
        admin.delete(KIND, rule)
    kept = alice.get(f"/security-groups/{now['id']}")["security_group"]
    assert rules_of(kept) == {out, ping_in, ssh_in}
    assert default_of(alice) == OUT | WITHIN


def test_a_group_may_be_made_with_none(alice: Caller, admin: Caller) -> None:
    for rule in admin.get(PATH)["default_security_group_rules"]:
        admin.delete(KIND, rule["id"])
    assert rules_of(alice.create("security_group", name="empty")) == set()
    assert default_of(alice) == set()


def test_they_count_in_the_quota_of_rules(alice: Caller, admin: Caller) -> None:
    group = alice.create("security_group", name="one")
    used = len(alice.get("/security-group-rules")["security_group_rules"])
    limit = {"quota": {"security_group_rule": used + 2}}
    assert admin("PUT", f"/quotas/{group['project_id']}", limit).status_code == 200
    rule = admin.create(KIND, **SSH)["id"]
    assert alice.refused_create("security_group", name="two") == (409, "OverQuota")
    admin.delete(KIND, rule)
    alice.create("security_group", name="two")


def test_who_may(alice: Caller, admin: Caller) -> None:
    rule = admin.create(KIND, **SSH)["id"]
    assert alice.refused_create(KIND, **SSH) == (403, "PolicyNotAuthorized")
    assert alice.refused("DELETE", f"{PATH}/{rule}") == (403, "PolicyNotAuthorized")
    assert alice.refused("GET", f"{PATH}/none") == (404, "DefaultSecurityGroupRuleNotFound")
    assert admin.refused("DELETE", f"{PATH}/none") == (404, "DefaultSecurityGroupRuleNotFound")
    assert admin.refused("PUT", f"{PATH}/{rule}", {KIND: {"description": "x"}})[0] == 405


def test_no_group_gets_a_rule_twice(admin: Caller) -> None:
    admin.create(KIND, **SSH)
    assert admin.refused_create(KIND, **SSH) == (409, "DefaultSecurityGroupRuleExists")
    assert admin.refused_create(KIND, **SSH, used_in_default_sg=True)[0] == 409
    only_default = {"used_in_default_sg": True, "used_in_non_default_sg": False}
    admin.create(KIND, **SSH, **only_default)
    assert admin.refused_create(KIND, **SSH, **only_default, remote_ip_prefix="0.0.0.0/0")[0] == 409
    again = {"direction": "ingress", "remote_group_id": "PARENT", "used_in_default_sg": True}
    assert admin.refused_create(KIND, **again)[0] == 409


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"direction": "in"}, "HTTPBadRequest"),
        ({"protocol": "nonsense"}, "SecurityGroupRuleInvalidProtocol"),
        ({"port_range_min": 1, "port_range_max": 2}, "SecurityGroupProtocolRequiredWithPorts"),
        ({"remote_ip_prefix": "::/0"}, "SecurityGroupRuleParameterConflict"),
        ({"remote_ip_prefix": "10.0.0.0/8", "remote_group_id": "PARENT"}, None),
        ({"remote_group_id": "7a9e0c51-3c4e-4d0b-8f57-0c2c3c1c9a01"}, "InvalidInput"),
        ({"remote_address_group_id": "7a9e0c51-3c4e-4d0b-8f57-0c2c3c1c9a01"}, "InvalidInput"),
        ({"security_group_id": "x"}, "HTTPBadRequest"),
    ],
)
def test_nonsense(admin: Caller, said: dict[str, Any], kind: str | None) -> None:
    status, named = admin.refused_create(KIND, **({"direction": "ingress"} | said))
    assert (status, kind or named) == (400, named)
