"""POST, GET, HEAD, DELETE /v3/auth/tokens, and what a token's owner may ask."""

from __future__ import annotations

import json
import stat

import pytest

from kilonova.domain.errors import Unauthorized
from kilonova.identity import tokens as sealed
from kilonova.identity.catalog import DEFAULT_SERVICES

DEFAULT = {"id": "default"}


def test_project_scope_by_names(guest):
    answer = guest.login(scope={"project": {"name": "admin", "domain": {"name": "Default"}}})
    token = answer.json["token"]
    assert answer.headers["X-Subject-Token"].startswith("gAAAA")
    assert token["methods"] == ["password"]
    assert token["user"]["name"] == "admin"
    assert token["user"]["domain"] == {"id": "default", "name": "Default"}
    assert token["project"]["domain"]["name"] == "Default"
    assert {role["name"] for role in token["roles"]} == {"admin", "member", "reader"}
    assert token["expires_at"].endswith("Z")
    assert len(token["audit_ids"]) == 1


def test_the_catalog_has_the_address_the_client_used(guest):
    answer = guest.login(scope={"project": {"name": "admin", "domain": DEFAULT}})
    urls = {
        service["type"]: {point["interface"]: point["url"] for point in service["endpoints"]}
        for service in answer.json["token"]["catalog"]
    }
    assert urls["compute"]["public"] == "http://falconframework.org/compute/v2.1"
    assert urls["identity"]["admin"] == "http://falconframework.org/identity"
    assert urls["image"]["internal"] == "http://falconframework.org/image"
    assert urls["network"]["public"] == "http://falconframework.org/networking"


def test_nocatalog(guest):
    answer = guest.login(
        scope={"project": {"name": "admin", "domain": DEFAULT}}, path="/v3/auth/tokens?nocatalog"
    )
    assert "catalog" not in answer.json["token"]


def test_user_by_id(admin, tenant, password):
    proof = {"user": {"id": tenant.user["id"], "password": password}}
    token = admin.login(password=proof, scope={"project": {"id": tenant.project["id"]}})
    assert token.json["token"]["project"]["name"] == "demo"


@pytest.mark.parametrize("scope", [None, "unscoped", {"unscoped": {}}])
def test_unscoped(guest, scope):
    token = guest.login(scope=scope).json["token"]
    assert not {"project", "domain", "roles", "catalog"} & token.keys()


def test_the_default_project_is_the_scope_unless_unscoped_is_asked_for(admin, tenant):
    admin.call(
        "PATCH", f"/v3/users/{tenant.user['id']}", {"user": {"default_project_id": tenant.project["id"]}}
    )
    assert admin.login("ann").json["token"]["project"]["id"] == tenant.project["id"]
    assert "project" not in admin.login("ann", scope="unscoped").json["token"]
    admin.call("DELETE", f"/v3/projects/{tenant.project['id']}")
    assert "project" not in admin.login("ann").json["token"]


def test_domain_scope_needs_a_role_on_the_domain(admin, tenant):
    admin.login("ann", scope={"domain": DEFAULT}, status=401)
    admin.call("PUT", f"/v3/domains/default/users/{tenant.user['id']}/roles/{tenant.member_role}")
    token = admin.login("ann", scope={"domain": {"name": "Default"}}).json["token"]
    assert token["domain"] == {"id": "default", "name": "Default"}
    assert {role["name"] for role in token["roles"]} == {"member", "reader"}


def test_system_scope(admin, tenant):
    token = admin.login(scope={"system": {"all": True}}).json["token"]
    assert token["system"] == {"all": True}
    admin.login("ann", scope={"system": {"all": True}}, status=401)


def test_token_method_keeps_the_expiry_and_the_chain(guest):
    first = guest.login(scope="unscoped")
    old = first.json["token"]
    answer = guest.login(
        token={"id": first.headers["X-Subject-Token"]},
        scope={"project": {"name": "admin", "domain": DEFAULT}},
    )
    new = answer.json["token"]
    assert new["methods"] == ["password", "token"]
    assert new["expires_at"] == old["expires_at"]
    assert new["audit_ids"][1] == old["audit_ids"][0]
    assert new["audit_ids"][0] != old["audit_ids"][0]


def test_every_refusal_reads_the_same(admin, tenant, password):
    other = admin.create("/v3/projects", "project", name="foreign")
    answers = [
        admin.login("ann", "wrong", status=401),
        admin.login("nobody", password, status=401),
        admin.login("ann", "x" * 5000, status=401),
        admin.login("ann", scope={"project": {"id": other["id"]}}, status=401),
        admin.login("ann", scope={"project": {"id": "no-such"}}, status=401),
        admin.login("ann", scope={"project": {"name": "demo", "domain": {"name": "nowhere"}}}, status=401),
        admin.login("ann", scope={"domain": {"name": "nowhere"}}, status=401),
        admin.login(token={"id": "gAAAAAnonsense"}, status=401),
        admin.login(token={"id": "é\ud800".encode("utf-8", "ignore").decode()}, status=401),
        admin.login(password={"user": {"name": "ann", "domain": {"name": "x"}, "password": "y"}}, status=401),
        admin.login(saml2={}, status=401),
    ]
    assert len({answer.text for answer in answers}) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"auth": None},
        {"auth": {}},
        {"auth": {"identity": {}}},
        {"auth": {"identity": {"methods": []}}},
        {"auth": {"identity": {"methods": "password"}}},
        {"auth": {"identity": {"methods": ["password"]}}},
        {"auth": {"identity": {"methods": ["password"], "password": {"user": {"password": "x"}}}}},
        {"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": "admin"}}}}},
        {"auth": {"identity": {"methods": ["password"], "password": {"user": {"id": 5, "password": "x"}}}}},
        {"auth": {"identity": {"methods": ["token"], "token": {"id": ["x"]}}}},
        {
            "auth": {
                "identity": {"methods": ["password"], "password": {"user": {"id": "\0", "password": "x"}}}
            }
        },
        {"auth": {"identity": {"methods": ["application_credential"], "application_credential": {}}}},
        {
            "auth": {
                "identity": {
                    "methods": ["application_credential"],
                    "application_credential": {"name": "x", "secret": "y"},
                }
            }
        },
    ],
)
def test_a_request_that_makes_no_sense(guest, body):
    guest.call("POST", "/v3/auth/tokens", body, status=400)


