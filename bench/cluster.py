"""A cluster on this machine: every service a process of its own, RabbitMQ between them, PostgreSQL behind
them, a hundred fake hosts in one compute process; what a thousand servers cost it, and whom."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.postgresql import PostgreSQL
from tests.rabbit import Rabbit, installed
from tests.running import Client

from bench.cloud import FLAVOR, NO_LIMIT, load
from bench.figure import Figure
from bench.load import p50

HOSTS = 100
SERVERS = 1000
_AT_ONCE = 32
_PROCESSES = {"conductor": 1, "scheduler": 1, "compute": 1, "api": 1}
"""How many of each. Together they keep two cores busy; none of them is a core's worth by itself."""
_CONFIG = """
state = "{state}"
host = "host"
[bus]
url = "{bus}"
[database]
connection = "{database}"
"""


class Cluster(Client):
    """start() until all are ready; cpu() of each since they began; stop()."""

    def __init__(self, folder: Path, rabbit: Rabbit, postgresql: PostgreSQL, hosts: int) -> None:
        super().__init__(folder, postgresql.url())
        self._arguments = {"api": ["--port", "0"], "compute": ["--driver", "fake", "--hosts", str(hosts)]}
        self._rabbit = rabbit
        self._postgresql = postgresql
        self._processes: list[tuple[str, subprocess.Popen[str]]] = []

    def start(self) -> Cluster:
        self.state.mkdir()
        config = self.state / "kilonova.toml"
        text = _CONFIG.format(state=self.state, bus=self._rabbit.url, database=self.database_url)
        config.write_text(text + NO_LIMIT)
        for service, count in _PROCESSES.items():
            for number in range(count):
                self._start(service, number, config)
        return self

    def _start(self, service: str, number: int, config: Path) -> None:
        command = [sys.executable, "-c", "from kilonova.cli import main; main()", service]
        command += ["--config", str(config), *self._arguments.get(service, [])]
        with (self.state / f"{service}-{number}.log").open("w") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        self._processes.append((service, process))
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready"):
                if found := re.search(r"http://\S+", line):
                    self.url = found.group()
                return
        raise AssertionError(f"{service} did not start: see its log in {self.state}")

    def cpu(self) -> dict[str, float]:
        """CPU seconds of each part, whatever processes it has."""
        spent: dict[str, float] = {}
        for service, process in self._processes:
            spent[service] = spent.get(service, 0.0) + family_cpu_seconds(process.pid)
        spent["RabbitMQ"] = family_cpu_seconds(self._rabbit.pid)
        spent["PostgreSQL"] = family_cpu_seconds(self._postgresql.pid)
        return spent

    def stop(self) -> None:
        for _, process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for _, process in self._processes:
            process.communicate(timeout=60)


def cluster() -> list[Figure]:
    """1,000 servers over 100 hosts at concurrency 32, then their deletes; before that one at a time."""
    if not installed() or shutil.which("psql") is None:
        return []
    with running_cluster() as running:
        image = running.image(b"\0" * 65536)
        warm = load(running, "create", image=image, flavor=FLAVOR, count=100, threads=8)
        load(running, "delete", ids=warm["ids"], threads=8)
        one = load(running, "sequential", image=image, flavor=FLAVOR, count=100)
        load(running, "delete", ids=one["ids"], threads=8)
        before = running.cpu()
        made = load(running, "create", image=image, flavor=FLAVOR, count=SERVERS, threads=_AT_ONCE)
        between = running.cpu()
        gone = load(running, "delete", ids=made["ids"], threads=_AT_ONCE)
        after = running.cpu()
        wrong = running.unexplained()
        assert (made["active"], wrong) == (SERVERS, [])
    spent = {part: (after[part] - before[part]) / SERVERS * 1000 for part in after}
    created = sum(between[part] - before[part] for part in between) / SERVERS * 1000
    note = ", ".join(f"{part} {value:.1f}" for part, value in spent.items())
    what = f"{SERVERS} servers, {HOSTS} hosts, RabbitMQ, PostgreSQL"
    rate = SERVERS / made["wall"]
    return [
        Figure(f"{what}: first POST → last ACTIVE", rate, "/s", at_least=100, nova="0.8 to 1.3"),
        Figure("… their deletes", SERVERS / gone["wall"], "/s"),
        Figure(
            "… POST → ACTIVE, one at a time, p50", p50(one["active"]), "ms", at_most=60, nova="853 to 1,400"
        ),
        Figure("… CPU of all per server created", created, "ms"),
        Figure(
            "… CPU of all per server created and deleted",
            sum(spent.values()),
            "ms",
            at_most=60,
            note=note,
            nova="1,900",
        ),
    ]


@contextmanager
def running_cluster(hosts: int = HOSTS) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="kilonova-cluster-") as folder:
        rabbit, postgresql = Rabbit(Path(folder) / "rabbit"), PostgreSQL()
        running = Cluster(Path(folder) / "state", rabbit, postgresql, hosts)
        try:
            rabbit.start()
            postgresql.start()
            yield running.start()
        finally:
            running.stop()
            rabbit.stop()
            postgresql.remove()


def family_cpu_seconds(pid: int) -> float:
    """User and system time of a process and of all its children, those that ended included."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        own = int(stat.parent.name)
        children.setdefault(int(fields[1]), []).append(own)
        ticks[own] = sum(int(value) for value in fields[11:15])
    family, found = [pid], 0
    while family:
        one = family.pop()
        found += ticks.get(one, 0)
        family += children.get(one, [])
    return found / os.sysconf("SC_CLK_TCK")
