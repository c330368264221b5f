"""Requests at the same moment: names stay unique, nothing dangles, no token outlives its end."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def at_once(count: int, ask: Callable[[int], Any]) -> Counter[int]:
    """How many got which status."""
    begin = threading.Barrier(count)

    def run(number: int) -> int:
        begin.wait()
        return int(ask(number).status_code)

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(run, range(count)))


def send(api, method, path, body=None):
    headers = {"X-Auth-Token": api.token}
    return api.client.simulate_request(method, f"/identity{path}", json=body, headers=headers)


def test_a_name_is_taken_once(admin):
    for kind, more in (("user", {}), ("project", {}), ("group", {}), ("role", {}), ("domain", {})):
        body = {kind: {"name": "same", **more}}
        got = at_once(5, lambda _, kind=kind, body=body: send(admin, "POST", f"/v3/{kind}s", body))
        assert got == {201: 1, 409: 4}, kind


def test_the_same_role_is_given_once(admin, tenant):
    role = admin.role("admin")
    path = f"/v3/projects/{tenant.project['id']}/users/{tenant.user['id']}/roles/{role}"
    assert at_once(6, lambda _: send(admin, "PUT", path)) == {204: 6}
    found = admin.get(f"/v3/role_assignments?user.id={tenant.user['id']}")["role_assignments"]
    assert len(found) == 2


def test_no_role_is_left_of_who_goes(admin):
    role = admin.role("member")
    project = admin.create("/v3/projects", "project", name="p")
    for number in range(5):
        user = admin.create("/v3/users", "user", name=f"u{number}")["id"]
        path = f"/v3/projects/{project['id']}/users/{user}/roles/{role}"

        def ask(number, user=user, path=path):
            return send(admin, "DELETE", f"/v3/users/{user}") if number == 0 else send(admin, "PUT", path)

        got = at_once(3, ask)
        assert got[204] + got[404] == 3
        assert admin.get(f"/v3/role_assignments?user.id={user}")["role_assignments"] == []


def test_who_goes_and_whose_domain_goes(admin):
    for number in range(3):
        domain = admin.create("/v3/domains", "domain", name=f"d{number}", enabled=False)["id"]

        def ask(number, domain=domain):
            if number == 0:
                return send(admin, "DELETE", f"/v3/domains/{domain}")
            return send(admin, "POST", "/v3/users", {"user": {"name": f"u{number}", "domain_id": domain}})

        got = at_once(4, ask)
        assert got[204] == 1
        assert got[201] + got[404] == 3
        assert admin.get(f"/v3/users?domain_id={domain}")["users"] == []


def test_a_revoked_token_is_refused_at_once(admin, tenant):
    token = tenant.api.token
    assert tenant.api.get("/v3/auth/projects")["projects"]

    def revoke(_number):
        headers = {"X-Auth-Token": admin.token, "X-Subject-Token": token}
        return admin.client.simulate_request("DELETE", "/identity/v3/auth/tokens", headers=headers)

    assert set(at_once(4, revoke)) <= {204, 404}
    assert send(tenant.api, "GET", "/v3/auth/projects").status_code == 401


def test_no_change_of_a_project_is_lost(admin, tenant):
    path = f"/v3/projects/{tenant.project['id']}"
    assert at_once(6, lambda n: send(admin, "PUT", f"{path}/tags/t{n}")) == {201: 6}
    assert len(admin.get(f"{path}/tags")["tags"]) == 6
    assert at_once(6, lambda n: send(admin, "PATCH", path, {"project": {f"extra{n}": n}})) == {200: 6}
    assert {f"extra{n}" for n in range(6)} <= set(admin.get(path)["project"])
