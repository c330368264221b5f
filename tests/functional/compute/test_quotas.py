"""Quotas and limits."""

from __future__ import annotations

from typing import Any

import pytest

from kilonova.config import Quota
from kilonova.domain.servers import Flavor
from kilonova.store import quotas, usage
from kilonova.store.database import Database

MINE, THEIRS = "a" * 32, "b" * 32
SETS, CLASS = "/os-quota-sets", "/os-quota-class-sets/default"
NOW = {
    *("instances", "cores", "ram", "metadata_items", "key_pairs"),
    *("server_groups", "server_group_members", "id"),
}
FILES = {"injected_files", "injected_file_content_bytes", "injected_file_path_bytes"}
NETWORK = {"fixed_ips", "floating_ips", "security_groups", "security_group_rules"}


@pytest.fixture
def used(database: Database) -> None:
    """Two servers of the member's."""
    flavor = Flavor(id="x", name="x", vcpus=2, memory_mb=100, root_gb=1)
    with database.write() as conn:
        usage.claim(conn, MINE, [flavor] * 2, quotas.limits(conn, MINE, Quota()))


def shown(caller: Any, version: str = "2.57", path: str = f"{SETS}/{MINE}") -> Any:
    return caller.get(path, version=version).json["quota_set"]


def test_shapes_by_microversion(member: Any) -> None:
    assert shown(member, "2.35").keys() == NOW | FILES | NETWORK
    assert shown(member, "2.36").keys() == NOW | FILES
    assert shown(member, "2.57").keys() == NOW
    assert shown(member, "2.57")["instances"] == 10


def test_class_shapes_by_microversion(admin: Any) -> None:
    groups = {"server_groups", "server_group_members"}
    for version, keys in {
        "2.49": (NOW - groups) | FILES | NETWORK,
        "2.50": NOW | FILES,
        "2.57": NOW,
    }.items():
        assert admin.get(CLASS, version=version).json["quota_class_set"].keys() == keys


@pytest.mark.usefixtures("used")
def test_detail_says_what_is_used(member: Any) -> None:
    detail = shown(member, path=f"{SETS}/{MINE}/detail")
    assert detail["cores"] == {"limit": 20, "in_use": 4, "reserved": 0}
    assert detail["ram"]["in_use"] == 200
    assert detail["id"] == MINE


def test_a_project_over_the_class_over_the_configuration(admin: Any, member: Any) -> None:
    assert admin.put(CLASS, {"quota_class_set": {"cores": 30, "ram": "-1"}}).status_code == 200
    put = admin.put(f"{SETS}/{MINE}", {"quota_set": {"cores": 40}}, version="2.57")
    assert put.json["quota_set"]["cores"] == 40
    assert "id" not in put.json["quota_set"]
    now = shown(member)
    assert (now["instances"], now["ram"], now["cores"]) == (10, -1, 40)
    defaults = shown(member, path=f"{SETS}/{MINE}/defaults")
    assert (defaults["cores"], defaults["id"]) == (30, MINE)
    assert admin.delete(f"{SETS}/{MINE}").status_code == 202
    assert shown(member)["cores"] == 30


@pytest.mark.usefixtures("used")
def test_not_below_what_is_used_unless_forced(admin: Any) -> None:
    refused = admin.put(f"{SETS}/{MINE}", {"quota_set": {"cores": 3, "instances": 5}})
    assert refused.status_code == 400
    assert "already used and reserved 4" in refused.json["badRequest"]["message"]
    assert shown(admin)["instances"] == 10
    assert admin.put(f"{SETS}/{MINE}", {"quota_set": {"cores": 3, "force": "True"}}).status_code == 200
    assert admin.put(f"{SETS}/{MINE}", {"quota_set": {"cores": -1}}).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"cores": -2},
        {"cores": 0x80000000},
        {"cores": 10**40},
        {"cores": "x"},
        {"cores": "1.0"},
        {"cores": ""},
        {"cores": True},
        {"cores": None},
        {"cores": []},
        {"unknown": 1},
        {"id": "x"},
        {"force": "maybe"},
        {"force": 2},
        {"force": 1},
        {"fixed_ips": 5},
    ],
)
def test_update_refuses(admin: Any, wrong: Any) -> None:
    assert admin.put(f"{SETS}/{MINE}", {"quota_set": wrong}, version="2.57").status_code == 400
    if "force" not in wrong:
        assert admin.put(CLASS, {"quota_class_set": wrong}, version="2.57").status_code == 400


