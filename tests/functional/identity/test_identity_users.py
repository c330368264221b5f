"""/v3/users and /v3/groups"""

from __future__ import annotations

import pytest


def test_create_show_update_delete(admin):
    user = admin.create(
        "/v3/users", "user", name="Bob <b>&\"'/../", email="bob@example.org", description="ü", phone=5
    )
    path = f"/v3/users/{user['id']}"
    assert user["domain_id"] == "default"
    assert user["enabled"] is True
    assert (user["email"], user["phone"], user["description"]) == ("bob@example.org", 5, "ü")
    assert user["links"]["self"].endswith(f"/identity{path}")
    assert "default_project_id" not in user
    assert not {"password", "password_hash"} & user.keys()
    assert admin.get(path)["user"] == user
    assert not admin.call("HEAD", path).content
    changed = admin.call("PATCH", path, {"user": {"name": "bob", "email": "b@example.org"}}).json["user"]
    assert changed == user | {"name": "bob", "email": "b@example.org"}
    admin.call("DELETE", path)
    admin.call("GET", path, status=404)
    admin.call("PATCH", path, {"user": {"name": "bob"}}, status=404)
    admin.call("DELETE", path, status=404)


def test_what_a_client_sends_back_is_not_kept(admin):
    user = admin.create("/v3/users", "user", name="bob")
    path = f"/v3/users/{user['id']}"
    body = {"user": user | {"id": "other", "original_password": "x", "password_expires_at": "2000-01-01"}}
    assert admin.call("PATCH", path, body).json["user"] == user


def test_names_are_unique_in_a_domain(admin):
    domain = admin.create("/v3/domains", "domain", name="corp")
    first = admin.create("/v3/users", "user", name="bob")
    admin.create("/v3/users", "user", name="bob", domain_id=domain["id"])
    admin.call("POST", "/v3/users", {"user": {"name": "bob"}}, status=409)
    other = admin.create("/v3/users", "user", name="rob")
    admin.call("PATCH", f"/v3/users/{other['id']}", {"user": {"name": "bob"}}, status=409)
    assert admin.get(f"/v3/users/{first['id']}")["user"]["name"] == "bob"


def test_list_filters(admin):
    domain = admin.create("/v3/domains", "domain", name="corp")
    admin.create("/v3/users", "user", name="bob", domain_id=domain["id"], enabled=False)

    def names(query: str) -> list[str]:
        answer = admin.get(f"/v3/users{query}")
        assert answer["links"].keys() == {"self", "next", "previous"}
        return [user["name"] for user in answer["users"]]

    assert names("") == ["admin", "bob"]
    assert names("?name=bob") == ["bob"]
    assert names("?name=bob&domain_id=default") == []
    assert names(f"?domain_id={domain['id']}") == ["bob"]
    assert names("?enabled=true") == ["admin"]
    assert names("?enabled=0") == ["bob"]
    admin.get("/v3/users?name=%00", status=400)
    assert names("?name=a%27%20OR%201=1--") == []


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"name": ""},
        {"name": " \t"},
        {"name": 5},
        {"name": None},
        {"name": "x" * 256},
        {"name": "a\0b"},
        {"name": "x", "email": {"deep": ["\0"]}},
        {"name": "x", "password": 5},
        {"name": "x", "password": ""},
        {"name": "x", "password": "y" * 4097},
        {"name": "x", "enabled": "yes"},
        {"name": "x", "default_project_id": 5},
        {"name": "x", "options": {"ignore_password_expiry": True}},
        {"name": "x", "domain_id": ["default"]},
    ],
)
def test_bad_attributes(admin, attributes):
    admin.call("POST", "/v3/users", {"user": attributes}, status=400)
    assert len(admin.get("/v3/users")["users"]) == 1


def test_an_option_that_is_not_served_is_named(admin):
    body = {"user": {"name": "x", "options": {"lock_password": True}}}
    assert "`lock_password`" in admin.call("POST", "/v3/users", body, status=400).text


@pytest.mark.parametrize("body", [[], {}, {"user": []}, {"project": {"name": "x"}}, "user", 7, None])
def test_bad_bodies(admin, body):
    admin.call("POST", "/v3/users", body, status=400)


