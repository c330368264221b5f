"""The guests of the lab's hosts, as processes; and what else of Kilonova is on a host, looked up there."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from lab import Machine

_GUEST = re.compile(rb"guest=instance-([0-9a-f-]{36})")


def guests(machine: Machine) -> dict[str, tuple[int, str]]:
    """Server id → process id and when it began (in the kernel's ticks): the same guest, the same pair."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (folder / "cmdline").read_bytes()
            if (match := _GUEST.search(line)) and f"hosts/{machine.name}/".encode() in line:
                began = (folder / "stat").read_text().rpartition(")")[2].split()[19]
                found[match[1].decode()] = (int(folder.name), began)
    return found


def things(machine: Machine) -> list[str]:
    """What Kilonova made on a compute host and has not removed."""
    found = [f"guest {server_id}" for server_id in guests(machine)]
    links = machine.run("ip", "-brief", "link").splitlines()
    found += [f"device {line.split()[0]}" for line in links if re.match(r"tap|brq|kn[btv]", line)]
    found += [f"namespace {line.split()[0]}" for line in machine.run("ip", "netns", "list").splitlines()]
    tables = machine.run("nft", "list", "tables").splitlines()
    found += [table for table in tables if "kilonova-tunnels" not in table]  # as long as it takes tunnels
    own = machine.disk / "state/hosts" / machine.name
    return found + [f"files of {path.name}" for path in (own / "instances").glob("*")]
