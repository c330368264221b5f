"""A cloud to measure: `kilonova up` in a folder of its own, the load beside it, CPU and memory of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.running import Client, Up, until

NO_LIMIT = "[quota]\ninstances = -1\ncores = -1\nram = -1\n"
FLAVOR = "42"  # m1.nano


@contextmanager
def cloud(driver: str = "fake", hosts: int = 10, config: str = NO_LIMIT) -> Iterator[Up]:
    with tempfile.TemporaryDirectory(prefix="kilonova-bench-") as folder:
        Path(folder).chmod(0o711)  # or guests would run as root, as those of an operator do not
        up = Up(Path(folder) / "state", driver, hosts).start(config)
        try:
            yield up
        finally:
            try:
                if driver == "libvirt":
                    _delete_all(up)  # guests outlive the process, also after a measure that failed
            finally:
                up.stop()


def _delete_all(up: Up) -> None:
    servers = "/compute/v2.1/servers"
    for server in up.ask("GET", servers)[1]["servers"]:
        up.ask("DELETE", f"{servers}/{server['id']}")
    until(lambda: not up.ask("GET", servers)[1]["servers"], 60, "the servers to go")


def load(up: Client, what: str, **order: Any) -> Any:
    """Run bench.load against it."""
    text = json.dumps({"url": up.url, "token": up.token(), "what": what, **order})
    command = [sys.executable, "-m", "bench.load", text]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout)


def cpu_seconds(pid: int) -> float:
    """User and system time of the process and its ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(value) for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def pss_mib(pid: int) -> float:
    """Proportional set size of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def idle_mib(up: Up) -> float:
    """Its memory (PSS) when nothing was asked of it for some seconds."""
    time.sleep(3)  # a look at the idle process, not a wait for anything
    return pss_mib(up.pid)


def start_again(up: Up) -> float:
    """Stop it, and start it on the same state: seconds from exec to its line ``ready``."""
    up.stop()
    began = time.perf_counter()
    up.start(NO_LIMIT)
    return time.perf_counter() - began
