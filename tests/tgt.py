"""A tgtd of the tests' own: Debian's iSCSI target, in a folder, on a free port of loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

from tests.ports import free_ports
from tests.running import until


def installed() -> bool:
    return shutil.which("tgtd", path=f"{os.environ['PATH']}:/usr/sbin") is not None


class Tgtd:
    """start(), kill(), start() again on the same port: it has forgotten everything."""

    def __init__(self, folder: Path) -> None:
        self._name = folder / "tgt"
        self.portal = f"127.0.0.1:{free_ports(1)[0]}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> Path:
        """Of its management socket."""
        return self._name.with_name(f"{self._name.name}.0")

    @property
    def log(self) -> str:
        return self._name.with_suffix(".log").read_text()

    def start(self) -> Tgtd:
        with self._name.with_suffix(".log").open("ab") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", "tgtd", "-f", "--iscsi", f"portal={self.portal}"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        until(lambda: self._listens(self.address), 60, "tgtd")
        return self

    def targets(self) -> list[str]:
        """Names of its targets, and of its accounts: by the distribution's own command."""
        found = []
        for mode in ("target", "account"):
            done = subprocess.run(
                ["tgtadm", "--lld", "iscsi", "--op", "show", "--mode", mode],
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            )
            lines = done.stdout.splitlines()
            if mode == "target":
                found += [line.split()[-1] for line in lines if line.startswith("Target ")]
            else:
                found += [line.strip() for line in lines if line.startswith("    ")]
        return found

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
        self._process = None

    @property
    def _environment(self) -> dict[str, str]:
        return os.environ | {"TGT_IPC_SOCKET": str(self._name), "PATH": f"{os.environ['PATH']}:/usr/sbin"}

    def _listens(self, path: Path) -> bool:
        with socket.socket(socket.AF_UNIX) as one:
            return one.connect_ex(str(path)) == 0
