"""The state folder: all that `kilonova up` keeps, and the files it writes for the user."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

import click

_OPENRC = """\
export OS_AUTH_URL='{url}/identity'
export OS_IDENTITY_API_VERSION='3'
export OS_USERNAME='admin'
export OS_PASSWORD='{password}'
export OS_PROJECT_NAME='admin'
export OS_USER_DOMAIN_NAME='Default'
export OS_PROJECT_DOMAIN_NAME='Default'
export OS_REGION_NAME='{region}'
"""

_CLOUDS = """\
clouds:
  kilonova:
    region_name: {region}
    identity_api_version: 3
    auth:
      auth_url: {url}/identity
      username: admin
      password: {password}
      project_name: admin
      user_domain_name: Default
      project_domain_name: Default
"""


class StateFolder:
    """One process at a time; readable by its owner alone."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = (self.path / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise click.ClickException(f"another kilonova is running on {self.path}") from error

    @property
    def database(self) -> Path:
        return self.path / "kilonova.db"

    @property
    def log(self) -> Path:
        return self.path / "kilonova.log"

    def folder(self, name: str) -> Path:
        path = self.path / name
        path.mkdir(exist_ok=True, mode=0o700)
        return path

    def admin_password(self) -> str:
        """Generated at the first start; in a file that only the owner reads."""
        path = self.path / "admin-password"
        if not path.exists():
            write_private(path, secrets.token_urlsafe(18) + "\n")
        return path.read_text().strip()

    def write_credentials(self, url: str, region: str) -> None:
        """``openrc`` for shells, ``clouds.yaml`` for clients and SDKs."""
        values = {"url": url, "region": region, "password": self.admin_password()}
        write_private(self.path / "openrc", _OPENRC.format(**values))
        write_private(self.path / "clouds.yaml", _CLOUDS.format(**values))

    def close(self) -> None:
        self._lock.close()


def write_private(path: Path, text: str) -> None:
    """Replace a file as a whole, readable by its owner alone from its first byte."""
    fresh = path.with_name(path.name + ".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    fresh.rename(path)
