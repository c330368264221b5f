"""/v3/users/{user_id}/application_credentials, and logging in with one"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

KEY = "application_credential"


@pytest.fixture
def path(tenant):
    return f"/v3/users/{tenant.user['id']}/application_credentials"


def _login(api, credential, status=201, scope=None, **proof):
    proof = proof or {"id": credential["id"], "secret": credential["secret"]}
    return api.login(application_credential=proof, scope=scope, status=status)


def test_create_login_list_show_delete(tenant, guest, path):
    made = tenant.api.create(path, KEY, name="ci", description="for the robot")
    assert len(made["secret"]) >= 64
    assert {role["name"] for role in made["roles"]} == {"member", "reader"}
    assert (made["project_id"], made["unrestricted"], made["expires_at"]) == (
        tenant.project["id"],
        False,
        None,
    )
    answer = _login(guest, made)
    token = answer.json["token"]
    assert token["methods"] == [KEY]
    assert token["project"]["id"] == tenant.project["id"]
    assert token[KEY] == {"id": made["id"], "name": "ci", "restricted": True}
    shown = {name: value for name, value in made.items() if name != "secret"}
    assert tenant.api.get(path)["application_credentials"] == [shown]
    assert tenant.api.get(f"{path}?name=other")["application_credentials"] == []
    assert tenant.api.get(f"{path}/{made['id']}")[KEY] == shown
    robot = guest.with_token(answer.headers["X-Subject-Token"])
    robot.get("/v3/auth/projects")
    tenant.api.call("DELETE", f"{path}/{made['id']}")
    robot.call("GET", "/v3/auth/projects", status=401)
    _login(guest, made, 401)
    tenant.api.call("GET", f"{path}/{made['id']}", status=404)


def test_by_name_and_user(tenant, guest, path):
    made = tenant.api.create(path, KEY, name="ci", secret="chosen")
    assert made["secret"] == "chosen"
    for user in ({"id": tenant.user["id"]}, {"name": "ann", "domain": {"name": "Default"}}):
        _login(guest, made, name="ci", user=user, secret="chosen")
    for user in ({"id": "nobody"}, {"name": "nobody", "domain": {"id": "default"}}):
        _login(guest, made, 401, name="ci", user=user, secret="chosen")
    _login(guest, made, 401, id=made["id"], secret="wrong")
    _login(guest, made, 401, id="unknown", secret="chosen")


def test_some_of_the_roles(tenant, guest, path):
    made = tenant.api.create(path, KEY, name="ro", roles=[{"name": "reader"}])
    token = _login(guest, made).json["token"]
    assert [role["name"] for role in token["roles"]] == ["reader"]
    body = {KEY: {"name": "x", "roles": [{"name": "admin"}]}}
    tenant.api.call("POST", path, body, status=400)
    body = {KEY: {"name": "x", "roles": [{}]}}
    tenant.api.call("POST", path, body, status=400)


def test_it_never_gives_more_than_the_user_has(admin, tenant, guest, path):
    made = tenant.api.create(path, KEY, name="ci")
    robot = guest.with_token(_login(guest, made).headers["X-Subject-Token"])
    grant = f"/v3/projects/{tenant.project['id']}/users/{tenant.user['id']}/roles/{tenant.member_role}"
    admin.call("DELETE", grant)
    robot.call("GET", "/v3/auth/projects", status=401)
    admin.call("PUT", grant)
    robot.call("GET", "/v3/auth/projects", status=401)
    _login(guest, made, 401)


def test_a_disabled_user_and_project(admin, tenant, guest, path):
    made = tenant.api.create(path, KEY, name="ci")
    for where, key in (
        (f"/v3/users/{tenant.user['id']}", "user"),
        (f"/v3/projects/{tenant.project['id']}", "project"),
    ):
        admin.call("PATCH", where, {key: {"enabled": False}})
        _login(guest, made, 401)
        admin.call("PATCH", where, {key: {"enabled": True}})
        _login(guest, made)


def test_a_restricted_one_manages_no_others(tenant, guest, path):
    restricted = tenant.api.create(path, KEY, name="ci")
    robot = guest.with_token(_login(guest, restricted).headers["X-Subject-Token"])
    robot.call("POST", path, {KEY: {"name": "more"}}, status=403)
    robot.call("DELETE", f"{path}/{restricted['id']}", status=403)
    again = robot.login(token={"id": robot.token})
    again = guest.with_token(again.headers["X-Subject-Token"])
    again.call("POST", path, {KEY: {"name": "more"}}, status=403)
    free = tenant.api.create(path, KEY, name="free", unrestricted=True)
    robot = guest.with_token(_login(guest, free).headers["X-Subject-Token"])
    robot.create(path, KEY, name="more")


def test_it_is_for_one_project(admin, tenant, guest, path):
    other = admin.create("/v3/projects", "project", name="other")
    admin.call("PUT", f"/v3/projects/{other['id']}/users/{tenant.user['id']}/roles/{tenant.member_role}")
    made = tenant.api.create(path, KEY, name="ci")
    _login(guest, made, scope={"project": {"id": tenant.project["id"]}})
    token = _login(guest, made).headers["X-Subject-Token"]
    for scope in ({"project": {"id": other["id"]}}, "unscoped", {"domain": {"id": "default"}}):
        _login(guest, made, 403, scope=scope)
        guest.login(token={"id": token}, scope=scope, status=403)


def test_expiry(tenant, guest, path, monkeypatch):
    soon = (datetime.now(UTC) + timedelta(minutes=5)).replace(tzinfo=None)
    made = tenant.api.create(path, KEY, name="ci", expires_at=soon.isoformat())
    assert made["expires_at"] == soon.isoformat()
    token = _login(guest, made).json["token"]
    assert token["expires_at"] == f"{soon.isoformat()}Z"
    from kilonova.domain import clock
    from kilonova.identity import validity

    later = clock.now() + 301
    monkeypatch.setattr(validity, "now", lambda: later)
    _login(guest, made, 401)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"name": ""},
        {"name": "x", "expires_at": "tomorrow"},
        {"name": "x", "expires_at": "2001-01-01T00:00:00"},
        {"name": "x", "expires_at": 5},
        {"name": "x", "secret": ""},
        {"name": "x", "unrestricted": "no"},
        {"name": "x", "roles": "member"},
        {"name": "x", "project_id": "another"},
        {"name": "x", "access_rules": [{"path": "/v2.1/servers", "method": "GET", "service": "compute"}]},
        {"name": "x", "unknown": 1},
    ],
)
def test_bad_attributes(tenant, path, attributes):
    tenant.api.call("POST", path, {KEY: attributes}, status=400)


def test_who_may(admin, tenant, path):
    made = tenant.api.create(path, KEY, name="ci")
    tenant.api.call("POST", path, {KEY: {"name": "ci"}}, status=409)
    admin.call("POST", path, {KEY: {"name": "x"}}, status=403)
    admin.get(f"{path}/{made['id']}")
    admin_id = admin.get("/v3/users?name=admin")["users"][0]["id"]
    admin.call("GET", f"/v3/users/{admin_id}/application_credentials/{made['id']}", status=404)
    unscoped = admin.as_user("ann")
    unscoped.call("POST", path, {KEY: {"name": "x"}}, status=400)
    admin.call("DELETE", f"{path}/{made['id']}")