def test_old_resources_are_kept_as_set(admin: Any) -> None:
    put = admin.put(f"{SETS}/{MINE}", {"quota_set": {"injected_files": 7, "fixed_ips": 9}}, version="2.35")
    assert (put.json["quota_set"]["injected_files"], put.json["quota_set"]["fixed_ips"]) == (7, 9)


def test_projects_and_classes_must_exist(admin: Any) -> None:
    for path in (f"{SETS}/none", f"{SETS}/none/detail", f"{SETS}/none/defaults"):
        assert admin.get(path).status_code == 400
    assert admin.put(f"{SETS}/none", {"quota_set": {}}).status_code == 400
    assert admin.get("/os-quota-class-sets/other").status_code == 404
    assert admin.put("/os-quota-class-sets/other", {"quota_class_set": {}}).status_code == 404


def test_a_user_is_limited_by_the_project_alone(admin: Any) -> None:
    assert admin.put(f"{SETS}/{MINE}", {"quota_set": {"cores": 7}}).status_code == 200
    assert shown(admin, path=f"{SETS}/{MINE}?user_id=u") == shown(admin)
    for method, path in (("GET", f"{MINE}/detail"), ("DELETE", MINE)):
        assert admin.ask(method, f"{SETS}/{path}?user_id=u", "2.1").status_code == 400
    assert admin.put(f"{SETS}/{MINE}?user_id=u", {"quota_set": {}}).status_code == 400


def test_who_may(member: Any, other: Any) -> None:
    assert member.get(f"{SETS}/{MINE}").status_code == 200
    assert member.get(f"{SETS}/{THEIRS}/defaults").status_code == 200
    answers = [
        other.get(f"{SETS}/{MINE}"),
        other.get(f"{SETS}/{MINE}/detail"),
        member.put(f"{SETS}/{MINE}", {"quota_set": {"cores": 99}}),
        member.delete(f"{SETS}/{MINE}"),
        member.get(CLASS),
        member.put(CLASS, {"quota_class_set": {}}),
        member.get(f"/limits?tenant_id={THEIRS}"),
    ]
    assert [answer.status_code for answer in answers] == [403] * len(answers)


@pytest.mark.usefixtures("used")
def test_limits(member: Any, admin: Any) -> None:
    now = member.get("/limits", version="2.57").json["limits"]
    assert now["rate"] == []
    assert now["absolute"] == {
        "maxTotalInstances": 10,
        "maxTotalCores": 20,
        "maxTotalRAMSize": 51200,
        "maxTotalKeypairs": 100,
        "maxServerMeta": 128,
        "maxServerGroups": 10,
        "maxServerGroupMembers": 10,
        "totalInstancesUsed": 2,
        "totalCoresUsed": 4,
        "totalRAMUsed": 200,
        "totalServerGroupsUsed": 0,
    }
    older = {"2.56": 2, "2.38": 3, "2.35": 8}
    for version, more in older.items():
        assert len(member.get("/limits", version=version).json["limits"]["absolute"]) == 11 + more
    theirs = admin.get(f"/limits?tenant_id={MINE}").json["limits"]["absolute"]
    assert theirs["totalCoresUsed"] == 4
    assert admin.get("/limits").json["limits"]["absolute"]["totalCoresUsed"] == 0
