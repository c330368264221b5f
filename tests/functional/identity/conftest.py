"""A whole identity service on a real database, spoken to over its WSGI application."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from falcon import testing

from kilonova.api.http import application
from kilonova.api.identity import service
from kilonova.config import Config, Token
from kilonova.identity.service import Identity
from kilonova.store.database import Database

PASSWORD = "sésame ouvre-toi"
"""Of every user in these tests."""


@dataclass
class Api:
    """One caller: each method sends a request and asserts the status of the answer."""

    client: testing.TestClient
    identity: Identity
    token: str = ""

    def call(
        self, method: str, path: str, body: Any = None, *, status: int | None = None, **kwargs: Any
    ) -> Any:
        headers = {"X-Auth-Token": self.token} if self.token else {}
        if subject := kwargs.pop("subject", None):
            headers["X-Subject-Token"] = subject
        result = self.client.simulate_request(
            method, f"/identity{path}", json=body, headers=headers, **kwargs
        )
        expected = status or {"POST": 201, "DELETE": 204, "PUT": 204}.get(method, 200)
        assert result.status_code == expected, (method, path, result.status_code, result.text)
        if result.status_code >= 400 and method != "HEAD":
            error = result.json["error"]
            assert error.keys() == {"code", "message", "title"}
            assert error["code"] == result.status_code
        return result

    def get(self, path: str, **kwargs: Any) -> Any:
        result = self.call("GET", path, **kwargs)
        return result.json if result.content else None

    def create(self, path: str, key: str, **attributes: Any) -> Any:
        return self.call("POST", path, {key: attributes}).json[key]

    def login(
        self,
        name: str = "admin",
        secret: str = PASSWORD,
        scope: Any = None,
        *,
        status: int = 201,
        path: str = "/v3/auth/tokens",
        **method: Any,
    ) -> Any:
        """The answer to POST /v3/auth/tokens; by password unless another method is given."""
        proof = method or {
            "password": {"user": {"name": name, "domain": {"id": "default"}, "password": secret}}
        }
        auth: dict[str, Any] = {"identity": {"methods": list(proof), **proof}}
        if scope is not None:
            auth["scope"] = scope
        return self.call("POST", path, {"auth": auth}, status=status)

    def role(self, name: str) -> str:
        """The id of that role; for admins."""
        found: str = self.get(f"/v3/roles?name={name}")["roles"][0]["id"]
        return found

    def as_user(self, name: str, secret: str = PASSWORD, project: str | None = None) -> Api:
        scope = {"project": {"name": project, "domain": {"id": "default"}}} if project else "unscoped"
        return self.with_token(self.login(name, secret, scope).headers["X-Subject-Token"])

    def with_token(self, token: str) -> Api:
        return replace(self, token=token)


@pytest.fixture
def password() -> str:
    return PASSWORD


class Template:
    """A service after its first start: its folder, its database, and a token of the admin's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.admin_token = ""

    def fill(self, db: Database) -> None:
        self.admin_token = _serve(db, self.folder, Config()).as_user("admin", project="admin").token


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Template]:
    """One for each kind of database."""
    return functools.cache(lambda kind: Template(tmp_path_factory.mktemp(f"template-{kind}")))


@pytest.fixture
def template(templates: Callable[[str], Template], database_kind: str) -> Template:
    return templates(database_kind)


@pytest.fixture
def database_url(new_url: Callable[..., str], template: Template) -> str:
    return new_url(template.fill)


@pytest.fixture
def folder(template: Template, database_url: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template.folder, tmp_path / "state"))


def _serve(db: Database, folder: Path, config: Config) -> Api:
    identity = Identity(db, config, folder / "keys")
    identity.bootstrap(PASSWORD)
    app = application([service(identity)], identity.authenticate)
    return Api(testing.TestClient(app), identity)


@pytest.fixture
def start(database_url: str, folder: Path) -> Iterator[Callable[..., Api]]:
    """Start one API process on the test's database; call it twice for a second one."""
    opened: list[Database] = []

    def run(expiration: int = 3600) -> Api:
        db = Database(database_url)
        opened.append(db)
        return _serve(db, folder, Config(token=Token(expiration=expiration)))

    yield run
    for db in opened:
        db.close()


@pytest.fixture
def guest(start: Callable[..., Api]) -> Api:
    """A caller without a token."""
    return start()


@pytest.fixture
def admin(guest: Api, template: Template) -> Api:
    return guest.with_token(template.admin_token)


@dataclass
class Tenant:
    """A project with one user who is a member of it."""

    project: dict[str, Any]
    user: dict[str, Any]
    member_role: str
    api: Api


@pytest.fixture
def tenant(admin: Api) -> Tenant:
    project = admin.create("/v3/projects", "project", name="demo")
    user = admin.create("/v3/users", "user", name="ann", password=PASSWORD, email="ann@example.org")
    role = admin.role("member")
    admin.call("PUT", f"/v3/projects/{project['id']}/users/{user['id']}/roles/{role}")
    return Tenant(project, user, role, admin.as_user("ann", project="demo"))
