"""The Block Storage API over a real database and a manager of volumes in memory, with tokens for two
projects, a reader and an admin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import Result, TestClient
from tests.running import until
from tests.volume_store import Volumes

from kilonova.api import volume as api
from kilonova.api.http import application
from kilonova.api.volume.state import VolumeAPI
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Unauthorized
from kilonova.store.database import Database

ALICE = "a11ce000000000000000000000000000"
BOB = "b0b00000000000000000000000000000"
ADMIN = "ad000000000000000000000000000000"

TOKENS = {
    "alice": (ALICE, {"member", "reader"}),
    "bob": (BOB, {"member", "reader"}),
    "reader": (ALICE, {"reader"}),
    "admin": (ADMIN, {"admin", "member", "reader"}),
}
LATEST = "3.70"


def authenticate(token: str, request_id: str) -> RequestContext:
    if token not in TOKENS:
        raise Unauthorized("The request you have made requires authentication.")
    project, roles = TOKENS[token]
    return RequestContext(request_id=request_id, user_id=token, project_id=project, roles=frozenset(roles))


@dataclass(frozen=True)
class Caller:
    """One user's view of the API. No request may end in a 500, and every fault has Cinder's form."""

    client: TestClient
    token: str
    version: str = LATEST

    def __call__(self, method: str, path: str, json: Any = None, **arguments: Any) -> Result:
        headers = {"X-Auth-Token": self.token, "OpenStack-API-Version": f"volume {self.version}"}
        result = self.client.simulate_request(
            method, f"/volume/v3{path}", json=json, headers=headers, **arguments
        )
        assert result.status_code < 500, result.text
        if result.status_code >= 400:
            ((name, fault),) = result.json.items()
            assert name != "computeFault", result.text
            assert fault["code"] == result.status_code
            assert fault["message"]
        return result

    def at(self, version: str) -> Caller:
        return Caller(self.client, self.token, version)

    def get(self, path: str, **params: Any) -> Any:
        result = self("GET", path, params=params)
        assert result.status_code == 200, result.text
        return result.json

    def done(self, method: str, path: str, json: Any = None, status: int = 202) -> Any:
        result = self(method, path, json)
        assert result.status_code == status, result.text
        return result.json if result.content else None

    def act(self, path: str, name: str, /, status: int = 202, **said: Any) -> Any:
        return self.done("POST", f"{path}/action", {name: said}, status)

    def refused(self, method: str, path: str, json: Any = None, **arguments: Any) -> tuple[int, str]:
        """Status and message of the fault."""
        result = self(method, path, json, **arguments)
        assert result.status_code >= 400, result.text
        ((_, fault),) = result.json.items()
        return result.status_code, fault["message"]

    def create(self, **said: Any) -> str:
        """A volume that is there."""
        made = self.done("POST", "/volumes", {"volume": {"size": 1, **said}})["volume"]
        self.settled(made["id"])
        return str(made["id"])

    def volume(self, volume_id: str) -> dict[str, Any]:
        return dict(self.get(f"/volumes/{volume_id}")["volume"])

    def settled(self, volume_id: str, wanted: str = "") -> None:
        """No longer on its way (or in that status)."""

        def there() -> bool:
            status = self.volume(volume_id)["status"]
            return status == wanted if wanted else not status.endswith("ing")

        until(there, 60, f"a volume that is {wanted or 'settled'}")

    def gone(self, path: str) -> None:
        until(lambda: self("GET", path).status_code == 404, 60, f"{path} is gone")

    def snapshot(self, volume_id: str, **said: Any) -> str:
        """One that is there."""
        made = self.done("POST", "/snapshots", {"snapshot": {"volume_id": volume_id, **said}})["snapshot"]
        path = f"/snapshots/{made['id']}"
        until(lambda: self.get(path)["snapshot"]["status"] != "creating", 60, "a snapshot")
        return str(made["id"])

    def names(self, path: str, **params: Any) -> list[str]:
        (items,) = (
            value
            for key, value in self.get(path, **params).items()
            if isinstance(value, list) and not key.endswith("_links")
        )
        return [item["name"] for item in items]


@pytest.fixture
def cloud(new_database: Callable[[], Database], tmp_path: Path) -> Iterator[Volumes]:
    made = Volumes(new_database(), tmp_path / "images").start()
    yield made
    made.close()


@pytest.fixture
def client(cloud: Volumes) -> TestClient:
    service = api.service(VolumeAPI(cloud.service, cloud.images))
    return TestClient(application([service, api.versions_service()], authenticate))


@pytest.fixture
def alice(client: TestClient) -> Caller:
    return Caller(client, "alice")


@pytest.fixture
def bob(client: TestClient) -> Caller:
    return Caller(client, "bob")


@pytest.fixture
def reader(client: TestClient) -> Caller:
    return Caller(client, "reader")


@pytest.fixture
def admin(client: TestClient) -> Caller:
    return Caller(client, "admin")
