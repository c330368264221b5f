"""The networking API over a real database, with tokens for two projects, a reader and an admin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from falcon.testing import Result, TestClient

from kilonova.api import network as api
from kilonova.api.http import application
from kilonova.config import Config
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Unauthorized
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store.database import Database

ALICE = "a11ce000000000000000000000000000"
BOB = "b0b00000000000000000000000000000"
ADMIN = "ad000000000000000000000000000000"

TOKENS = {
    "alice": (ALICE, {"member", "reader"}),
    "bob": (BOB, {"member", "reader"}),
    "reader": (ALICE, {"reader"}),
    "admin": (ADMIN, {"admin", "member", "reader"}),
    "unscoped": (None, set()),
    "unscoped-admin": (None, {"admin"}),
}


def authenticate(token: str, request_id: str) -> RequestContext:
    if token not in TOKENS:
        raise Unauthorized("The request you have made requires authentication.")
    project, roles = TOKENS[token]
    return RequestContext(request_id=request_id, user_id=token, project_id=project, roles=frozenset(roles))


def path_of(kind: str) -> str:
    """``/networks``; ``/security-groups``."""
    return f"/{kind.replace('_', '-')}s"


@dataclass(frozen=True)
class Caller:
    """One user's view of the API. No request may end in a 500, and every fault has Neutron's form."""

    client: TestClient
    token: str

    def __call__(self, method: str, path: str, json: Any = None, **arguments: Any) -> Result:
        result = self.client.simulate_request(
            method,
            f"/networking/v2.0{path}",
            json=json,
            headers={"X-Auth-Token": self.token, **arguments.pop("headers", {})},
            **arguments,
        )
        assert result.status_code < 500, result.text
        if result.status_code >= 400:
            assert set(result.json["NeutronError"]) == {"type", "message", "detail"}
        return result

    def get(self, path: str, **params: Any) -> Any:
        result = self("GET", path, params=params)
        assert result.status_code == 200, result.text
        return result.json

    def ids(self, plural: str, **params: Any) -> list[str]:
        return [item["id"] for item in self.get(f"/{plural}", **params)[plural]]

    def create(self, kind: str, **attributes: Any) -> dict[str, Any]:
        result = self("POST", path_of(kind), {kind: attributes})
        assert result.status_code == 201, result.text
        return dict(result.json[kind])

    def update(self, kind: str, item_id: str, **attributes: Any) -> dict[str, Any]:
        result = self("PUT", f"{path_of(kind)}/{item_id}", {kind: attributes})
        assert result.status_code == 200, result.text
        return dict(result.json[kind])

    def delete(self, kind: str, item_id: str) -> None:
        result = self("DELETE", f"{path_of(kind)}/{item_id}")
        assert result.status_code == 204, result.text

    def refused(self, method: str, path: str, json: Any = None) -> tuple[int, str]:
        """Status and type of the fault."""
        result = self(method, path, json)
        assert result.status_code >= 400, result.text
        return result.status_code, result.json["NeutronError"]["type"]

    def refused_create(self, kind: str, **attributes: Any) -> tuple[int, str]:
        return self.refused("POST", path_of(kind), {kind: attributes})

    def refused_update(self, kind: str, item_id: str, **attributes: Any) -> tuple[int, str]:
        return self.refused("PUT", f"{path_of(kind)}/{item_id}", {kind: attributes})


@pytest.fixture
def config() -> Config:
    return Config()


@pytest.fixture
def network(new_database: Callable[[], Database], config: Config) -> BuiltinNetwork:
    return BuiltinNetwork(new_database(), config)


@pytest.fixture
def limited(network: BuiltinNetwork) -> BuiltinNetwork:
    """The same service with room for two of each thing."""
    few = msgspec.structs.replace(network.config.network, quota_network=2, quota_subnet=2, quota_port=2)
    network.config = msgspec.structs.replace(network.config, network=few)
    return network


@pytest.fixture
def client(network: BuiltinNetwork) -> TestClient:
    return TestClient(application([api.service(network)], authenticate))


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


@pytest.fixture
def net(alice: Caller) -> str:
    """Alice's network, without subnets."""
    return str(alice.create("network", name="net")["id"])


@pytest.fixture
def subnet(alice: Caller, net: str) -> dict[str, Any]:
    """A subnet of Alice's network with DHCP."""
    return alice.create("subnet", network_id=net, cidr="10.0.0.0/24", name="sub")
