"""A small client of our own API for the commands: password login, then mostly GET.

Credentials come from the state folder of `kilonova up` or from the OS_* variables that clients use.
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

MICROVERSION = "2.100"
_TIMEOUT = 30.0


def credentials(state: Path | None) -> Mapping[str, str]:
    """OS_* of ``state``/openrc, or of the environment. ClickException says which is missing."""
    found: Mapping[str, str] = os.environ
    if state is not None:
        path = state / "openrc"
        try:
            found = dict(re.findall(r"^export (OS_\w+)='(.*)'$", path.read_text(), re.MULTILINE))
        except OSError as error:
            raise click.ClickException(f"cannot read {path}: {error.strerror}") from error
    for name in ("OS_AUTH_URL", "OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME"):
        if not found.get(name):
            raise click.ClickException(f"{name} is not set; source an openrc or give --state")
    return found


class Client:
    """Logged in with a project's scope; ``get()`` asks the compute service of its catalog."""

    def __init__(self, env: Mapping[str, str]) -> None:
        user = {"name": env["OS_USERNAME"], "password": env["OS_PASSWORD"]}
        user_domain = {"name": env.get("OS_USER_DOMAIN_NAME") or "Default"}
        project_domain = {"name": env.get("OS_PROJECT_DOMAIN_NAME") or "Default"}
        auth = {
            "identity": {"methods": ["password"], "password": {"user": {**user, "domain": user_domain}}},
            "scope": {"project": {"name": env["OS_PROJECT_NAME"], "domain": project_domain}},
        }
        self.identity = f"{env['OS_AUTH_URL'].rstrip('/').removesuffix('/v3')}/v3"
        """Where the identity service is."""
        headers, body = _request("POST", f"{self.identity}/auth/tokens", {"auth": auth}, {})
        self._headers = {
            "X-Auth-Token": headers["X-Subject-Token"],
            "OpenStack-API-Version": f"compute {MICROVERSION}",
        }
        is_admin = any(role["name"] == "admin" for role in body["token"].get("roles", []))
        self._everywhere = {"all_tenants": "1"} if is_admin else {}
        self._compute = next(
            endpoint["url"]
            for service in body["token"]["catalog"]
            for endpoint in service["endpoints"]
            if service["type"] == "compute" and endpoint["interface"] == "public"
        )

    def get(self, path: str, **query: str) -> Any:
        """The JSON body; ClickException with the API's own message when it refuses."""
        suffix = f"?{urllib.parse.urlencode(query)}" if query else ""
        return self.ask("GET", f"{self._compute}{path}{suffix}")

    def ask(self, method: str, url: str, body: Any = None) -> Any:
        """The JSON answer, None if it is empty; ClickException as get()."""
        return _request(method, url, body, self._headers)[1]

    def server(self, name_or_id: str) -> Any:
        """The server of that id, else the only one of that name (in all projects, for an admin)."""
        if re.fullmatch(r"[0-9a-f-]{36}", name_or_id):
            return {"id": name_or_id, "name": name_or_id}
        pattern = f"^{re.escape(name_or_id)}$"
        found = self.get("/servers", name=pattern, **self._everywhere)["servers"]
        if len(found) != 1:
            many = "no server has" if not found else f"{len(found)} servers have"
            raise click.ClickException(f"{many} the name {name_or_id!r}; give an id")
        return found[0]


def _request(method: str, url: str, body: Any, headers: Mapping[str, str]) -> tuple[Mapping[str, str], Any]:
    data = None if body is None else json.dumps(body).encode()
    if not url.startswith(("http://", "https://")):
        raise click.ClickException(f"{url} is not an http address")
    request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
        url, data, {"Content-Type": "application/json", **headers}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            raw = answer.read()
            return answer.headers, json.loads(raw) if raw else None
    except urllib.error.HTTPError as error:
        raise click.ClickException(f"{url}: {error.code} {_message(error)}") from error
    except OSError as error:
        raise click.ClickException(f"{url}: {error}") from error


def _message(error: urllib.error.HTTPError) -> str:
    try:
        (fault,) = json.load(error).values()
        return str(fault["message"])
    except (ValueError, KeyError, TypeError):
        return error.reason
