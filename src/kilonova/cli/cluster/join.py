"""`kilonova cluster join`: this machine becomes a compute host."""

from __future__ import annotations

import json
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


@click.command()
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
    files.install_units(machine.COMPUTE)
    files.write(files.etc / "ca.pem", ticket.ca.lstrip())
    words = {name: json.dumps(value) for name, value in msgspec.structs.asdict(ticket).items()}
    files.write(files.etc / "compute.toml", _COMPUTE.format(**words | {"ca": _CA}), 0o600)
    if root != Path("/"):
        return
    machine.enable(machine.COMPUTE)
    click.echo(f"{ticket.host} is a compute host: openstack compute service list shows it. Remove {file}.")


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