@pytest.mark.parametrize(
    "scope",
    [
        "everything",
        {},
        {"project": {}},
        {"project": {"name": "admin"}},
        {"domain": {}},
        {"system": {}},
        {"OS-TRUST:trust": {"id": "x"}},
        {"project": {"name": "admin", "domain": DEFAULT}, "domain": DEFAULT},
        {"project": 7},
    ],
)
def test_a_scope_that_makes_no_sense(guest, scope):
    guest.login(scope=scope, status=400)


@pytest.mark.parametrize(
    ("raw", "status"),
    [("{", 400), ("\xff", 400), ('"\\ud800"', 400), ("[" * 50_000, 400), ("x" * 200_000, 413)],
)
def test_bodies_that_are_no_json(guest, raw, status):
    result = guest.client.simulate_post(
        "/identity/v3/auth/tokens", body=raw.encode("latin-1"), headers={"Content-Type": "application/json"}
    )
    assert result.status_code == status
    assert json.loads(result.text)["error"]["code"] == status


def test_show_and_head(admin, tenant):
    shown = admin.call("GET", "/v3/auth/tokens", subject=tenant.api.token)
    assert shown.json["token"]["user"]["name"] == "ann"
    assert shown.headers["X-Subject-Token"] == tenant.api.token
    assert shown.json["token"]["catalog"]
    head = admin.call("HEAD", "/v3/auth/tokens", subject=tenant.api.token)
    assert not head.content
    bare = admin.call("GET", "/v3/auth/tokens?nocatalog", subject=tenant.api.token)
    assert "catalog" not in bare.json["token"]


def test_users_see_their_own_tokens_only(admin, tenant):
    tenant.api.call("GET", "/v3/auth/tokens", subject=tenant.api.token)
    tenant.api.call("GET", "/v3/auth/tokens", subject=admin.token, status=403)
    tenant.api.call("DELETE", "/v3/auth/tokens", subject=admin.token, status=403)


@pytest.mark.parametrize("subject", [None, "nonsense", "gAAAAAB" + "A" * 200, "x" * 10_000])
def test_unknown_subject(admin, subject):
    admin.call("GET", "/v3/auth/tokens", subject=subject, status=404)
    admin.call("DELETE", "/v3/auth/tokens", subject=subject, status=404)


def test_without_a_token(guest):
    answer = guest.call("GET", "/v3/auth/tokens", status=401)
    assert "Keystone uri=" in answer.headers["WWW-Authenticate"]
    guest.with_token("nonsense").call("GET", "/v3/users", status=401)


def test_expiry(start):
    api = start(expiration=0)
    with pytest.raises(AssertionError, match="401"):
        api.login()


def test_a_known_token_expires(guest, monkeypatch):
    api = guest.as_user("admin", project="admin")
    context = api.identity.authenticate(api.token, "req-1")
    assert context.is_admin
    assert context.request_id == "req-1"
    from kilonova.domain import clock
    from kilonova.identity import service, validity

    later = clock.now() + 3601
    monkeypatch.setattr(service, "now", lambda: later)
    monkeypatch.setattr(validity, "now", lambda: later)
    with pytest.raises(Unauthorized):
        api.identity.authenticate(api.token, "req-2")


def test_own_projects_domains_and_catalog(admin, tenant):
    admin.create("/v3/projects", "project", name="foreign")
    assert [item["name"] for item in tenant.api.get("/v3/auth/projects")["projects"]] == ["demo"]
    assert tenant.api.get("/v3/auth/domains")["domains"] == []
    assert tenant.api.get("/v3/auth/system")["system"] == []
    assert admin.get("/v3/auth/system")["system"] == [{"all": True}]
    offered = {service["type"] for service in tenant.api.get("/v3/auth/catalog")["catalog"]}
    assert offered == {service.type for service in DEFAULT_SERVICES}
    unscoped = admin.as_user("ann")
    assert [item["name"] for item in unscoped.get("/v3/auth/projects")["projects"]] == ["demo"]
    unscoped.call("GET", "/v3/auth/catalog", status=403)


def test_the_key_is_for_its_owner_alone(guest, folder):
    key = folder / "keys" / "token.keys"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert [item.name for item in key.parent.iterdir()] == ["token.keys"]


def test_a_new_key_in_front_keeps_the_old_tokens(admin, folder, start):
    from cryptography.fernet import Fernet

    key = folder / "keys" / "token.keys"
    old = key.read_text()
    key.write_text(Fernet.generate_key().decode() + "\n" + old)
    other = start().with_token(admin.token)
    other.get("/v3/users")
    new = other.as_user("admin", project="admin")
    admin.with_token(new.token).call("GET", "/v3/users", status=401)


def test_a_token_sealed_by_somebody_else(guest, tmp_path):
    token = sealed.Token(
        user_id="x", user_epoch=0, methods=[], audit_ids=["a"], issued_at=0.0, expires_at=9e9
    )
    forged = sealed.TokenKeys(tmp_path / "elsewhere").seal(token)
    guest.with_token(forged).call("GET", "/v3/users", status=401)
