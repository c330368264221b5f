"""What voids a token voids it at once, in every process, and for good."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from kilonova.domain.errors import Unauthorized


@dataclass
class Scene:
    admin: Any
    tenant: Any
    password: str
    other: Any
    """The tenant's token, shown to another process on the same database."""

    @property
    def user(self) -> str:
        return f"/v3/users/{self.tenant.user['id']}"

    @property
    def project(self) -> str:
        return f"/v3/projects/{self.tenant.project['id']}"

    def patch(self, path: str, key: str, **changes: object) -> None:
        self.admin.call("PATCH", path, {key: changes})

    def check(self, status: int) -> None:
        for api in (self.tenant.api, self.other):
            api.call("GET", "/v3/auth/projects", status=status)


@pytest.fixture
def scene(admin, tenant, start, password):
    scene = Scene(admin, tenant, password, start().with_token(tenant.api.token))
    scene.check(200)
    return scene


def _revoke(scene: Scene) -> None:
    scene.tenant.api.call("DELETE", "/v3/auth/tokens", subject=scene.tenant.api.token)


def _change_own_password(scene: Scene) -> None:
    body = {"user": {"original_password": scene.password, "password": "new"}}
    scene.tenant.api.call("POST", f"{scene.user}/password", body, status=204)


def _set_password(scene: Scene) -> None:
    scene.patch(scene.user, "user", password="new")


def _disable_user(scene: Scene) -> None:
    scene.patch(scene.user, "user", enabled=False)
    scene.check(401)
    scene.patch(scene.user, "user", enabled=True)


def _delete_user(scene: Scene) -> None:
    scene.admin.call("DELETE", scene.user)


def _disable_project(scene: Scene) -> None:
    scene.patch(scene.project, "project", enabled=False)
    scene.check(401)
    scene.patch(scene.project, "project", enabled=True)


def _delete_project(scene: Scene) -> None:
    scene.admin.call("DELETE", scene.project)


def _remove_role(scene: Scene) -> None:
    path = f"{scene.project}/users/{scene.tenant.user['id']}/roles/{scene.tenant.member_role}"
    scene.admin.call("DELETE", path)


def _delete_role(scene: Scene) -> None:
    scene.admin.call("DELETE", f"/v3/roles/{scene.tenant.member_role}")


@pytest.mark.parametrize(
    "event",
    [
        _revoke,
        _change_own_password,
        _set_password,
        _disable_user,
        _delete_user,
        _disable_project,
        _delete_project,
        _remove_role,
        _delete_role,
    ],
)
def test_void_at_once_and_for_good(scene, event):
    event(scene)
    scene.check(401)


def test_a_disabled_domain_voids_its_users_tokens(admin, start, password):
    domain = admin.create("/v3/domains", "domain", name="corp")
    user = admin.create("/v3/users", "user", name="bob", password=password, domain_id=domain["id"])
    answer = admin.login(password={"user": {"id": user["id"], "password": password}})
    bob = start().with_token(answer.headers["X-Subject-Token"])
    bob.get("/v3/auth/projects")
    for enabled in (False, True):
        admin.call("PATCH", f"/v3/domains/{domain['id']}", {"domain": {"enabled": enabled}})
        bob.call("GET", "/v3/auth/projects", status=401)


def test_losing_one_of_two_roles_changes_the_rights_at_once(scene):
    admin_role = scene.admin.role("admin")
    path = f"{scene.project}/users/{scene.tenant.user['id']}/roles/{admin_role}"
    scene.tenant.api.call("GET", "/v3/users", status=403)
    scene.admin.call("PUT", path)
    for api in (scene.tenant.api, scene.other):
        api.get("/v3/users")
    scene.admin.call("DELETE", path)
    for api in (scene.tenant.api, scene.other):
        api.call("GET", "/v3/users", status=403)


def test_other_tokens_of_the_user_outlive_a_revocation(scene):
    second = scene.admin.as_user("ann", project="demo")
    _revoke(scene)
    second.get("/v3/auth/projects")
    scene.admin.call("GET", "/v3/auth/tokens", subject=scene.tenant.api.token, status=404)


def test_a_new_login_after_a_new_password_works_at_once(scene):
    _change_own_password(scene)
    scene.admin.login("ann", scene.password, status=401)
    scene.admin.as_user("ann", "new", "demo").get("/v3/auth/projects")


def test_many_threads_agree(scene):
    identity, token = scene.tenant.api.identity, scene.tenant.api.token

    def seen(_: int) -> bool:
        try:
            return identity.authenticate(token, "req").project_id is not None
        except Unauthorized:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(seen, range(200)))
        _revoke(scene)
        assert not any(pool.map(seen, range(200)))
