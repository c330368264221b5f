"""One service as a process of its own, killed and started again as often as wanted."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

_START_TIMEOUT = 120.0
_WORDS = 300
"""Characters of a line that are shown."""


class Service:
    """``name`` is its kind and a number, as ``api-1``. It dies with the thread that begins it."""

    def __init__(self, name: str, folder: Path, arguments: tuple[str, ...]) -> None:
        self.name = name
        self.kind = name.partition("-")[0]
        self.config = folder / f"{name}.toml"
        self.record = folder / f"{name}.points"
        """Where it writes the fault points that it reaches, if its configuration says so."""
        self._log = folder / f"{name}.log"
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None
        self._ready = threading.Event()
        self._said: list[str] = []
        self._listener = threading.Thread()

    def begin(self) -> None:
        """wait_ready() is when it serves."""
        code = "from kilonova.cli import main; main()"
        command = ["setpriv", "--pdeathsig=KILL", sys.executable, "-c", code, self.kind]
        self._ready, self._said = threading.Event(), []
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [*command, "--config", str(self.config), *self._arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._listener = threading.Thread(
            target=self._listen, args=(self._process, self._ready, self._said), daemon=True
        )
        self._listener.start()

    def wait_ready(self) -> None:
        """AssertionError says why it is not."""
        ready = self._ready.wait(_START_TIMEOUT) and any(line.startswith("ready") for line in self._said)
        assert ready, f"{self.name} did not start: {self._said} {self._log.read_text()[-3000:]}"

    @property
    def died(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    @property
    def end(self) -> str:
        """Of one that died: how, and the last that it wrote."""
        assert self._process is not None
        self._listener.join(60)
        written = [*"".join(self._said).splitlines(), *self._log.read_text().splitlines()]
        last = written[-1].strip() if written else "it wrote nothing"
        return f"exit status {self._process.returncode}: {last[-_WORDS:]}"

    def wait_dead(self, timeout: float) -> bool:
        """Whether it ended by itself in time."""
        assert self._process is not None
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """As kill -9 does; nothing if it is dead."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(60)
        self._listener.join(60)
        self._process = None

    def _listen(self, process: subprocess.Popen[str], ready: threading.Event, said: list[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                said.append(line)
                if line.startswith("ready"):
                    ready.set()
        ready.set()
