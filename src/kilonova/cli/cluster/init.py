"""`kilonova cluster init`: this machine becomes the control node.

PostgreSQL and RabbitMQ are the distribution's, on this machine. Kilonova's services log in to PostgreSQL as
the system's user kilonova (peer), and to RabbitMQ over the loopback with a password; hosts reach RabbitMQ by
TLS alone.
"""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
import tomllib
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote

import click

from kilonova.cli.cluster import broker, certificates, machine
from kilonova.cli.cluster.machine import Files

USER = "kilonova"
API_PORT = 8774
BROKER_PORT = 5671
_BROKER = f"@127.0.0.1:5672/{broker.VHOST}"
"""As the services of this machine reach it: the end of a URL."""

_CONTROL = """\
# Written by `kilonova cluster init`, once; yours from now on. All options: src/kilonova/config.py.
state = "/var/lib/kilonova"

[bus]
url = "amqp://{user}:{password}{broker}"

[database]
connection = {database}
"""

_SOCKET = """\
# Written by `kilonova cluster init`.
[Socket]
ListenStream=
ListenStream={listen}
"""

_RABBIT = """\
# Written by `kilonova cluster init`: hosts come by TLS, and show who they are by user and password.
listeners.tcp.1 = 127.0.0.1:5672
listeners.ssl.1 = {listen}
ssl_options.cacertfile = /etc/rabbitmq/kilonova/ca.pem
ssl_options.certfile = /etc/rabbitmq/kilonova/cert.pem
ssl_options.keyfile = /etc/rabbitmq/kilonova/key.pem
ssl_options.verify = verify_none
"""

LOCAL_DATABASE = f"postgresql+psycopg://{USER}@/{USER}?host=/run/postgresql"


_DATABASE = r"""
SELECT 'CREATE ROLE kilonova LOGIN'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'kilonova') \gexec
SELECT 'CREATE DATABASE kilonova OWNER kilonova ENCODING ''UTF8'' TEMPLATE template0'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'kilonova') \gexec
"""
"""psql's \\gexec runs what a query has found: nothing, if it is there."""


@click.command(short_help="Make this machine the control node.")
@click.option("--address", required=True, help="IP address of this machine, for hosts and users.")
@click.option(
    "--database",
    default="",
    help="URL, without a password, of a PostgreSQL database that is there; default: one is made here.",
)
@click.option(
    "--database-file",
    type=click.File(),
    help="File with the URL of that database, which may have a password; - is standard input.",
)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/"),
    show_default=True,
    help="Write the files below this folder, for a machine that is not running; nothing is started.",
)
def init(address: str, database: str, database_file: TextIO | None, root: Path) -> None:
    """Make this machine the control node: APIs, conductor and scheduler, with PostgreSQL and RabbitMQ."""
    machine.must_be_root()
    try:
        listen_on = ipaddress.ip_address(address)
    except ValueError:
        raise click.UsageError(f"--address {address} is no IP address") from None
    database = _database_url(database, database_file)
    host = f"[{listen_on}]" if listen_on.version == 6 else str(listen_on)
    files = Files(root)
    here = root == Path("/")
    kept = _kept_password(files)
    files.install_units(machine.CONTROL + machine.ISCSI)
    files.install_user()
    if here:
        machine.make_user(USER)
    password = kept or _configuration(files, database or LOCAL_DATABASE)
    files.write(
        root / "etc/systemd/system/kilonova-api.socket.d/address.conf",
        _SOCKET.format(listen=f"{host}:{API_PORT}"),
    )
    _certificates(files, str(listen_on))
    rabbit = root / "etc/rabbitmq/conf.d/kilonova.conf"
    files.write(rabbit, _RABBIT.format(listen=f"{host}:{BROKER_PORT}"))
    if not here:
        return
    if not database:
        machine.run("systemctl", "enable", "--now", "postgresql", needs="postgresql")
        make_database()
    machine.run("systemctl", "enable", "rabbitmq-server", needs="rabbitmq-server")
    machine.run("systemctl", "restart", "rabbitmq-server", needs="rabbitmq-server")
    broker.tell(broker.control_plane(USER, password))
    machine.enable(machine.CONTROL)
    click.echo(f"The control node serves at http://{host}:{API_PORT}. Its admin: . /var/lib/kilonova/openrc")
    click.echo("Add a host: kilonova cluster add-host NAME")


def _database_url(given: str, file: TextIO | None) -> str:
    """Empty: none was named. UsageError."""
    if file is None:
        if re.search(r"//[^/@]*:[^@]*@|[?&]password=", given):
            raise click.UsageError(
                "others read command lines: give a URL with a password by --database-file FILE (- is stdin)"
            )
        return given
    url = file.read().strip()
    if given or not url or len(url.split()) != 1:
        raise click.UsageError("--database-file holds one URL, and stands instead of --database")
    return url


def _kept_password(files: Files) -> str:
    """The broker's, of the configuration that is there; empty: there is none. ClickException: it is for
    another broker, whose password is not ours to give away."""
    path = files.etc / "control.toml"
    try:
        url = str(tomllib.loads(path.read_text())["bus"]["url"])
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError):
        url = ""
    password = re.fullmatch(rf"amqp://{USER}:([^:@/]+){re.escape(_BROKER)}", url)
    if password is None:
        raise click.ClickException(
            f"{path} was not written by kilonova cluster init: its [bus] url is not"
            f" amqp://{USER}:PASSWORD{_BROKER}. Move it away, or set the parts up by hand"
            " (docs/how-to/run-services-apart.md)"
        )
    click.echo(f"kept {path}")
    return unquote(password.group(1))


def _configuration(files: Files, database: str) -> str:
    """The configuration is written; the broker's password in it."""
    path = files.etc / "control.toml"
    password = secrets.token_urlsafe(24)
    text = _CONTROL.format(user=USER, password=password, broker=_BROKER, database=json.dumps(database))
    files.write(path, text, 0o640, group=USER)
    return password


def _certificates(files: Files, address: str) -> None:
    """An authority, once; and a certificate of the broker for its address, each time."""
    ca, ca_key = files.etc / "ca.pem", files.etc / "ca.key"
    if not ca_key.exists():
        made, key = certificates.authority()
        files.write(ca_key, key, 0o600)
        files.write(ca, made)
    certificate, key = certificates.server(address, ca.read_text(), ca_key.read_text())
    folder = files.root / "etc/rabbitmq/kilonova"
    files.write(folder / "ca.pem", ca.read_text())
    files.write(folder / "cert.pem", certificate)
    files.write(folder / "key.pem", key, 0o640, group="rabbitmq")


def make_database() -> None:
    """The role kilonova, without a password (it comes through the local socket), and its database."""
    psql = ("runuser", "-u", "postgres", "--", "psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--quiet")
    machine.run(*psql, told=_DATABASE, needs="postgresql")
    click.echo(f"PostgreSQL has a role and a database of the name {USER}")
