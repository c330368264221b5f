"""The cloud's user in the lab: the openstack client as anybody has it, and ssh."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab import Machine
from terminal import DemoFailed, quote, run

BIN = Path(__file__).resolve().parent.parent / ".venv/bin"
TIMEOUT = 90.0


class Client:
    def __init__(self, credentials: Path) -> None:
        """``credentials``: the folder where `kilonova api` writes clouds.yaml."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        self._credentials = credentials
        self._environment: Mapping[str, str] = kept | {
            "OS_CLOUD": "kilonova",
            "OS_CLIENT_CONFIG_FILE": str(credentials / "clouds.yaml"),
            "NO_PROXY": "*",
            "no_proxy": "*",
        }

    def openstack(
        self, *words: str | Path, timeout: float = TIMEOUT, shown: str = "", quiet: bool = False
    ) -> str:
        line = shown or " ".join(word.name if isinstance(word, Path) else word for word in words)
        return run(
            BIN / "openstack",
            *words,
            environment=self._environment,
            timeout=timeout,
            shown=f"openstack {line}",
            quiet=quiet,
        )

    def servers(self) -> list[dict[str, Any]]:
        listed = self.openstack(*_list("ID", "Name", "Status", "Networks", "Host"), "-f", "json", quiet=True)
        found: list[dict[str, Any]] = json.loads(listed)
        return found

    def show_servers(self) -> None:
        quote(self.openstack(*_list("Name", "Status", "Networks", "Host"), "--sort-column", "Name"))

    def show_trace(self, server: dict[str, Any]) -> None:
        words = ("trace", server["ID"], "--state", str(self._credentials))
        shown = f"kilonova trace {server['Name']}"
        quote(run(BIN / "kilonova", *words, environment=self._environment, timeout=TIMEOUT, shown=shown))


def _list(*columns: str) -> list[str]:
    return ["server", "list", "--long", *(word for name in columns for word in ("-c", name))]


def uptime(machine: Machine, address: str, key: Path) -> str:
    """What a guest on this machine says of itself; empty if nobody can log in."""
    said = says(machine, address, key, "cat /proc/uptime")
    return f"{said.split()[0]} s" if said else ""


def says(machine: Machine, address: str, key: Path, command: str) -> str:
    """What a command prints in a guest on this machine; empty if it fails, or nobody can log in."""
    options = {
        "IdentityFile": str(key),
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "ConnectTimeout": "5",
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "LogLevel": "ERROR",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    try:
        return machine.run("ssh", "-F", "none", *words, f"cirros@{address}", command, timeout=30)
    except DemoFailed:
        return ""