def test_unknown_domain_and_change_of_domain(admin):
    admin.call("POST", "/v3/users", {"user": {"name": "x", "domain_id": "nowhere"}}, status=404)
    user = admin.create("/v3/users", "user", name="x")
    path = f"/v3/users/{user['id']}"
    admin.call("PATCH", path, {"user": {"domain_id": "default"}})
    admin.call("PATCH", path, {"user": {"domain_id": "nowhere"}}, status=400)


def test_a_disabled_user_and_one_without_a_password_cannot_log_in(admin, password):
    admin.create("/v3/users", "user", name="off", password=password, enabled=False)
    admin.create("/v3/users", "user", name="bare")
    admin.login("off", status=401)
    admin.login("bare", status=401)
    admin.login("bare", "", status=401)


def test_change_own_password(tenant, guest, password):
    path = f"/v3/users/{tenant.user['id']}/password"

    def change(old: str, new: object, status: int, where: str = path) -> None:
        body = {"user": {"original_password": old, "password": new}}
        guest.call("POST", where, body, status=status)

    change("wrong", "new", 401)
    change(password, "new", 401, "/v3/users/nobody/password")
    change(password, "", 400)
    change(password, None, 400)
    change(password, "new", 204)
    guest.login("ann", password, status=401)
    guest.login("ann", "new")


def test_what_a_user_may(admin, tenant):
    me, ann = f"/v3/users/{tenant.user['id']}", tenant.api
    assert ann.get(me)["user"]["name"] == "ann"
    assert [item["name"] for item in ann.get(f"{me}/projects")["projects"]] == ["demo"]
    assert ann.get(f"{me}/groups")["groups"] == []
    root = admin.get("/v3/users?name=admin")["users"][0]["id"]
    for method, path in (
        ("GET", "/v3/users"),
        ("POST", "/v3/users"),
        ("PATCH", me),
        ("DELETE", me),
        ("GET", f"/v3/users/{root}"),
        ("GET", f"/v3/users/{root}/projects"),
        ("GET", f"/v3/users/{root}/application_credentials"),
        ("GET", "/v3/users/no-such-user"),
        ("GET", "/v3/projects"),
        ("GET", f"/v3/projects/{admin.get('/v3/projects?name=admin')['projects'][0]['id']}"),
        ("POST", "/v3/roles"),
        ("GET", "/v3/role_assignments"),
        ("GET", "/v3/services"),
    ):
        ann.call(method, path, {} if method in ("POST", "PATCH") else None, status=403)
    ann.get(f"/v3/projects/{tenant.project['id']}")
    ann.get("/v3/domains/default")
    ann.call("GET", "/v3/nowhere", status=404)
    ann.call("PUT", me, {}, status=405)


def test_groups(admin, tenant, password):
    group = admin.create("/v3/groups", "group", name="devs", description="d")
    path = f"/v3/groups/{group['id']}"
    bob = admin.create("/v3/users", "user", name="bob", password=password)
    member = f"{path}/users/{bob['id']}"
    admin.call("HEAD", member, status=404)
    admin.call("PUT", f"/v3/projects/{tenant.project['id']}/groups/{group['id']}/roles/{tenant.member_role}")
    admin.login("bob", scope={"project": {"id": tenant.project["id"]}}, status=401)
    admin.call("PUT", member)
    admin.call("PUT", member)
    admin.call("HEAD", member, status=204)
    api = admin.as_user("bob", project="demo")
    assert [item["name"] for item in api.get("/v3/auth/projects")["projects"]] == ["demo"]
    assert [item["name"] for item in admin.get(f"{path}/users")["users"]] == ["bob"]
    assert [item["name"] for item in admin.get(f"/v3/users/{bob['id']}/groups")["groups"]] == ["devs"]
    admin.call("DELETE", member)
    api.call("GET", "/v3/auth/projects", status=401)
    admin.call("DELETE", member, status=404)
    admin.call("PUT", f"{path}/users/nobody", status=404)
    changed = admin.call("PATCH", path, {"group": {"description": "new"}}).json["group"]
    assert changed == group | {"description": "new"}
    assert [item["id"] for item in admin.get("/v3/groups?name=devs")["groups"]] == [group["id"]]
    admin.call("POST", "/v3/groups", {"group": {"name": "devs"}}, status=409)
    admin.call("DELETE", path)
    admin.call("GET", path, status=404)
    assert admin.get(f"/v3/role_assignments?group.id={group['id']}")["role_assignments"] == []
