"""A RabbitMQ of the tests' own, from Debian's package: a folder, free ports, two child processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.ports import free_ports

from kilonova.cli.cluster import broker

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Debian's wrapper in PATH would change to the user rabbitmq and its folders."""
PASSWORD = "secret"
START_TIMEOUT = 120.0


class Rabbit:
    """start(), stop(), kill(), start() again: the same ports, users and durable queues.

    Users, as `kilonova cluster` makes them: ``kilonova``, the control plane's, and ``compute.h1``, for the
    agent of the host h1.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.tls_port, self._epmd_port, self._dist_port = free_ports(4)
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._environment = self._configure()

    @property
    def url(self) -> str:
        return self.url_of("kilonova")

    def url_of(self, user: str) -> str:
        return f"amqp://{user}:{PASSWORD}@127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        """Of the server, which is our child."""
        assert self._server is not None
        return self._server.pid

    def start(self) -> Rabbit:
        """Until it speaks AMQP."""
        epmd = ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"]
        self._epmd = subprocess.Popen(epmd, env=self._environment)
        with (self.folder / "output").open("ab") as output:
            self._server = subprocess.Popen(
                [str(SERVER)], env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        end = time.monotonic() + START_TIMEOUT
        while not self._speaks():
            if self._server.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"RabbitMQ did not start: {(self.folder / 'output').read_text()}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It answers nobody any more, and breaks no connection."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def trust(self, ca: Path, cert: Path, key: Path) -> None:
        """Serve TLS with these (PEM), from the next start on."""
        lines = [
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
            f"ssl_options.cacertfile = {ca}",
            f"ssl_options.certfile = {cert}",
            f"ssl_options.keyfile = {key}",
            "ssl_options.verify = verify_peer",
            "ssl_options.fail_if_no_peer_cert = true",
        ]
        with (self.folder / "rabbitmq.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")

    def _end(self, number: signal.Signals) -> None:
        for process, how in ((self._server, number), (self._epmd, signal.SIGTERM)):
            if process is not None:
                process.send_signal(how)
                process.wait(60)
        self._server = self._epmd = None

    def _speaks(self) -> bool:
        """It answers a header of a version that does not exist with the one that it speaks."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(b"AMQP\0\0\x09\x09")
                return connection.recv(4) == b"AMQP"
        except OSError:
            return False

    def _configure(self) -> dict[str, str]:
        folder = self.folder.absolute()
        definitions = broker.merged(
            broker.control_plane("kilonova", PASSWORD, "/"), broker.host("h1", PASSWORD, "/")
        )
        (folder / "definitions.json").write_text(json.dumps(definitions))
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nload_definitions = {folder}/definitions.json\n"
        )
        cookie = folder / ".erlang.cookie"
        cookie.write_text("KILONOVATESTS")
        cookie.chmod(0o400)
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(folder),  # the cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"kilonova-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "feature_flags"),
            "RABBITMQ_PLUGINS_EXPAND_DIR": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ALLOW_INPUT": "1",  # the script becomes the server: our child, and no other
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                # One scheduler, which sleeps when it has nothing to do: others need the CPU.
                "-noinput +S 1 +sbwt none +sbwtdcpu none +sbwtdio none "
                "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
            ),
        }


def installed() -> bool:
    return SERVER.exists() and shutil.which("epmd") is not None
