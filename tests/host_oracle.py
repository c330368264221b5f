"""What a `kilonova up` with the libvirt driver has on its host, against what its database says.

Two lists must be empty: unexplained(), whenever nothing is under way, and left(), when all is deleted. Each
is looked up on the host: processes, devices, rules, routes, namespaces, files.

Tests run in a network namespace of their own (own_host), so what is in it is theirs: nothing of another
Kilonova on this machine is seen, and none of it is disturbed.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from pyroute2 import netns
from tests.running import Up

from kilonova.virt.libvirt.secret_store import in_memory

Things = dict[str, set[str]]
"""Kind of thing → names."""

_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_SPACES = Path("/run/netns")


@contextmanager
def own_host() -> Iterator[None]:
    """This thread, and what it starts, are in a network namespace of their own."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    name = f"test-{uuid4().hex[:8]}"
    _run("ip", "netns", "add", name)
    try:
        netns.setns(name, flags=0)
        _run("ip", "link", "set", "lo", "up")
        yield
    finally:
        netns.setns(home)
        os.close(home)
        _run("ip", "netns", "del", name)


@contextmanager
def real_machine() -> Iterator[tuple[Up, HostOracle]]:
    """A state folder for `kilonova up --driver libvirt` on a host of its own; whatever happens, all that it
    made is gone at the end. Its path is short (UNIX sockets) and open to pass (QEMU has its own user)."""
    folder = Path(tempfile.mkdtemp(prefix="real-"))
    folder.chmod(0o711)
    with own_host():
        up = Up(folder / "s", driver="libvirt")
        oracle = HostOracle(up)
        try:
            yield up, oracle
        finally:
            up.kill()
            oracle.sweep()
            shutil.rmtree(folder)


