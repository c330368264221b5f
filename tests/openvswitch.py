"""An Open vSwitch of a test's own: both daemons from the package, in a folder and in the caller's network.

It works without the kernel's module (``datapath_type=netdev``), as anywhere.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

from tests.running import until

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
OWN_DEVICE = "ovs-netdev"
"""Made with the first bridge, and removed by the switch itself some time after the last."""


def installed() -> bool:
    return (
        SCHEMA.exists() and shutil.which("ovs-vswitchd", path=f"{os.environ['PATH']}:/usr/sbin") is not None
    )


class OpenVSwitch:
    """Its ``connection`` is what ``[network] ovsdb_connection`` takes."""

    def __init__(self, folder: Path, *, segments: bool) -> None:
        """``segments``: it takes over checksums and segmentation from guests (userspace-tso-enable)."""
        self.folder = folder
        self._segments = segments
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir()
        self._env = os.environ | {f"OVS_{name}DIR": str(folder) for name in ("RUN", "LOG", "DB", "SYSCONF")}

    @property
    def connection(self) -> str:
        return f"unix:{self.folder / 'db.sock'}"

    def start(self) -> OpenVSwitch:
        if not (self.folder / "conf.db").exists():
            self.run("ovsdb-tool", "create", str(self.folder / "conf.db"), str(SCHEMA))
        self._begin("ovsdb-server")
        self.vsctl("--no-wait", "init")
        if self._segments:
            self.vsctl("--no-wait", "set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true")
        self._begin("ovs-vswitchd")
        return self

    @property
    def runs(self) -> bool:
        return bool(self._running)

    def kill(self) -> None:
        """Both daemons, as a crash ends them."""
        for name in list(self._running):
            self._kill(name)

    def restart(self, name: str) -> None:
        """One of the daemons, after a crash."""
        self._kill(name)
        self._begin(name)

    def _kill(self, name: str) -> None:
        one = self._running.pop(name)
        one.kill()
        one.wait()

    def _begin(self, name: str) -> None:
        if name == "ovs-vswitchd":
            self._start(name, self.connection)
            return
        self._start(name, str(self.folder / "conf.db"), f"--remote=p{self.connection}")
        until(lambda: accepts(self.folder / "db.sock"), 60, "the switch's database")

    @property
    def command(self) -> list[str]:
        """ovs-vsctl's, for what comes after it."""
        return ["ovs-vsctl", f"--db={self.connection}", "--timeout=60"]

    def vsctl(self, *words: str) -> str:
        return self.run(*self.command, *words)

    def appctl(self, *words: str) -> str:
        process = (self.folder / "ovs-vswitchd.pid").read_text().strip()
        return self.run("ovs-appctl", "-t", str(self.folder / f"ovs-vswitchd.{process}.ctl"), *words)

    def flows(self) -> list[str]:
        """Those of br-int."""
        control = f"unix:{self.folder / 'br-int.mgmt'}"
        return self.run("ovs-ofctl", "--no-stats", "dump-flows", control).splitlines()

    def ports(self) -> set[str]:
        """Those of br-int."""
        return set(self.vsctl("list-ports", "br-int").split())

    def tag(self, port: str) -> int:
        return int(self.vsctl("get", "Port", port, "tag"))

    def bridges(self) -> list[str]:
        return self.vsctl("list-br").split()

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=90, check=False, env=self._env, cwd=self.folder
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def _start(self, name: str, *words: str) -> None:
        logs = ["-vconsole:off", "-vsyslog:off", f"--log-file={self.folder / name}.log"]
        self._running[name] = subprocess.Popen(
            [name, *words, "--no-chdir", *logs, f"--pidfile={self.folder / name}.pid"],
            env=self._env | {"PATH": f"{os.environ['PATH']}:/usr/sbin"},
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(str(path)) == 0
