"""Every answer about servers, at every microversion that changes one, against Nova's own schemas.

See ../test_nova_schemas.py: needs KILONOVA_NOVA_PYTHON.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import falcon.testing
import pytest

from kilonova.domain.servers import VmState
from kilonova.store import operations, servers
from kilonova.store.schema.operations import steps

NOVA = os.environ.get("KILONOVA_NOVA_PYTHON")
pytestmark = pytest.mark.skipif(not NOVA, reason="KILONOVA_NOVA_PYTHON names no Python with nova")

IMAGE = "11111111-2222-3333-4444-555555555555"
NETWORK = "99999999-2222-3333-4444-555555555555"
MINORS = (
    *(1, 2, 3, 8, 9, 15, 16, 18, 19, 20, 21, 25, 26, 31, 32, 33, 36, 37, 41, 42, 46, 47, 50, 51, 52, 56, 57),
    *(58, 61, 62, 63, 65, 66, 67, 69, 71, 72, 73, 74, 75, 83, 84, 89, 90, 93, 94, 95, 96, 97, 98, 99, 100),
    *(102, 103, 104),
)


@dataclass
class Recorder:
    """Asks as one caller and keeps what was said."""

    caller: Any
    version: str
    said: list[dict[str, Any]]

    def __call__(self, method: str, path: str, body: Any = None) -> falcon.testing.Result:
        more = {} if body is None else {"json": body}
        answer = self.caller.ask(method, path, self.version, **more)
        self.said.append(
            {
                "method": method,
                "path": path.partition("?")[0],
                "version": self.version,
                "request": body,
                "status": answer.status_code,
                "response": answer.json if answer.content else None,
            }
        )
        return answer


@dataclass
class Story:
    """What happens to servers at one microversion."""

    ask: Recorder
    minor: int
    settle: Any
    database: Any
    kept: dict[str, str] = field(default_factory=dict)

    def tell(self) -> None:
        self.kept["id"] = self.create()
        self.read()
        self.settle(self.kept["id"], VmState.ACTIVE, ip="fd00::5")
        self.read()
        self.change()
        self.act()
        self.settle(self.kept["id"], VmState.ERROR, fault=FAULT)
        self.read()
        self.ask("GET", f"/servers/{self.kept['id']}/os-instance-actions")
        assert self.ask("DELETE", f"/servers/{self.kept['id']}").status_code == 204
        self.gone()

    def create(self) -> str:
        server: dict[str, Any] = {
            "name": f"vm-{self.minor}",
            "imageRef": IMAGE,
            "flavorRef": 42,
            "networks": [{"uuid": NETWORK}],
            "metadata": {"a": "b"},
            "user_data": "aGk=",
            "config_drive": "true",
            "min_count": "1",
            "security_groups": [{"name": "default"}],
            "accessIPv4": "192.0.2.1",
            "OS-DCF:diskConfig": "AUTO",
            "block_device_mapping_v2": [
                {
                    "uuid": IMAGE,
                    "boot_index": "0",
                    "source_type": "image",
                    "destination_type": "local",
                    "delete_on_termination": True,
                }
            ],
        }
        later = {
            19: ("description", "d"),
            52: ("tags", ["x"]),
            90: ("hostname", "h1"),
            94: ("hostname", "h.example"),
        }
        server |= dict(pair for since, pair in later.items() if self.minor >= since)
        body = {"server": server, "os:scheduler_hints": {"query": "x"}}
        made = self.ask("POST", "/servers", body)
        assert made.status_code == 202, made.text
        server.pop("hostname", None)
        several = {"server": server | {"min_count": 2, "return_reservation_id": True}}
        assert self.ask("POST", "/servers", several).status_code == 202
        return str(made.json["server"]["id"])

    def read(self) -> None:
        own = f"/servers/{self.kept['id']}"
        for path in ("/servers", "/servers?limit=1", "/servers/detail", "/servers/detail?limit=1", own):
            assert self.ask("GET", path).status_code == 200
        for path in ("/ips", "/metadata", "/metadata/a", "/os-instance-actions"):
            self.ask("GET", own + path)
        if self.minor >= 26:
            self.ask("GET", own + "/tags")

    def change(self) -> None:
        own = f"/servers/{self.kept['id']}"
        new = {"name": "new", "accessIPv6": "fd00::1", "OS-DCF:diskConfig": "MANUAL"}
        assert self.ask("PUT", own, {"server": new}).status_code == 200
        assert self.ask("POST", own + "/metadata", {"metadata": {"c": "d"}}).status_code == 200
        assert self.ask("PUT", own + "/metadata", {"metadata": {"c": "d"}}).status_code == 200
        assert self.ask("PUT", own + "/metadata/e", {"meta": {"e": "f"}}).status_code == 200
        assert self.ask("DELETE", own + "/metadata/e").status_code == 204
        assert self.ask("GET", own + "/ips/private").status_code == 200
        if self.minor >= 26:
            assert self.ask("PUT", own + "/tags", {"tags": ["a"]}).status_code == 200
            # 201: Nova's own annotation says 204, its code and its reference 201.
            assert self.ask.caller.put(own + "/tags/b", version=self.ask.version).status_code == 201
            self.ask("GET", own + "/tags/a")
            assert self.ask("DELETE", own + "/tags/a").status_code == 204
            assert self.ask("DELETE", own + "/tags").status_code == 204

    def act(self) -> None:
        own = f"/servers/{self.kept['id']}"
        for body in ({"lock": None}, {"unlock": None}, {"os-resetState": {"state": "active"}}):
            assert self.ask("POST", own + "/action", body).status_code == 202
        assert self.ask("POST", own + "/action", {"os-getConsoleOutput": {"length": "5"}}).status_code == 200
        answer = self.ask("POST", own + "/action", {"reboot": {"type": "HARD"}})
        assert answer.status_code == 202
        with self.database.write() as conn:
            work = operations.open_of_server(conn, self.kept["id"])
            step = {
                "operation_id": work.id,
                "epoch": 1,
                "name": "power_off",
                "host": "node-1",
                "started_at": 1.0,
            }
            conn.execute(
                steps.insert().values(step | {"finished_at": 2.0, "result": "Error", "message": "m"})
            )
            conn.execute(steps.insert().values(step | {"host": None}))
        path = f"{own}/os-instance-actions/{answer.headers['x-openstack-request-id']}"
        assert self.ask("GET", path).status_code == 200

    def gone(self) -> None:
        with self.database.write() as conn:
            servers.mark_deleted(conn, self.kept["id"])
        assert self.ask("GET", "/servers/detail?changes-since=2020-01-01T00:00:00Z").status_code == 200
        self.ask("GET", f"/servers/{self.kept['id']}")


FAULT = {
    "code": 500,
    "message": "No valid host was found.",
    "details": {"node-1": ["memory"]},
    "created": 1e9,
}


@pytest.mark.parametrize("who", ["member", "admin"])
def test_what_servers_answer(
    who: str, request: pytest.FixtureRequest, admin: Any, settle: Any, console: Any, database: Any
) -> None:
    said: list[dict[str, Any]] = []
    for project in ("a" * 32, "c" * 32):
        limits = {"instances": -1, "cores": -1, "ram": -1}
        admin.put(f"/os-quota-sets/{project}", {"quota_set": limits})
    for minor in MINORS:
        ask = Recorder(request.getfixturevalue(who), f"2.{minor}", said)
        if who == "admin":
            Story(ask, minor, settle, database).tell()
        else:
            story = Story(ask, minor, settle, database)
            story.kept["id"] = story.create()
            settle(story.kept["id"])
            story.read()
            story.change()
    assert not [one for one in said if one["status"] >= 500]
    assert sum(one["status"] < 400 for one in said) > 500
    assert judged(said) == []


def judged(said: list[dict[str, Any]]) -> list[str]:
    assert NOVA is not None
    oracle = Path(__file__).parents[1] / "nova_oracle.py"
    done = subprocess.run(
        [NOVA, str(oracle)], input=json.dumps(said), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    complaints: list[str] = json.loads(done.stdout)
    return complaints
