"""/v3/roles, grants, /v3/role_assignments, and that lists cost the same whatever their length"""

from __future__ import annotations

import pytest
from tests.statements import sent


def test_create_show_update_delete(admin):
    role = admin.create("/v3/roles", "role", name="auditor", description="reads")
    path = f"/v3/roles/{role['id']}"
    assert role["domain_id"] is None
    assert admin.get(path)["role"] == role
    assert admin.call("PATCH", path, {"role": {"name": "checker"}}).json["role"]["name"] == "checker"
    admin.call("POST", "/v3/roles", {"role": {"name": "member"}}, status=409)
    admin.call("POST", "/v3/roles", {"role": {"name": ""}}, status=400)
    admin.call("POST", "/v3/roles", {"role": {"name": "x", "domain_id": "nowhere"}}, status=404)
    assert [item["name"] for item in admin.get("/v3/roles")["roles"]] == [
        "admin",
        "checker",
        "member",
        "reader",
        "service",
    ]
    admin.call("DELETE", path)
    admin.call("GET", path, status=404)


def test_a_role_of_a_domain_stays_inside_it(admin, tenant):
    domain = admin.create("/v3/domains", "domain", name="corp")
    role = admin.create("/v3/roles", "role", name="member", domain_id=domain["id"])
    assert len(admin.get("/v3/roles?name=member")["roles"]) == 1
    assert admin.get(f"/v3/roles?domain_id={domain['id']}")["roles"] == [role]
    path = f"/v3/projects/{tenant.project['id']}/users/{tenant.user['id']}/roles/{role['id']}"
    admin.call("PUT", path, status=403)


def test_a_role_of_a_domain_only_implies_others(admin, password):
    domain = admin.create("/v3/domains", "domain", name="corp")
    project = admin.create("/v3/projects", "project", name="p", domain_id=domain["id"])
    user = admin.create("/v3/users", "user", name="bob", password=password, domain_id=domain["id"])
    staff, boss = (
        admin.create("/v3/roles", "role", name=name, domain_id=domain["id"]) for name in ("staff", "boss")
    )
    admin.call("PUT", f"/v3/projects/{project['id']}/users/{user['id']}/roles/{boss['id']}")
    proof = {"user": {"id": user["id"], "password": password}}
    scope = {"project": {"id": project["id"]}}
    admin.login(password=proof, scope=scope, status=401)
    query = f"/v3/role_assignments?effective&user.id={user['id']}"
    assert admin.get(query)["role_assignments"] == []
    admin.call("PUT", f"/v3/roles/{boss['id']}/implies/{staff['id']}", status=201)
    admin.call("PUT", f"/v3/roles/{staff['id']}/implies/{admin.role('reader')}", status=201)
    admin.call("PUT", f"/v3/roles/{admin.role('reader')}/implies/{staff['id']}", status=403)
    token = admin.login(password=proof, scope=scope).json["token"]
    assert [role["name"] for role in token["roles"]] == ["reader"]
    assert [item["role"]["id"] for item in admin.get(query)["role_assignments"]] == [admin.role("reader")]


@pytest.mark.parametrize("kind", ["project", "domain", "system"])
def test_grants(admin, tenant, kind):
    where = {
        "project": f"/v3/projects/{tenant.project['id']}",
        "domain": "/v3/domains/default",
        "system": "/v3/system",
    }[kind]
    bob = admin.create("/v3/users", "user", name="bob")
    roles = f"{where}/users/{bob['id']}/roles"
    path = f"{roles}/{tenant.member_role}"
    admin.call("HEAD", path, status=404)
    admin.call("DELETE", path, status=404)
    admin.call("PUT", path)
    admin.call("PUT", path)
    admin.call("HEAD", path, status=204)
    admin.call("GET", path, status=204)
    assert [item["name"] for item in admin.get(roles)["roles"]] == ["member"]
    admin.call("PUT", f"{roles}/nothing", status=404)
    admin.call("PUT", f"{where}/users/nobody/roles/{tenant.member_role}", status=404)
    admin.call("PUT", f"{where}/groups/nobody/roles/{tenant.member_role}", status=404)
    tenant.api.call("PUT", path, status=403)
    admin.call("DELETE", path)
    assert admin.get(roles)["roles"] == []


def test_grant_on_an_unknown_project(admin, tenant):
    path = f"/v3/projects/nowhere/users/{tenant.user['id']}/roles/{tenant.member_role}"
    for method in ("PUT", "HEAD", "GET", "DELETE"):
        admin.call(method, path, status=404)


