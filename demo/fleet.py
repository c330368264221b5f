"""Kilonova's services on the machines of the lab: started, killed and started again, as systemd does it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from backends import Passwords
from kilonova.cli.cluster import broker
from lab import DISK, Machine
from terminal import DemoFailed

BIN = Path(__file__).resolve().parent.parent / ".venv/bin"
PORT = 8774
START_TIMEOUT = 120.0
"""Seconds. libvirt asks QEMU what it can do at the first start on a machine, on a busy one for long."""

COMMON = """\
state = "{disk}/state"

[bus]
url = "{bus}"

[operations]
lease = 10.0                      # default 30: so long an operation waits whose owner was killed

[compute]
report_interval = 2.0
service_down_time = 20.0          # killed agents come back sooner: their builds wait for them
"""
CONTROL = """
[database]
connection = "{database}"
"""
HOST = """
[service_user]
auth_url = "http://{api}:{port}/identity"
password = "{password}"
"""


def configure(control: Machine, hosts: dict[str, Machine], passwords: Passwords, database: str) -> None:
    """Each machine's kilonova.toml. A host's has its own broker user, and no database."""

    def url(user: str, password: str) -> str:
        return f"amqp://{user}:{password}@{control.address}:5672/{broker.VHOST}"

    def write(machine: Machine, bus: str, more: str) -> None:
        path = machine.disk / "kilonova.toml"
        path.touch(mode=0o600)
        path.write_text(COMMON.format(disk=DISK, bus=bus) + more)

    write(control, url("kilonova", passwords.broker), CONTROL.format(database=database))
    service_user = HOST.format(api=control.address, port=PORT, password=passwords.images)
    for name, machine in hosts.items():
        write(machine, url(broker.host_user(name), passwords.hosts[name]), service_user)


class Service:
    """One process of one machine. ``kind``: api, conductor, scheduler or compute."""

    def __init__(
        self, kind: str, name: str, machine: Machine, listening: socket.socket | None = None
    ) -> None:
        self.name = name
        self.kind = kind
        self.machine = machine
        self.log = machine.disk / f"{name}.log"
        self._listening = listening
        self._process: subprocess.Popen[str] | None = None
        self._ready = threading.Event()
        self._said: list[str] = []

    def begin(self) -> None:
        command = [str(BIN / "kilonova"), self.kind, "--config", f"{DISK}/kilonova.toml"]
        given: tuple[int, ...] = ()
        if self._listening is not None:
            # systemd's way to hand a socket over: descriptor 3, and the process id that it is meant for.
            given = (self._listening.fileno(),)
            command = ["bash", "-c", f'LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@" 3<&{given[0]}', *command]
        self._ready.clear()
        self._said.clear()
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self.machine.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                pass_fds=given,
                env=dict(os.environ),
            )
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._said.append(line)
                if line.startswith("ready"):
                    self._ready.set()
        self._ready.set()

    def wait_ready(self) -> None:
        assert self._process is not None
        if not self._ready.wait(START_TIMEOUT) or not any(line.startswith("ready") for line in self._said):
            raise DemoFailed(f"{self.name} did not start: {''.join(self._said)}{self.end_of_log()}")

    def kill(self) -> int:
        """kill -9; its process id."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(30)
        return self._process.pid

    def stop(self) -> None:
        """SIGTERM, and it ends well."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(60)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"{self.name} did not stop within 60 s of SIGTERM") from None
        if status != 0:
            raise DemoFailed(f"{self.name} ended with status {status}: {self.end_of_log()}")

    def end_of_log(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def start(services: list[Service]) -> None:
    for service in services:
        service.begin()
    for service in services:
        service.wait_ready()


def restart_like_systemd(services: list[Service]) -> float:
    """Restart=always, RestartSec=1; the seconds until all are ready again."""
    began = time.monotonic()
    time.sleep(1)
    start(services)
    return time.monotonic() - began
