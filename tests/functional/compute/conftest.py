"""The compute API as a WSGI application over a real database, spoken to by four callers."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import falcon.testing
import pytest
from msgspec import structs

from kilonova.api import compute
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import application
from kilonova.api.idempotency import Once
from kilonova.bus.local import LocalBus
from kilonova.config import Config
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Unauthorized
from kilonova.domain.hosts import Capacity, HostReport
from kilonova.domain.identity import Domain, Project
from kilonova.engine.faults import FaultPoints
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import domains, flavors, hosts, projects
from kilonova.store.database import Database
from kilonova.store.schema.base import Json
from kilonova.store.schema.servers import servers
from kilonova.volume.builtin.service import BuiltinVolumes

PROJECT = "a" * 32
OTHER_PROJECT = "b" * 32
CALLERS = {
    "admin": RequestContext(
        request_id="", user_id="ad" * 16, project_id="c" * 32, roles=frozenset({"admin", "member", "reader"})
    ),
    "member": RequestContext(
        request_id="", user_id="e" * 32, project_id=PROJECT, roles=frozenset({"member", "reader"})
    ),
    "reader": RequestContext(
        request_id="", user_id="d" * 32, project_id=PROJECT, roles=frozenset({"reader"})
    ),
    "other": RequestContext(
        request_id="", user_id="f" * 32, project_id=OTHER_PROJECT, roles=frozenset({"member", "reader"})
    ),
}


def authenticate(token: str, request_id: str) -> RequestContext:
    """The caller's name is its token."""
    if token not in CALLERS:
        raise Unauthorized("The request you have made requires authentication.")
    return structs.replace(CALLERS[token], request_id=request_id)


@dataclass(frozen=True)
class Caller:
    """One who asks: ``member.get("/flavors", version="2.61")``."""

    client: falcon.testing.TestClient
    token: str

    def get(self, path: str, version: str = "2.1", **more: Any) -> falcon.testing.Result:
        return self.ask("GET", path, version, **more)

    def post(self, path: str, body: Any = None, version: str = "2.1", **more: Any) -> falcon.testing.Result:
        return self.ask("POST", path, version, json=body, **more)

    def put(self, path: str, body: Any = None, version: str = "2.1", **more: Any) -> falcon.testing.Result:
        return self.ask("PUT", path, version, json=body, **more)

    def delete(self, path: str, version: str = "2.1", **more: Any) -> falcon.testing.Result:
        return self.ask("DELETE", path, version, **more)

    def ask(self, method: str, path: str, version: str, **more: Any) -> falcon.testing.Result:
        path, _, query = path.partition("?")
        headers = {
            "X-Auth-Token": self.token,
            "OpenStack-API-Version": f"compute {version}",
            **more.pop("headers", {}),
        }
        return self.client.simulate_request(
            method, f"/compute/v2.1{path}", headers=headers, query_string=query or None, **more
        )


def first_start(db: Database) -> None:
    """What a first start leaves, and the callers' projects."""
    with db.write() as conn:
        flavors.seed(conn)
        domains.create(conn, Domain(id="default", name="Default"))
        for project_id in sorted({caller.project_id or "" for caller in CALLERS.values()}):
            projects.create(conn, Project(id=project_id, domain_id="default", name=f"p-{project_id[0]}"))


@pytest.fixture
def database(new_database: Callable[..., Database]) -> Database:
    return new_database(first_start)


@pytest.fixture
def config() -> Config:
    return Config()


@pytest.fixture
def state(database: Database, config: Config) -> ComputeAPI:
    """Without images: no resource here asks for them."""
    bus = LocalBus()
    return ComputeAPI(
        config=config,
        db=database,
        bus=bus,
        network=BuiltinNetwork(database, config),
        images=cast(Any, None),
        volumes=BuiltinVolumes(database, bus, config),
    )


@pytest.fixture
def client(state: ComputeAPI) -> falcon.testing.TestClient:
    services = [compute.versions_service(), compute.service(state)]
    once = Once(state.db, state.config.api.idempotency_key_lifetime, FaultPoints(state.config.faults))
    return falcon.testing.TestClient(application(services, authenticate, once))


@pytest.fixture
def admin(client: falcon.testing.TestClient) -> Caller:
    return Caller(client, "admin")


@pytest.fixture
def member(client: falcon.testing.TestClient) -> Caller:
    return Caller(client, "member")


@pytest.fixture
def reader(client: falcon.testing.TestClient) -> Caller:
    """Of member's project, and may only look."""
    return Caller(client, "reader")


@pytest.fixture
def other(client: falcon.testing.TestClient) -> Caller:
    return Caller(client, "other")


@pytest.fixture
def add_host(database: Database, config: Config) -> Callable[[str], str]:
    """Make a host as its first report does; the id of its service."""

    def add(name: str) -> str:
        told = HostReport(
            hypervisor_hostname=f"{name}.example",
            hypervisor_type="QEMU",
            hypervisor_version=7002000,
            host_ip="192.0.2.1",
            total=Capacity(vcpus=8, memory_mb=16384, disk_gb=100),
            cpu_info={"arch": "x86_64"},
            disk_available_least=90,
        )
        with database.write() as conn:
            service_id = hosts.seen(conn, "nova-compute", name, "nova")
            hosts.report(conn, service_id, name, told, config.compute)
        return service_id

    return add


@pytest.fixture
def place(database: Database) -> Callable[[str, str], str]:
    """Put a server on a host, past everything that would."""

    def put(host: str, name: str) -> str:
        server_id = str(uuid.uuid4())
        blank: dict[type, Any] = {str: "x", int: 0, float: now(), bool: False}
        row = {
            c.name: blank.get(c.type.python_type, {}) for c in servers.c if not c.nullable and not c.default
        }
        row |= {"id": server_id, "host": host, "name": name, "vm_state": "active", "task_state": "rebooting"}
        row |= {c.name: {} for c in servers.c if isinstance(c.type, Json) and not c.nullable}
        with database.write() as conn:
            conn.execute(servers.insert().values(row))
        return server_id

    return put
