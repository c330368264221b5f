"""The services of the tests' own, each a process: started, killed and started again one by one."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from tests.running import Client

CONFIG = """
state = "{state}"
host = "host"

[bus]
url = "{bus}"
exchange = "{exchange}"
heartbeat = 10.0

[database]
connection = "{database}"

[operations]
lease = 3.0
sweep_interval = 0.5

[compute]
report_interval = 1.0

[quota]
instances = -1
cores = -1
ram = -1
"""


class Services(Client):
    """``api``, ``conductor``, ``scheduler`` and ``compute`` (three fake hosts by default), by these
    names; more of them are ``api-2`` and so on.

    ``more`` is TOML for all of them, ``compute`` the arguments of that one. ``listening``: the socket that
    all APIs share, handed to them as systemd does it.
    """

    def __init__(
        self,
        state: Path,
        bus: str,
        exchange: str,
        more: str = "",
        compute: tuple[str, ...] = ("--driver", "fake", "--hosts", "3"),
        database_url: str = "",
        listening: socket.socket | None = None,
    ) -> None:
        super().__init__(state, database_url)
        self._listening = listening
        state.mkdir()
        self.config = state / "kilonova.toml"
        self.config.write_text(
            CONFIG.format(state=state, bus=bus, exchange=exchange, database=self.database_url) + more
        )
        self._arguments = {"api": ("--port", "0"), "compute": compute}
        self.arguments: tuple[str, ...] = ()
        """Of every service."""
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._ready: dict[str, threading.Event] = {}
        self._said: dict[str, list[str]] = {}

    def start_all(self) -> Services:
        """All at the same time, as an init system would."""
        names = ("api", "conductor", "scheduler", "compute")
        for name in names:
            self.begin(name)
        for name in names:
            self.wait_ready(name)
        return self

    def start(self, name: str) -> None:
        self.begin(name)
        self.wait_ready(name)

    def begin(self, name: str) -> None:
        kind = name.partition("-")[0]
        command = [sys.executable, "-c", "from kilonova.cli import main; main()", kind]
        command += ["--config", str(self.config), *self._arguments.get(kind, ()), *self.arguments]
        given = self._listening.fileno() if self._listening is not None and kind == "api" else None
        if given is not None:
            hand_over = f'LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@" 3<&{given}'
            command = ["bash", "-c", hand_over, *command]
        with (self.state / f"{name}.log").open("a") as log:
            self._processes[name] = process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                pass_fds=() if given is None else (given,),
            )
        self._ready[name], self._said[name] = ready, said = threading.Event(), list[str]()
        threading.Thread(target=self._listen, args=(name, process, ready, said), daemon=True).start()

    def wait_ready(self, name: str, timeout: float = 120.0) -> None:
        self._ready[name].wait(timeout)
        ready = any(line.startswith("ready") for line in self._said[name])
        assert ready, f"{name} did not start: {self._said[name]} {self.log(name)[-3000:]}"

    def _listen(
        self, name: str, process: subprocess.Popen[str], ready: threading.Event, said: list[str]
    ) -> None:
        """Of one process: the next of its name has an event and lines of its own."""
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if line.startswith("ready"):
                if name.startswith("api") and (found := re.search(r"http://\S+", line)):
                    self.url, self._token = found.group(), ""
                ready.set()
        ready.set()

    def said(self, name: str) -> str:
        return "".join(self._said[name])

    def log(self, name: str) -> str:
        return (self.state / f"{name}.log").read_text()

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def wait(self, name: str) -> int:
        """Until it has ended by itself: the exit status."""
        status = self._processes[name].wait(60)
        del self._processes[name]
        return status

    def kill(self, name: str) -> None:
        self._end(name, signal.SIGKILL)

    def stop(self, name: str) -> int:
        """Ask it to stop: the exit status."""
        return self._end(name, signal.SIGTERM)

    def close(self) -> None:
        for name in list(self._processes):
            self._end(name, signal.SIGKILL)

    def _end(self, name: str, number: signal.Signals) -> int:
        process = self._processes.pop(name)
        process.send_signal(number)
        return process.wait(60)
