"""/v3/projects and /v3/domains"""

from __future__ import annotations

import pytest


def test_create_show_update_delete(admin):
    project = admin.create("/v3/projects", "project", name="demo", description="d", colour="blue")
    path = f"/v3/projects/{project['id']}"
    assert project["domain_id"] == project["parent_id"] == "default"
    assert (project["enabled"], project["is_domain"], project["tags"]) == (True, False, [])
    assert project["colour"] == "blue"
    assert admin.get(path)["project"] == project
    changed = admin.call("PATCH", path, {"project": {"name": "neu", "description": None}}).json["project"]
    assert changed == project | {"name": "neu", "description": ""}
    admin.call("POST", "/v3/projects", {"project": {"name": "neu"}}, status=409)
    admin.call("DELETE", path)
    admin.call("GET", path, status=404)
    admin.call("DELETE", path, status=404)


@pytest.mark.parametrize(
    ("attributes", "status"),
    [
        ({}, 400),
        ({"name": "\n"}, 400),
        ({"name": "x" * 65}, 400),
        ({"name": "x", "enabled": 1}, 400),
        ({"name": "x", "tags": ["a,b"]}, 400),
        ({"name": "x", "tags": [""]}, 400),
        ({"name": "x", "is_domain": True}, 400),
        ({"name": "x", "options": {"immutable": True}}, 400),
        ({"name": "x", "parent_id": "nowhere"}, 404),
        ({"name": "x", "domain_id": "nowhere"}, 404),
    ],
)
def test_bad_attributes(admin, attributes, status):
    admin.call("POST", "/v3/projects", {"project": attributes}, status=status)


def test_what_cannot_change(admin, tenant):
    path = f"/v3/projects/{tenant.project['id']}"
    admin.call("PATCH", path, {"project": {"domain_id": "other"}}, status=400)
    admin.call("PATCH", path, {"project": {"is_domain": True}}, status=400)
    admin.call("PATCH", path, {"project": {"parent_id": "other"}}, status=403)
    admin.call("PATCH", path, {"project": {"parent_id": "default", "domain_id": "default"}})


def test_a_tree_of_projects(admin):
    domain = admin.create("/v3/domains", "domain", name="corp")
    top = admin.create("/v3/projects", "project", name="top", parent_id=domain["id"])
    assert top["domain_id"] == domain["id"]
    leaf = admin.create("/v3/projects", "project", name="leaf", parent_id=top["id"])
    assert (leaf["parent_id"], leaf["domain_id"]) == (top["id"], domain["id"])
    body = {"project": {"name": "x", "parent_id": top["id"], "domain_id": "default"}}
    admin.call("POST", "/v3/projects", body, status=400)
    body = {"project": {"name": "x", "parent_id": domain["id"], "domain_id": "default"}}
    admin.call("POST", "/v3/projects", body, status=400)
    assert _names(admin, f"?parent_id={top['id']}") == ["leaf"]
    assert _names(admin, f"?parent_id={domain['id']}") == ["top"]
    admin.call("DELETE", f"/v3/projects/{top['id']}", status=403)
    low = admin.create("/v3/projects", "project", name="low", parent_id=leaf["id"])
    assert _tree(admin, low, "parents_as_ids") == {leaf["id"]: {top["id"]: {domain["id"]: None}}}
    assert _tree(admin, top, "parents_as_ids") == {domain["id"]: None}
    assert _tree(admin, top, "subtree_as_ids") == {leaf["id"]: {low["id"]: None}}
    assert _tree(admin, low, "subtree_as_ids") is None
    assert _tree(admin, low, "parents_as_list") == _tree(admin, top, "subtree_as_list") == []
    member = admin.get("/v3/roles?name=member")["roles"][0]["id"]
    me = admin.get("/v3/users?name=admin")["users"][0]["id"]
    admin.call("PUT", f"/v3/projects/{leaf['id']}/users/{me}/roles/{member}")
    for project, name in ((low, "parents_as_list"), (top, "subtree_as_list")):
        assert [one["project"]["name"] for one in _tree(admin, project, name)] == ["leaf"]
    for both in ("parents_as_ids&parents_as_list", "subtree_as_ids&subtree_as_list"):
        admin.call("GET", f"/v3/projects/{low['id']}?{both}", status=400)
    admin.call("DELETE", f"/v3/projects/{low['id']}")
    admin.call("PATCH", f"/v3/domains/{domain['id']}", {"domain": {"enabled": False}})
    admin.call("DELETE", f"/v3/domains/{domain['id']}")
    assert _names(admin, "") == ["admin", "service"]