def test_implied_roles(admin, tenant):
    rules = {
        rule["prior_role"]["name"]: [role["name"] for role in rule["implies"]]
        for rule in admin.get("/v3/role_inferences")["role_inferences"]
    }
    assert rules == {"admin": ["member"], "member": ["reader"]}
    extra = admin.create("/v3/roles", "role", name="extra")
    path = f"/v3/roles/{tenant.member_role}/implies/{extra['id']}"
    admin.call("GET", path, status=404)
    assert admin.call("PUT", path, status=201).json["role_inference"]["implies"]["name"] == "extra"
    admin.call("HEAD", path, status=204)
    implied = admin.get(f"/v3/roles/{tenant.member_role}/implies")["role_inference"]["implies"]
    assert {role["name"] for role in implied} == {"reader", "extra"}
    shown = admin.call("GET", "/v3/auth/tokens", subject=tenant.api.token).json["token"]
    assert {role["name"] for role in shown["roles"]} == {"member", "reader", "extra"}
    back = f"/v3/roles/{extra['id']}/implies/{tenant.member_role}"
    admin.call("PUT", back, status=201)  # a circle ends
    admin.call("GET", "/v3/auth/tokens", subject=tenant.api.token)
    assert admin.get("/v3/role_assignments?effective")["role_assignments"]
    admin.call("DELETE", path)
    admin.call("DELETE", path, status=404)
    admin.call("PUT", f"/v3/roles/{extra['id']}/implies/{admin.role('admin')}", status=403)


def test_assignments_and_filters(admin, tenant):
    group = admin.create("/v3/groups", "group", name="devs")
    admin.call("PUT", f"/v3/groups/{group['id']}/users/{tenant.user['id']}")
    admin.call("PUT", f"/v3/domains/default/groups/{group['id']}/roles/{tenant.member_role}")

    def found(query: str) -> list[dict]:
        return admin.get(f"/v3/role_assignments{query}")["role_assignments"]

    assert len(found("")) == 4
    mine = found(f"?user.id={tenant.user['id']}")
    assert len(mine) == 1
    assert mine[0]["role"] == {"id": tenant.member_role}
    assert mine[0]["scope"] == {"project": {"id": tenant.project["id"]}}
    assert mine[0]["links"]["assignment"].endswith(
        f"/v3/projects/{tenant.project['id']}/users/{tenant.user['id']}/roles/{tenant.member_role}"
    )
    assert found("?scope.system=all")[0]["scope"] == {"system": {"all": True}}
    assert len(found(f"?scope.project.id={tenant.project['id']}")) == 1
    assert len(found("?scope.domain.id=default")) == 1
    assert len(found(f"?role.id={tenant.member_role}")) == 2
    assert len(found(f"?group.id={group['id']}")) == 1
    assert found("?user.id=nobody") == []
    assert found("?scope.OS-INHERIT:inherited_to=projects") == []
    effective = found(f"?effective&user.id={tenant.user['id']}&include_names")
    assert {(item["role"]["name"], *item["scope"]) for item in effective} == {
        ("member", "project"),
        ("reader", "project"),
        ("member", "domain"),
        ("reader", "domain"),
    }
    assert effective[0]["user"]["domain"] == {"id": "default", "name": "Default"}
    assert len(found(f"?effective&role.id={admin.role('reader')}")) == 4
    for query in (
        "?scope.domain.id=default&scope.system=all",
        f"?user.id=x&group.id={group['id']}",
        f"?effective&group.id={group['id']}",
        "?include_subtree&scope.project.id=x",
    ):
        admin.call("GET", f"/v3/role_assignments{query}", status=400)


@pytest.mark.parametrize(
    "path",
    ["/v3/users", "/v3/projects", "/v3/role_assignments?include_names=1&effective=1", "/v3/role_assignments"],
)
def test_a_list_takes_the_same_statements_however_long(admin, tenant, path):
    def statements() -> int:
        with sent(admin.identity.db) as seen:
            admin.get(path)
        return len(seen)

    admin.get("/v3/users")
    few = statements()
    for number in range(5):
        user = admin.create("/v3/users", "user", name=f"u{number}")
        project = admin.create("/v3/projects", "project", name=f"p{number}")
        admin.call("PUT", f"/v3/projects/{project['id']}/users/{user['id']}/roles/{tenant.member_role}")
    admin.get("/v3/users")
    assert statements() == few
