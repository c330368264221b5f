"""The state folder: all that `kilonova up` keeps, and the files it writes for the user."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

# Of volumes the client asks for less by itself than `volume message list` takes. From 3.66 on a snapshot's
# `force` is refused unless it is true, and openstacksdk (Ansible with it) always sends it.
_OPENRC = """\
export OS_AUTH_URL='{url}/identity'
export OS_IDENTITY_API_VERSION='3'
export OS_USERNAME='admin'
export OS_PASSWORD='{password}'
export OS_PROJECT_NAME='admin'
export OS_USER_DOMAIN_NAME='Default'
export OS_PROJECT_DOMAIN_NAME='Default'
export OS_REGION_NAME='{region}'
export OS_VOLUME_DEFAULT_MICROVERSION='3.65'
"""

_CLOUDS = """\
clouds:
  kilonova:
    region_name: {region}
    identity_api_version: 3
    volume_default_microversion: '3.65'
    auth:
      auth_url: {url}/identity
      username: admin
      password: {password}
      project_name: admin
      user_domain_name: Default
      project_domain_name: Default
"""


class Folder:
    """Where a service keeps what is its own. ``path`` exists."""

    def __init__(self, path: Path) -> None:
        """ClickException: the folder cannot be used."""
        self.path = path.absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise unusable(self.path, error) from error

    def folder(self, name: str) -> Path:
        path = self.path / name
        path.mkdir(exist_ok=True, mode=0o700)
        return path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """In the block no other process asks for this folder's password, or makes one."""
        path = self.path / "admin-password.lock"
        path.touch(mode=0o600)
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def admin_password(self, make: bool = False) -> str | None:
        """What this folder knows, or proposed before its process died. ``make``: else a new one is proposed,
        which is on the disk before anybody can have it as theirs."""
        for path in (self._password, self._proposal):
            if path.exists():
                return path.read_text().strip()
        if not make:
            return None
        password = secrets.token_urlsafe(18)
        write_private(self._proposal, password + "\n", durable=True)
        return password

    def settle_password(self, is_the_admins: bool) -> None:
        """What was proposed is the admin's, and told to the operator; or it is nobody's, and goes."""
        with suppress(FileNotFoundError):
            if is_the_admins:
                self._proposal.rename(self._password)
            else:
                self._proposal.unlink()

    @property
    def _password(self) -> Path:
        return self.path / "admin-password"

    @property
    def _proposal(self) -> Path:
        return self.path / ".admin-password.proposed"

    @property
    def clouds(self) -> Path:
        return self.path / "clouds.yaml"

    def write_credentials(self, url: str, region: str) -> None:
        """``openrc`` for shells, ``clouds.yaml`` for clients and SDKs. The folder knows the password."""
        values = {"url": url, "region": region, "password": self.admin_password()}
        write_private(self.path / "openrc", _OPENRC.format(**values))
        write_private(self.clouds, _CLOUDS.format(**values))


def unusable(path: Path, error: OSError) -> click.ClickException:
    return click.ClickException(f"cannot use {path} as the state folder: {error.strerror}")


class StateFolder(Folder):
    """One process at a time; its files are readable by their owner alone, whatever the folder's mode is."""

    def __init__(self, path: Path) -> None:
        """ClickException: the folder cannot be used, or is in use."""
        super().__init__(path)
        try:
            self._lock = self._private("lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise click.ClickException(f"another kilonova is running on {self.path}") from error
        except OSError as error:
            raise unusable(self.path, error) from error
        self.database = self._private("kilonova.db")
        """SQLite gives the files that it puts beside it the same mode."""
        self.log = self._private("kilonova.log")

    def close(self) -> None:
        self._lock.close()

    def _private(self, name: str) -> Path:
        """The file exists, and is its owner's alone."""
        path = self.path / name
        path.touch(mode=0o600)
        path.chmod(0o600)
        return path


def write_private(path: Path, text: str, durable: bool = False) -> None:
    """Replace a file as a whole, readable by its owner alone from its first byte. Several may do so at once:
    it is one's or another's. ``durable``: on the disk when it returns."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600, O_EXCL
    fresh = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        fresh.rename(path)
        if durable:
            _flush_folder(path.parent)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _flush_folder(path: Path) -> None:
    """The names in it are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
