"""`kilonova cluster add-host`, `remove-host`: what a host may do, given and taken on the control node."""

from __future__ import annotations

import json
import re
import secrets
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from kilonova.cli.client import Client, credentials
from kilonova.cli.cluster import broker, machine
from kilonova.cli.cluster.init import BROKER_PORT
from kilonova.cli.cluster.machine import Files
from kilonova.cli.state import write_private

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")

_JOIN = """\
# For `kilonova cluster join` on {host}: whoever has this file is that host. Remove it after use.
host = {host}
bus = {bus}
auth_url = {auth_url}
username = {username}
password = {password}
ca = \"\"\"
{ca}\"\"\"
"""


@click.command("add-host", short_help="Give a compute host credentials, to join with.")
@click.argument("name")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file; default: NAME.join."
)
def add_host(name: str, output: Path | None) -> None:
    """Give the compute host NAME credentials of its own, in a file for `kilonova cluster join`.

    Run again, it gives new ones, and the old ones are void.
    """
    machine.must_be_root()
    if not _NAME.fullmatch(name):
        raise click.UsageError(f"{name} is no host name")
    files = Files(Path("/"))
    admin = Client(credentials(_state(files)))
    broker_password, password = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    user = broker.host_user(name)
    address = admin.identity.partition("://")[2].rpartition(":")[0]
    words = {
        "host": name,
        "bus": f"amqps://{user}:{broker_password}@{address}:{BROKER_PORT}/{broker.VHOST}",
        "auth_url": admin.identity.removesuffix("/v3"),
        "username": user,
        "password": password,
    }
    quoted = {key: json.dumps(value) for key, value in words.items()}
    path = output or Path(f"{name}.join")
    with _written(path, _JOIN.format(**quoted, ca=(files.etc / "ca.pem").read_text())):
        _let_ask_for_images(admin, user, password)
        broker.tell(broker.host(name, broker_password))
        broker.disconnect(user)  # who had the old password
    click.echo(f"wrote {path}; on {name}: kilonova cluster join {path.name}")


@contextmanager
def _written(path: Path, text: str) -> Iterator[None]:
    """The file can be written, before anything is changed; it is there if all went well. ClickException."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        write_private(draft, text)
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from error
    try:
        yield
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)


@click.command("remove-host", short_help="Take a compute host's credentials away.")
@click.argument("name")
def remove_host(name: str) -> None:
    """Take the credentials of the compute host NAME away. Its servers' records stay."""
    machine.must_be_root()
    admin = Client(credentials(_state(Files(Path("/")))))
    found = _user(admin, broker.host_user(name))
    if found is None:
        raise click.ClickException(f"{name} was never added")
    admin.ask("DELETE", f"{admin.identity}/users/{found['id']}")
    machine.run("rabbitmqctl", "--quiet", "delete_user", broker.host_user(name), needs="rabbitmq-server")
    click.echo(f"{name} can no longer speak to the cluster")


def _state(files: Files) -> Path:
    path = files.etc / "control.toml"
    try:
        return Path(tomllib.loads(path.read_text())["state"])
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise click.ClickException(
            f"this is no control node: {path} cannot be read ({error}); kilonova cluster init makes it one"
        ) from error


def _user(admin: Client, name: str) -> Any:
    return next(iter(admin.ask("GET", f"{admin.identity}/users?name={name}")["users"]), None)


def _let_ask_for_images(admin: Client, name: str, password: str) -> None:
    """A user of the identity service who may fetch every project's images, as an agent must."""
    user = _user(admin, name)
    if user is None:
        body = {"user": {"name": name, "password": password, "description": "Agent of a compute host"}}
        user = admin.ask("POST", f"{admin.identity}/users", body)["user"]
    else:
        admin.ask("PATCH", f"{admin.identity}/users/{user['id']}", {"user": {"password": password}})
    project = admin.ask("GET", f"{admin.identity}/projects?name=service")["projects"][0]["id"]
    roles = admin.ask("GET", f"{admin.identity}/roles?name=service")["roles"]
    if not roles:
        raise click.ClickException("the API is of a release without the role service: restart kilonova-api")
    role = roles[0]["id"]
    held = f"{admin.identity}/projects/{project}/users/{user['id']}/roles"
    admin.ask("PUT", f"{held}/{role}")
    for other in admin.ask("GET", held)["roles"]:
        if other["id"] != role:  # it was admin once
            admin.ask("DELETE", f"{held}/{other['id']}")
