"""What the demo's machine leaves on this host while it runs, and after: looked up, never assumed.

Devices carry the first 11 characters of their network's or port's UUID; processes name the state folder.
So nothing of anybody else is taken for ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


class Thing(NamedTuple):
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Host:
    """The things of one state folder and one network."""

    def __init__(self, state: Path) -> None:
        self._state = state.absolute()
        self.network: str | None = None
        """Its id, once it is known."""
        self._taps: set[str] = set()
        """Seen on the network's bridge at any time: they are found when the bridge is gone, too."""
        self._tables: set[str] = set()
        """Likewise, nftables' tables that name one of our devices."""
        self._forwarding_before = _forwarding()

    def things(self, but_process: int | None = None) -> list[Thing]:
        """All that there is; ``but_process``: Kilonova itself, while it is meant to run."""
        found = [
            Thing("process", f"{name} (pid {pid})")
            for pid, name in self._processes().items()
            if pid != but_process
        ]
        found += [Thing("device", name) for name in self._devices()]
        if self._namespace is not None and self._namespace.exists():
            found.append(Thing("network namespace", self._namespace.name))
        found += [Thing("nft table", name) for name in self._our_tables()]
        if _forwarding() > self._forwarding_before and not self._others_here():
            found.append(Thing("setting", "net.ipv4.ip_forward"))
        return found

    def sweep(self) -> None:
        """After a failure: end and remove what is left of ours. Rules without our devices do nothing."""
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for name in self._devices():
            _run("ip", "link", "delete", name)
        if self._namespace is not None and self._namespace.exists():
            _run("ip", "netns", "delete", self._namespace.name)
        for table in self._our_tables():
            _run("nft", "delete", "table", *table.split())
        if not self._others_here():
            _FORWARDING.write_text(self._forwarding_before)
        deadline = time.monotonic() + 5  # the kernel takes a moment to end a process
        while self._processes() and time.monotonic() < deadline:
            time.sleep(0.1)

    @property
    def _namespace(self) -> Path | None:
        return Path("/run/netns") / f"kn-{self.network}" if self.network else None

    def _others_here(self) -> bool:
        """Another Kilonova has networks on this host: the setting that all share may be its own."""
        spaces = {path.name for path in Path("/run/netns").glob("kn-*")}
        return bool(spaces - {f"kn-{self.network}"})

    def _devices(self) -> list[str]:
        if self.network is None:
            return []
        links = _links()
        bridge, *others = (f"{kind}{self.network[:11]}" for kind in ("brq", "knb", "knt"))
        self._taps |= {name for name, master in links.items() if master == bridge}
        return sorted({bridge, *others, *self._taps} & links.keys())

    def _our_tables(self) -> list[str]:
        if self.network is None:
            return []
        tables = [line.removeprefix("table ") for line in _run("nft", "list", "tables").splitlines()]
        ours = [table for table in tables if "kilonova" in table and self._named_in(table)]
        self._tables |= set(ours)
        return sorted(self._tables & set(tables))

    def _named_in(self, table: str) -> bool:
        assert self.network is not None
        return self.network[:11] in _run("nft", "list", "table", *table.split())

    def _processes(self) -> dict[int, str]:
        """Those whose command line names the state folder, but for this one; zombies have no command line."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if (
                    any(os.fsencode(self._state) in word for word in words)
                    and int(folder.name) != os.getpid()
                ):
                    found[int(folder.name)] = (folder / "comm").read_text().strip()
        return found


def _links() -> dict[str, str | None]:
    """Device → the bridge that it is on."""
    listed = json.loads(_run("ip", "-json", "link", "show") or "[]")
    return {link["ifname"]: link.get("master") for link in listed}


def _forwarding() -> str:
    return _FORWARDING.read_text().strip()


def _run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL
    ).stdout
