"""PostgreSQL and RabbitMQ on a machine of the lab, as Debian has them, with their data on its disk."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import subprocess
import time
from pathlib import Path

from kilonova.cli.cluster import broker
from lab import DISK, Machine
from terminal import DemoFailed

RABBIT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Debian's wrapper in PATH would change to the user rabbitmq and its folders."""
START_TIMEOUT = 60.0


class Passwords:
    """Made anew for each demo."""

    def __init__(self, hosts: list[str]) -> None:
        self.database, self.broker, self.images = (secrets.token_urlsafe(12) for _ in range(3))
        self.hosts = {host: secrets.token_urlsafe(12) for host in hosts}


def start_postgresql(machine: Machine, passwords: Passwords) -> str:
    """The URL of an empty database; its user has a password and no other right."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    if not versions:
        raise DemoFailed("PostgreSQL is missing: run tools/install-packages test")
    programs = versions[-1]
    user = pwd.getpwnam("postgres")
    folder = machine.disk / "postgresql"
    folder.mkdir(mode=0o700)
    secret = folder / "password"
    secret.write_text(passwords.database)
    for path in (folder, secret):
        os.chown(path, user.pw_uid, user.pw_gid)
    inside = f"{DISK}/postgresql"
    as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    options = [
        "--auth=scram-sha-256",
        f"--pwfile={inside}/password",
        "--username=kilonova",
        "--encoding=UTF8",
    ]
    machine.run(*as_postgres, str(programs / "initdb"), *options, "--no-sync", f"{inside}/data")
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": inside, "max_connections": "200"}
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    server = [*as_postgres, str(programs / "postgres"), "-D", f"{inside}/data", *words]
    _begin(machine, "postgresql", server, dict(os.environ))
    return f"postgresql+psycopg://kilonova:{passwords.database}@127.0.0.1/postgres"


def start_rabbitmq(machine: Machine, passwords: Passwords) -> None:
    """Its users: the control plane's, and one for each host, limited to its own queues."""
    if not RABBIT.exists():
        raise DemoFailed("RabbitMQ is missing: run tools/install-packages test")
    folder = machine.disk / "rabbitmq"
    folder.mkdir(mode=0o700)
    of_hosts = [broker.host(name, password) for name, password in passwords.hosts.items()]
    known = broker.merged(broker.control_plane("kilonova", passwords.broker), *of_hosts)
    (folder / "definitions.json").write_text(json.dumps(known))
    (folder / "enabled_plugins").write_text("[].\n")
    inside = f"{DISK}/rabbitmq"
    settings = f"listeners.tcp.1 = {machine.address}:5672\nload_definitions = {inside}/definitions.json\n"
    (folder / "rabbitmq.conf").write_text(settings)
    cookie = folder / ".erlang.cookie"
    cookie.write_text(secrets.token_hex(16))
    cookie.chmod(0o400)
    _begin(machine, "epmd", ["epmd", "-address", "127.0.0.1"], _rabbit_environment(inside))
    _begin(machine, "rabbitmq", [str(RABBIT)], _rabbit_environment(inside))


def wait_for_both(machine: Machine) -> None:
    """Until each takes connections."""
    for name, address, port in (("postgresql", "127.0.0.1", 5432), ("rabbitmq", machine.address, 5672)):
        end = time.monotonic() + START_TIMEOUT
        while not machine.listens(address, port):
            if time.monotonic() > end:
                said = (machine.disk / f"{name}.log").read_text(errors="replace")[-2000:]
                raise DemoFailed(f"{name} did not start within {START_TIMEOUT:.0f} s: {said}")
            time.sleep(0.1)


def _begin(machine: Machine, name: str, command: list[str], environment: dict[str, str]) -> None:
    with (machine.disk / f"{name}.log").open("wb") as log:
        subprocess.Popen(
            machine.command(*command), env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def _rabbit_environment(folder: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": folder,  # the cookie
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": "kilonova@localhost",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
        "RABBITMQ_FEATURE_FLAGS_FILE": f"{folder}/feature_flags",
        "RABBITMQ_PLUGINS_EXPAND_DIR": f"{folder}/plugins",
        "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
        "RABBITMQ_LOG_BASE": f"{folder}/log",
        "RABBITMQ_PID_FILE": f"{folder}/pid",
        "RABBITMQ_ALLOW_INPUT": "1",  # the script becomes the server
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "-noinput +S 1 -start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
        ),
    }