def _tree(admin, project, asked):
    said = admin.get(f"/v3/projects/{project['id']}?{asked}")["project"]
    return said["parents" if asked.startswith("parents") else "subtree"]


def _names(admin, query):
    return [item["name"] for item in admin.get(f"/v3/projects{query}")["projects"]]


def test_list_filters(admin):
    admin.create("/v3/projects", "project", name="off", enabled=False)
    assert _names(admin, "?enabled=False") == ["off"]
    assert _names(admin, "?name=admin&domain_id=default") == ["admin"]
    assert _names(admin, "?domain_id=nowhere") == []
    assert _names(admin, "?is_domain=true") == []


def test_tags(admin, tenant):
    path = f"/v3/projects/{tenant.project['id']}/tags"
    assert admin.call("PUT", path, {"tags": ["red", "blue"]}, status=200).json["tags"] == ["red", "blue"]
    admin.call("PUT", f"{path}/green", status=201)
    admin.call("PUT", f"{path}/green", status=201)
    assert tenant.api.get(path)["tags"] == ["red", "blue", "green"]
    admin.call("HEAD", f"{path}/red", status=204)
    assert _names(admin, "?tags=red,blue") == ["demo"]
    assert _names(admin, "?tags=red,black") == []
    assert _names(admin, "?tags-any=red,black") == ["demo"]
    assert _names(admin, "?not-tags-any=red") == ["admin", "service"]
    assert _names(admin, "?not-tags=red,black") == ["admin", "demo", "service"]
    admin.call("DELETE", f"{path}/red")
    admin.call("DELETE", f"{path}/red", status=404)
    tenant.api.call("DELETE", path, status=403)
    admin.call("PUT", path, {"tags": ["a/b"]}, status=400)
    admin.call("PUT", path, {"tags": [], "more": 1}, status=400)
    admin.call("DELETE", path)
    assert tenant.api.get(path)["tags"] == []


def test_domains(admin, password):
    domain = admin.create("/v3/domains", "domain", name="corp", description="c")
    path = f"/v3/domains/{domain['id']}"
    assert admin.get(path)["domain"] == domain
    assert [item["name"] for item in admin.get("/v3/domains")["domains"]] == ["Default", "corp"]
    assert len(admin.get("/v3/domains?name=corp&enabled=true")["domains"]) == 1
    admin.call("POST", "/v3/domains", {"domain": {"name": "corp"}}, status=409)
    user = admin.create("/v3/users", "user", name="bob", domain_id=domain["id"], password=password)
    project = admin.create("/v3/projects", "project", name="p", domain_id=domain["id"])
    admin.create("/v3/groups", "group", name="g", domain_id=domain["id"])
    role = admin.create("/v3/roles", "role", name="local", domain_id=domain["id"])
    admin.call("PUT", f"/v3/projects/{project['id']}/users/{user['id']}/roles/{role['id']}")
    admin.call("DELETE", path, status=403)
    admin.call("PATCH", path, {"domain": {"enabled": False, "name": "old"}})
    admin.login(password={"user": {"id": user["id"], "password": password}}, status=401)
    admin.call("DELETE", path)
    for gone in (path, f"/v3/users/{user['id']}", f"/v3/projects/{project['id']}", f"/v3/roles/{role['id']}"):
        admin.call("GET", gone, status=404)
    assert len(admin.get("/v3/role_assignments")["role_assignments"]) == 2


def test_the_default_domain_stays(admin):
    admin.call("PATCH", "/v3/domains/default", {"domain": {"enabled": False}}, status=403)
    admin.call("DELETE", "/v3/domains/default", status=403)


def test_domain_of_somebody_else(admin, tenant):
    domain = admin.create("/v3/domains", "domain", name="corp")
    tenant.api.call("GET", f"/v3/domains/{domain['id']}", status=403)
    tenant.api.call("GET", "/v3/domains", status=403)
