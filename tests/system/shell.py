"""A shell in a guest that stays open: under emulation each new connection costs a second."""

from __future__ import annotations

import queue
import subprocess
import threading
from uuid import uuid4

from tests.system.cloud import Guest


class Shell:
    def __init__(self, guest: Guest) -> None:
        self._process = subprocess.Popen(
            guest.ssh_command("sh"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._said: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def run(self, command: str, within: float = 60.0) -> str:
        """What it prints; AssertionError if it fails, or the guest does not answer."""
        assert self._process.stdin is not None
        mark = f"end-{uuid4().hex}"
        self._process.stdin.write(f"({command}) </dev/null 2>&1; echo; echo {mark} $?\n")
        self._process.stdin.flush()
        lines = []
        try:
            while not (line := self._said.get(timeout=within)).startswith(mark):
                lines.append(line)
        except queue.Empty:
            raise AssertionError(f"{command}: no answer within {within} s; {lines}") from None
        said = "".join(lines).strip()
        assert line.split() == [mark, "0"], f"{command}: {said}"
        return said

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(line)
