"""Quotas and versions of the networking API."""

from __future__ import annotations

import pytest
from falcon.testing import TestClient

from .conftest import ADMIN, ALICE, BOB, Caller

DEFAULTS = {
    "network": 100,
    "subnet": 100,
    "port": 500,
    "router": 10,
    "floatingip": 50,
    "security_group": 10,
    "security_group_rule": 100,
    "rbac_policy": 10,
    "subnetpool": -1,
}


def test_defaults_and_limits_of_a_project(alice: Caller, admin: Caller) -> None:
    assert alice.get(f"/quotas/{ALICE}") == {"quota": DEFAULTS}
    assert admin("PUT", f"/quotas/{ALICE}", {"quota": {"network": 1}}).json == {
        "quota": {**DEFAULTS, "network": 1}
    }
    assert alice.get(f"/quotas/{ALICE}")["quota"]["network"] == 1
    assert alice.get(f"/quotas/{ALICE}/default") == {"quota": DEFAULTS}
    alice.create("network")
    assert alice.refused_create("network") == (409, "OverQuota")
    assert alice.get(f"/quotas/{ALICE}/details")["quota"]["network"] == {"limit": 1, "used": 1, "reserved": 0}
    assert admin.get("/quotas") == {
        "quotas": [{**DEFAULTS, "network": 1, "project_id": ALICE, "tenant_id": ALICE}]
    }
    assert admin("DELETE", f"/quotas/{ALICE}").status_code == 204
    assert admin.refused("DELETE", f"/quotas/{ALICE}") == (404, "TenantQuotaNotFound")
    alice.create("network")


def test_unlimited(alice: Caller, admin: Caller) -> None:
    admin("PUT", f"/quotas/{ALICE}", {"quota": {"network": -1}})
    assert len(alice("POST", "/networks", {"networks": [{}] * 101}).json["networks"]) == 101


def test_a_limit_below_the_use(alice: Caller, admin: Caller) -> None:
    alice.create("network")
    path = f"/quotas/{ALICE}"
    low = {"network": 0}
    assert admin.refused("PUT", path, {"quota": {**low, "check_limit": True}}) == (409, "InvalidQuotaValue")
    assert admin("PUT", path, {"quota": {**low, "force": True}}).status_code == 200
    assert admin("PUT", path, {"quota": low}).status_code == 200
    assert alice.refused_create("network") == (409, "OverQuota")


def test_who_may(alice: Caller, bob: Caller, reader: Caller) -> None:
    assert reader.get(f"/quotas/{ALICE}") == {"quota": DEFAULTS}
    for path in (f"/quotas/{ALICE}", f"/quotas/{ALICE}/default", f"/quotas/{ALICE}/details", "/quotas"):
        assert bob.refused("GET", path) == (403, "PolicyNotAuthorized")
    assert alice.refused("PUT", f"/quotas/{ALICE}", {"quota": {"port": -1}})[0] == 403
    assert alice.refused("DELETE", f"/quotas/{ALICE}")[0] == 403


@pytest.mark.parametrize(
    "quota", [{"network": -2}, {"network": "1"}, {"network": 2**40}, {"trunk": 5}, [], None, {"port": None}]
)
def test_wrong_quotas(admin: Caller, quota: object) -> None:
    assert admin.refused("PUT", f"/quotas/{BOB}", {"quota": quota})[0] == 400


@pytest.mark.parametrize(
    "path",
    ["qos/policies", "address-scopes", "trunks", "nothing"],
)
def test_what_is_not_offered_is_not_found(alice: Caller, path: str) -> None:
    assert alice.refused("GET", f"/{path}")[0] == 404
    assert alice.refused("POST", f"/{path}", {})[0] == 404


def test_versions(client: TestClient, alice: Caller) -> None:
    (version,) = client.simulate_get("/networking").json["versions"]
    assert version["id"] == "v2.0"
    assert version["status"] == "CURRENT"
    assert {item["collection"] for item in alice.get("")["resources"]} >= {"networks", "subnets", "ports"}


def test_without_a_token(client: TestClient) -> None:
    for token in ({}, {"X-Auth-Token": "wrong"}):
        result = client.simulate_get("/networking/v2.0/networks", headers=token)
        assert result.status_code == 401
        assert result.json["NeutronError"]["type"] == "HTTPUnauthorized"


def test_a_method_that_is_not_there(alice: Caller, admin: Caller) -> None:
    assert alice.refused("PATCH", "/networks")[0] == 405
    assert admin.get(f"/quotas/{ADMIN}") == {"quota": DEFAULTS}
