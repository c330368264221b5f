"""`kilonova cluster join`: this machine becomes a compute host."""

from __future__ import annotations

import json
import re
import tempfile
import tomllib
from pathlib import Path

import click
import msgspec

from kilonova.bus.rabbit.broker import brokers, connect
from kilonova.cli.cluster import machine
from kilonova.cli.cluster.machine import Files
from kilonova.config import Bus
from kilonova.domain import codec
from kilonova.domain.errors import BadRequest

_CA = "/etc/kilonova/ca.pem"
_COMPUTE = """\
# Written by `kilonova cluster join`, once; yours from now on. All options: src/kilonova/config.py.
state = "/var/lib/kilonova-compute"
host = {host}

[bus]
url = {bus}
ssl_ca_file = "{ca}"

[service_user]
auth_url = {auth_url}
username = {username}
password = {password}
"""


class Ticket(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `add-host` has written."""

    host: str
    bus: str
    auth_url: str
    username: str
    password: str
    ca: str


@click.command(short_help="Make this machine a compute host.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/"),
    show_default=True,
    help="Write the files below this folder, for a machine that is not running; nothing is started.",
)
def join(file: Path, root: Path) -> None:
    """Make this machine a compute host, by the FILE that `kilonova cluster add-host` has written."""
    machine.must_be_root()
    ticket = read(file)
    check_broker(ticket)
    files = Files(root)
    config = files.etc / "compute.toml"
    text = renewed(config, ticket) if config.exists() else _fresh(ticket)
    files.install_units(machine.COMPUTE)
    files.write(files.etc / "ca.pem", ticket.ca.lstrip())
    files.write(config, text, 0o600)
    if root != Path("/"):
        return
    machine.enable(machine.COMPUTE)
    click.echo(f"{ticket.host} is a compute host: openstack compute service list shows it. Remove {file}.")
    click.echo("Open UDP port 4789 to the other compute hosts: guests' networks are joined by VXLAN.")


def _fresh(ticket: Ticket) -> str:
    words = {name: json.dumps(value) for name, value in msgspec.structs.asdict(ticket).items()}
    return _COMPUTE.format(**words | {"ca": _CA})


def renewed(path: Path, ticket: Ticket) -> str:
    """The operator's file with these credentials, and otherwise as it is. ClickException: it cannot be."""
    try:
        text = path.read_text()
        wanted = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.ClickException(f"{path} cannot be read: {error}") from error
    host = wanted.get("host", ticket.host)
    if host != ticket.host:
        raise click.ClickException(f"{path} is of the host {host}, the credentials are {ticket.host}'s")
    values = {
        ("bus", "url"): ticket.bus,
        ("service_user", "username"): ticket.username,
        ("service_user", "password"): ticket.password,
    }
    try:
        for (section, key), value in values.items():
            wanted[section][key] = value
        text = _replaced(text, values)
        understood = tomllib.loads(text) == wanted
    except (KeyError, TypeError, tomllib.TOMLDecodeError):
        understood = False
    if not understood:
        raise click.ClickException(
            f"cannot change {path}: write [bus] url, [service_user] username and password there as"
            " `key = value`, a line each, or move the file away"
        )
    return text


def _replaced(text: str, values: dict[tuple[str, str], str]) -> str:
    """The lines `key = …` of these sections and keys say these values."""
    section, lines = "", text.splitlines(keepends=True)
    for at, line in enumerate(lines):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            section = header.group(1).strip()
        elif (entry := re.match(r"\s*(\w+)\s*=", line)) and (section, entry.group(1)) in values:
            lines[at] = f"{entry.group()} {json.dumps(values[section, entry.group(1)])}\n"
    return "".join(lines)


def read(file: Path) -> Ticket:
    """ClickException: it is no such file."""
    try:
        return codec.convert(tomllib.loads(file.read_text()), Ticket)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise click.ClickException(f"{file} was not written by kilonova cluster add-host: {error}") from error


def check_broker(ticket: Ticket) -> None:
    """The broker is there, is who it should be, and knows this host. ClickException: it is not so."""
    with tempfile.NamedTemporaryFile("w") as ca:
        ca.write(ticket.ca)
        ca.flush()
        config = Bus(url=ticket.bus, ssl_ca_file=ca.name)
        try:
            (broker,) = brokers(config.url)
        except (BadRequest, ValueError) as error:
            raise click.ClickException(f"the file names no broker: {error}") from error
        try:
            connect(broker, config, "kilonova cluster join").close()
        except Exception as error:  # py-amqp and ssl have no common kind of error
            raise click.ClickException(f"cannot reach the broker {broker}: {error}") from error
