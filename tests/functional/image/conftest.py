"""The image API over a real database and a real folder, with tokens for two projects and an admin."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from kilonova.api import image
from kilonova.api.http import application
from kilonova.config import Config
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Unauthorized
from kilonova.image.file import FileStore
from kilonova.image.service import Images
from kilonova.store.database import Database

ALICE = "a11ce000000000000000000000000000"
BOB = "b0b00000000000000000000000000000"

TOKENS = {
    "alice": (ALICE, {"member", "reader"}),
    "bob": (BOB, {"member", "reader"}),
    "reader": (ALICE, {"reader"}),
    "admin": ("ad000000000000000000000000000000", {"admin", "member", "reader"}),
    "agent": ("5e4v1ce0000000000000000000000000", {"service"}),
    "unscoped": (None, set()),
}


def authenticate(token: str, request_id: str) -> RequestContext:
    if token not in TOKENS:
        raise Unauthorized("The request you have made requires authentication.")
    project, roles = TOKENS[token]
    return RequestContext(request_id=request_id, user_id=token, project_id=project, roles=frozenset(roles))


@dataclass(frozen=True)
class Caller:
    """One user's view of the API. Every answer must carry a request id, and no request may end in a 500."""

    client: TestClient
    token: str

    def __call__(self, method: str, path: str, **arguments: Any) -> Result:
        headers = {"X-Auth-Token": self.token, **arguments.pop("headers", {})}
        result = self.client.simulate_request(method, f"/image{path}", headers=headers, **arguments)
        assert result.status_code < 500 or result.status_code == 503, result.text
        assert result.headers["x-openstack-request-id"].startswith("req-")
        if result.status_code >= 400:
            assert result.json["code"] == result.status_code
            assert result.json["message"]
        return result

    def create(self, **attributes: Any) -> dict[str, Any]:
        body = {"name": "i", "disk_format": "raw", "container_format": "bare", **attributes}
        result = self("POST", "/v2/images", json=body)
        assert result.status_code == 201, result.text
        return dict(result.json)

    def upload(self, image_id: str, data: bytes, **headers: str) -> Result:
        content = {"Content-Type": "application/octet-stream", **headers}
        return self("PUT", f"/v2/images/{image_id}/file", body=data, headers=content)

    def create_active(self, data: bytes = b"data", **attributes: Any) -> dict[str, Any]:
        made = self.create(**attributes)
        result = self.upload(made["id"], data)
        assert result.status_code == 204, result.text
        return self.show(made["id"])

    def show(self, image_id: str) -> dict[str, Any]:
        result = self("GET", f"/v2/images/{image_id}")
        assert result.status_code == 200, result.text
        return dict(result.json)

    def patch(self, image_id: str, *operations: Any, dialect: str = "v2.1") -> Result:
        kind = f"application/openstack-images-{dialect}-json-patch"
        return self.patch_raw(image_id, json.dumps(operations), kind)

    def patch_raw(self, image_id: str, body: str, kind: str) -> Result:
        return self("PATCH", f"/v2/images/{image_id}", body=body, headers={"Content-Type": kind})

    def names(self, query: str = "") -> list[str]:
        result = self("GET", f"/v2/images{query}")
        assert result.status_code == 200, result.text
        return [found["name"] for found in result.json["images"]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def database(new_database: Callable[[], Database]) -> Database:
    return new_database()


@pytest.fixture
def config() -> Config:
    return Config()


@pytest.fixture
def images(database: Database, folder: Path, config: Config) -> Images:
    return Images(database, FileStore(folder), config)


@pytest.fixture
def client(images: Images) -> TestClient:
    return TestClient(application([image.service(images)], authenticate))


@pytest.fixture
def alice(client: TestClient) -> Caller:
    return Caller(client, "alice")


@pytest.fixture
def bob(client: TestClient) -> Caller:
    return Caller(client, "bob")


@pytest.fixture
def reader(client: TestClient) -> Caller:
    """A reader of alice's project."""
    return Caller(client, "reader")


@pytest.fixture
def admin(client: TestClient) -> Caller:
    return Caller(client, "admin")


@pytest.fixture
def agent(client: TestClient) -> Caller:
    """A host's agent: its role is ``service``, and no other."""
    return Caller(client, "agent")


@pytest.fixture
def unscoped(client: TestClient) -> Caller:
    return Caller(client, "unscoped")
