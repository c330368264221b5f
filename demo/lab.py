"""The lab's machines: each a network namespace with files and a name of its own, on one switch.

A machine has its own /run, and its disk is a folder of build/demo-cluster, which it sees as /mnt.
"""

from __future__ import annotations

import ctypes
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from terminal import DemoFailed

STATE = Path(__file__).resolve().parent.parent / "build/demo-cluster"
NETWORK = "10.99.0"
DISK = "/mnt"
"""Where a machine sees its own folder: a path that is short and that QEMU's user may pass."""
_SWITCH = "lab"
_CLONE_NEWNET = 0x40000000


def make_switch() -> None:
    """The network between the machines; the lab itself is on it, as the clients' machine."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", _SWITCH, "type", "bridge")
    run("ip", "address", "add", f"{NETWORK}.1/24", "dev", _SWITCH)
    run("ip", "link", "set", _SWITCH, "up")


class Machine:
    """``name`` is its host name; ``number`` the last byte of its address. It is there until the lab ends."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.address = f"{NETWORK}.{number}"
        self.disk = STATE / name
        """Its folder, as seen from the lab."""
        self.disk.mkdir(mode=0o711)
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", "sh", "-c", "echo made; exec sleep infinity"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        self._holder.stdout.readline()  # until then it is still in our own namespaces
        self.run("hostname", name)
        self.run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
        self.run("mount", "--bind", str(self.disk), DISK)
        self._wire(number)

    def _wire(self, number: int) -> None:
        """A cable to the switch."""
        pid = str(self._holder.pid)
        end = f"lab{number}"
        run("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", pid)
        run("ip", "link", "set", end, "master", _SWITCH, "up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")

    def command(self, *words: str) -> list[str]:
        """The command that runs ``words`` on this machine; it becomes them, with its process id."""
        spaces = Path(f"/proc/{self._holder.pid}/ns")
        enter = [
            f"--{kind}={spaces / name}" for kind, name in (("net", "net"), ("mount", "mnt"), ("uts", "uts"))
        ]
        return ["nsenter", *enter, *words]

    def run(self, *words: str, timeout: float = 60.0) -> str:
        """What the command prints; DemoFailed if it fails."""
        return run(*self.command(*words), timeout=timeout)

    def listen(self, port: int) -> socket.socket:
        """A socket that listens on this machine: what systemd would hold for the services there."""
        return self._on_its_network(lambda: socket.create_server((self.address, port), backlog=512))

    def listens(self, address: str, port: int) -> bool:
        """Whether somebody takes connections there, as seen from this machine."""
        try:
            self._on_its_network(lambda: socket.create_connection((address, port), timeout=5)).close()
        except OSError:
            return False
        return True

    def _on_its_network(self, make: Callable[[], socket.socket]) -> socket.socket:
        """The socket that ``make`` makes, in a thread of its own that enters the network and ends there."""
        made: list[socket.socket | OSError] = []

        def enter() -> None:
            try:
                with Path(f"/proc/{self._holder.pid}/ns/net").open() as space:
                    if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), _CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                made.append(make())
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]


def run(*command: str, timeout: float = 60.0) -> str:
    if shutil.which(command[0]) is None:
        raise DemoFailed(f"{command[0]} is missing: run tools/install-packages")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise DemoFailed(f"{' '.join(command)} has not ended after {timeout:.0f} s") from None
    if done.returncode != 0:
        raise DemoFailed(f"{' '.join(command)} failed: {done.stdout}{done.stderr}".rstrip())
    return done.stdout
