"""Every answer of the resources, at every microversion that changes one, against Nova's own schemas.

Needs a Python with nova (``uv venv V && uv pip install --python V/bin/python nova==34.0.0``) named by
KILONOVA_NOVA_PYTHON; it judges in a process of its own (nova_oracle.py).
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import falcon.testing
import pytest

NOVA = os.environ.get("KILONOVA_NOVA_PYTHON")
pytestmark = pytest.mark.skipif(not NOVA, reason="KILONOVA_NOVA_PYTHON names no Python with nova")

MINORS = (
    *(1, 2, 6, 7, 9, 10, 11, 27, 28, 32, 33, 34, 35, 36, 38, 39, 49, 50, 52, 53, 54, 55, 56, 57, 60, 61),
    *(68, 69, 74, 75, 86, 87, 88, 91, 92, 101, 102, 103, 104),
)
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICVtUvQRfANQDcTmr+PClOz/XQsBS7lqD+XUuYzisym6 someone@somewhere"
PROJECT = "c" * 32
READ = [
    "/extensions",
    "/extensions/os-services",
    "/flavors",
    "/flavors/detail",
    "/flavors/1",
    "/flavors?limit=1",
    "/flavors/detail?limit=1",
    "/flavors/1/os-extra_specs",
    "/flavors/p/os-flavor-access",
    "/limits",
    "/os-aggregates",
    "/os-availability-zone",
    "/os-availability-zone/detail",
    "/os-hypervisors",
    "/os-hypervisors/detail",
    "/os-hypervisors?limit=1",
    "/os-hypervisors/detail?limit=1",
    "/os-hypervisors/statistics",
    "/os-hypervisors?with_servers=true",
    "/os-hypervisors/one/search",
    "/os-hypervisors/one/servers",
    "/os-keypairs",
    "/os-services",
    f"/os-quota-sets/{PROJECT}",
    f"/os-quota-sets/{PROJECT}/detail",
    f"/os-quota-sets/{PROJECT}/defaults",
    "/os-quota-class-sets/default",
    "/versions/v2.1",
]


@pytest.fixture
def exchanges() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def admin(client: falcon.testing.TestClient, admin: Any, exchanges: list[dict[str, Any]]) -> Any:
    """The admin, with a record kept of what is said."""

    def ask(method: str, path: str, version: str, body: Any = None) -> falcon.testing.Result:
        more = {} if body is None else {"json": body}
        answer = admin.ask(method, path, version, **more)
        exchanges.append(
            {
                "method": method,
                "path": path.partition("?")[0],
                "version": version,
                "request": body,
                "status": answer.status_code,
                "response": answer.json if answer.content else None,
            }
        )
        return answer

    return ask


def judged(exchanges: list[dict[str, Any]]) -> list[str]:
    assert NOVA is not None
    oracle = Path(__file__).with_name("nova_oracle.py")
    done = subprocess.run(
        [NOVA, str(oracle)],
        input=json.dumps(exchanges),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    complaints: list[str] = json.loads(done.stdout)
    return complaints


def test_what_the_resources_answer(admin: Any, exchanges: list[dict[str, Any]], add_host: Any) -> None:
    add_host("one")
    service = add_host("two")
    private = {"name": "p", "id": "p", "ram": 64, "vcpus": 1, "disk": 0, "os-flavor-access:is_public": False}
    admin("POST", "/flavors", "2.1", {"flavor": private})
    admin("POST", "/flavors/p/action", "2.1", {"addTenantAccess": {"tenant": PROJECT}})
    admin("POST", "/flavors/1/os-extra_specs", "2.1", {"extra_specs": {"hw:cpu_sockets": 2}})
    for number in MINORS:
        version = f"2.{number}"
        for path in READ:
            admin("GET", path, version)
        _write_flavors(admin, version, f"f{number}")
        _write_keypairs(admin, version, f"k{number}")
        _write_quotas(admin, version)
        _write_services(admin, version, service)
        _show_hypervisors(admin, version)
        _write_aggregates(admin, version, f"a{number}")
    unserved = [e for e in exchanges if e["status"] >= 500 and not e["path"].endswith("/uptime")]
    assert not unserved
    assert sum(e["status"] < 400 for e in exchanges) > 1000
    assert judged(exchanges) == []


def _write_flavors(admin: Any, version: str, name: str) -> None:
    new: dict[str, Any] = {"name": name, "ram": 64, "vcpus": 1, "disk": "1", "id": name, "swap": 5}
    if version not in {"2.102", "2.103", "2.104"}:
        new["rxtx_factor"] = 1.5
    assert admin("POST", "/flavors", version, {"flavor": new}).status_code == 200
    admin("PUT", f"/flavors/{name}", version, {"flavor": {"description": "d"}})
    admin("POST", f"/flavors/{name}/os-extra_specs", version, {"extra_specs": {"hw:cpu_cores": "2"}})
    admin("PUT", f"/flavors/{name}/os-extra_specs/hw:cpu_cores", version, {"hw:cpu_cores": "1"})
    admin("GET", f"/flavors/{name}/os-extra_specs/hw:cpu_cores", version)
    admin("DELETE", f"/flavors/{name}/os-extra_specs/hw:cpu_cores", version)
    admin("POST", "/flavors/p/action", version, {"removeTenantAccess": {"tenant": PROJECT}})
    admin("POST", "/flavors/p/action", version, {"addTenantAccess": {"tenant": PROJECT}})
    assert admin("DELETE", f"/flavors/{name}", version).status_code == 202


def _write_aggregates(admin: Any, version: str, name: str) -> None:
    made = admin("POST", "/os-aggregates", version, {"aggregate": {"name": name, "availability_zone": "z"}})
    path = f"/os-aggregates/{made.json['aggregate']['id']}"
    admin("PUT", path, version, {"aggregate": {"name": f"{name}-2"}})
    admin("POST", f"{path}/action", version, {"add_host": {"host": "one"}})
    admin("POST", f"{path}/action", version, {"set_metadata": {"metadata": {"ssd": "true", "x": None}}})
    admin("GET", path, version)
    admin("GET", "/os-aggregates", version)
    admin("POST", f"{path}/action", version, {"remove_host": {"host": "one"}})
    assert admin("DELETE", path, version).status_code == 200


def _write_keypairs(admin: Any, version: str, name: str) -> None:
    new = {"name": name, "public_key": SSH_KEY}
    assert admin("POST", "/os-keypairs", version, {"keypair": new}).status_code in {200, 201}
    for path in ("/os-keypairs", f"/os-keypairs/{name}", "/os-keypairs?limit=1"):
        assert admin("GET", path, version).status_code == 200
    if version in {"2.1", "2.2", "2.91"}:
        assert admin("POST", "/os-keypairs", version, {"keypair": {"name": f"{name} made"}}).status_code < 202
    assert admin("DELETE", f"/os-keypairs/{name}", version).status_code in {202, 204}


def _write_quotas(admin: Any, version: str) -> None:
    new = {"quota_set": {"cores": "30", "ram": -1, "force": True}}
    assert admin("PUT", f"/os-quota-sets/{PROJECT}", version, new).status_code == 200
    new = {"quota_class_set": {"cores": 31}}
    assert admin("PUT", "/os-quota-class-sets/default", version, new).status_code == 200
    assert admin("DELETE", f"/os-quota-sets/{PROJECT}", version).status_code == 202


def _write_services(admin: Any, version: str, service: str) -> None:
    named = {"host": "two", "binary": "nova-compute"}
    admin("PUT", "/os-services/disable", version, named)
    admin("PUT", "/os-services/disable-log-reason", version, {**named, "disabled_reason": "why"})
    admin("PUT", "/os-services/enable", version, named)
    admin("PUT", "/os-services/force-down", version, {**named, "forced_down": False})
    admin("PUT", f"/os-services/{service}", version, {"status": "disabled", "disabled_reason": "why"})
    admin("PUT", f"/os-services/{service}", version, {"status": "enabled", "forced_down": "false"})


def _show_hypervisors(admin: Any, version: str) -> None:
    for one in admin("GET", "/os-hypervisors", version).json["hypervisors"]:
        assert admin("GET", f"/os-hypervisors/{one['id']}", version).status_code == 200
        admin("GET", f"/os-hypervisors/{one['id']}/uptime", version)