class HostOracle:
    def __init__(self, up: Up) -> None:
        self._up = up
        self._networks: set[str] = set()
        """Every network ever seen in the records: their namespaces have their names."""
        self._before = _of_the_host()

    def guests(self) -> dict[str, int]:
        """Server → pid of its QEMU."""
        return {
            word.removeprefix("guest=instance-").partition(",")[0]: pid
            for pid, words in self._processes().items()
            for word in words
            if word.startswith("guest=instance-")
        }

    def dnsmasqs(self) -> dict[str, int]:
        """Network → pid of its DHCP server."""
        return {
            Path(word).parent.name: pid
            for pid, words in self._processes().items()
            for word in words
            if word.startswith("--pid-file=")
        }

    def things(self) -> Things:
        """All that is there now."""
        seen = _of_the_host()
        seen["guest"] = set(self.guests())
        seen["dnsmasq"] = set(self.dnsmasqs())
        seen["instance folder"] = self._names("hosts/*/instances/*")
        seen["port record"] = {name.removesuffix(".json") for name in self._names("hosts/*/network/ports/*")}
        seen["network folder"] = self._names("hosts/*/network/networks/*")
        self._networks |= seen["network folder"] | set(self._ask("SELECT id FROM networks"))
        spaces = {f"kn-{network}" for network in self._networks}
        seen["namespace"] = spaces & {path.name for path in _SPACES.iterdir()}
        return seen

    def unexplained(self) -> list[str]:
        """What is there and should not, and what should and is not. What the database says of itself, too."""
        seen = self.things()
        running = "SELECT id FROM servers WHERE deleted_at IS NULL AND vm_state IN ('active', 'paused')"
        placed = "SELECT id FROM servers WHERE deleted_at IS NULL AND host IS NOT NULL"
        failed = "SELECT id FROM servers WHERE deleted_at IS NULL AND vm_state = 'error'"
        must, may = self._network_of(running), self._network_of(placed)
        must["guest"] = set(self._ask(running))
        may["guest"] = must["guest"] | set(self._ask(failed))
        must["instance folder"] = may["instance folder"] = set(self._ask(placed))
        lines = []
        for kind, names in seen.items():
            before = self._before.get(kind, set())
            lines += [f"{kind} {name} is missing" for name in sorted(must[kind] - names)]
            lines += [f"{kind} {name} is left" for name in sorted(names - may[kind] - before)]
        return lines + self._up.unexplained()

    def left(self) -> list[str]:
        """What is there now and was not before the first start; all servers are deleted."""
        return [
            f"{kind} {name} is left"
            for kind, names in self.things().items()
            for name in sorted(names - self._before.get(kind, set()))
        ]

    def sweep(self) -> None:
        """After a test, whatever became of it: end the processes, remove the namespaces. The devices, rules
        and routes end with the namespace that was their host."""
        with suppress(sqlite3.Error):
            self.things()
        for pid in self._processes():
            with suppress(ProcessLookupError):
                ended = os.pidfd_open(pid)
                os.kill(pid, signal.SIGKILL)
                select.select([ended], [], [], 10)
                os.close(ended)
        for host in self._up.state.glob("hosts/*"):
            shutil.rmtree(in_memory(str(host)), ignore_errors=True)
        for network in self._networks:
            if (_SPACES / f"kn-{network}").exists():
                _run("ip", "netns", "del", f"kn-{network}")
        for path in self._up.state.glob("hosts/*/network/routers/*.json"):
            if (_SPACES / f"kr-{path.stem}").exists():
                _run("ip", "netns", "del", f"kr-{path.stem}")

    # --- what should be
    def _network_of(self, servers: str) -> Things:
        """What the ports of these servers need on the host."""
        of_them = f"FROM ports WHERE nic IS NOT NULL AND device_id IN ({servers})"
        ports = set(self._ask(f"SELECT id {of_them}"))
        networks = set(self._ask(f"SELECT network_id {of_them}"))
        routed = f"FROM subnets WHERE gateway_ip IS NOT NULL AND network_id IN (SELECT network_id {of_them})"
        ways_out = set(self._ask(f"SELECT network_id {routed}"))
        return {
            "device": {f"tap{port[:11]}" for port in ports}
            | {f"{kind}{network[:11]}" for kind in ("brq", "knb") for network in networks}
            | {f"knt{network[:11]}" for network in ways_out},
            "rules of port": ports,
            "nft table": {"bridge kilonova", "inet kilonova"} if ports else set(),
            "route": set(self._ask(f"SELECT cidr {routed}")),
            "setting": {"ip_forward = 1"} if ways_out else set(),
            "port record": ports,
            "network folder": networks,
            "dnsmasq": networks,
            "namespace": {f"kn-{network}" for network in networks},
        }

    def _ask(self, query: str) -> list[str]:
        if not (self._up.state / "kilonova.db").exists():
            return []
        with closing(self._up.database()) as db:
            return [row[0] for row in db.execute(query)]

    def _names(self, pattern: str) -> set[str]:
        return {path.name for path in self._up.state.glob(pattern)}

    def _processes(self) -> dict[int, list[str]]:
        """Those that work in the state folder, but for Kilonova itself; a zombie has no arguments."""
        mark, found = f"{self._up.state}/", {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                words = path.read_bytes().decode(errors="replace").split("\0")
                if any(mark in word for word in words) and words[0] != "ssh":
                    found[int(path.parent.name)] = words
        return found


def _of_the_host() -> Things:
    """What this network namespace holds."""
    links = json.loads(_run("ip", "-json", "link"))
    routes = json.loads(_run("ip", "-json", "route"))
    rules = json.loads(_run("nft", "-j", "list", "ruleset"))["nftables"]
    tables = [rule["table"] for rule in rules if "table" in rule]
    chains = [rule["chain"]["name"] for rule in rules if "chain" in rule]
    return {
        "device": {link["ifname"] for link in links},
        # A network's link to the host is no way to guests, and goes with its device.
        "route": {route["dst"] for route in routes if "gateway" in route},
        "nft table": {f"{table['family']} {table['name'].partition('-')[0]}" for table in tables},
        "rules of port": {name.removeprefix("port-") for name in chains if name.startswith("port-")},
        "setting": {f"ip_forward = {_IP_FORWARD.read_text().strip()}"},
    }


def ended(pid: int) -> Callable[[float], bool]:
    """``wait(seconds)``: whether the process has ended. Call this while it lives."""
    handle = os.pidfd_open(pid)

    def wait(seconds: float) -> bool:
        return bool(select.select([handle], [], [], seconds)[0])

    return wait


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
