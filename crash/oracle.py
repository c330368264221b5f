"""What must be true of a cluster at rest, by the database and by the hosts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from crash import volume_oracle
from crash.cluster import Cluster
from kilonova.cli.orphans import listed
from kilonova.domain.network import tap_name

_NAMES_A_STEP = re.compile(
    r"\b[a-z_]+ failed: "
    r"|No valid host"  # select_destinations, with how many hosts each rule turned away
    r"|: the last step was \w+|: no step had begun"
)


def disagreements(cluster: Cluster) -> list[str]:
    """What cannot be, or is not at its end; empty when all is well."""
    found = [*cluster.unexplained(), *_on_hosts(cluster), *_nics(cluster), *_faults(cluster)]
    return found + volume_oracle.disagreements(cluster) or unowned(cluster)


def settle(cluster: Cluster, timeout: float, going_on: Callable[[], object] = lambda: None) -> float:
    """Wait until all is well: the seconds that it took. AssertionError lists what is not, in the end."""
    began = time.monotonic()
    found = ["nothing was looked at"]
    while time.monotonic() - began < timeout:
        going_on()
        if not (found := disagreements(cluster)):
            return time.monotonic() - began
        time.sleep(0.2)
    raise AssertionError(f"after {timeout:g} s: " + "; ".join(found))


def unowned(cluster: Cluster) -> list[str]:
    """As orphans(), without a process of its own: it is asked after every kill."""
    return [f"without an owner: {one}" for one in listed(cluster.state, _configuration(cluster))]


def orphans(cluster: Cluster) -> list[str]:
    """What `kilonova doctor --orphans` says that nobody owns, or that it could not look at."""
    asked = ["--orphans", "--state", str(cluster.state), "--config", str(_configuration(cluster))]
    command = [sys.executable, "-c", "from kilonova.cli import main; main()", "doctor", *asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return [] if done.returncode == 0 else (done.stdout + done.stderr).splitlines()


def _configuration(cluster: Cluster) -> Path:
    """Of who works with the volumes' bytes."""
    return next(one.config for one in cluster.services.values() if one.kind == "volume")


def statuses(cluster: Cluster) -> Counter[str]:
    with cluster.database() as db:
        rows = db.execute("SELECT vm_state FROM servers WHERE deleted_at IS NULL").fetchall()
        deleted = db.execute("SELECT count(*) FROM servers WHERE deleted_at IS NOT NULL").fetchone()
    return Counter(row[0] for row in rows) + Counter(deleted=deleted[0])


def _on_hosts(cluster: Cluster) -> list[str]:
    """Each server has its things where it is placed, and nowhere else. What failed may have lost them."""
    with cluster.database() as db:
        query = "SELECT id, host, vm_state FROM servers WHERE deleted_at IS NULL AND host IS NOT NULL"
        rows = db.execute(query).fetchall()
    placed = {(host, server) for server, host, _ in rows}
    failed = {(host, server) for server, host, vm_state in rows if vm_state == "error"}
    there = {(host, server) for host, servers in cluster.on_hosts().items() for server in servers}
    return [f"{server} is left on {host}" for host, server in sorted(there - placed)] + [
        f"{server} is not on {host}" for host, server in sorted(placed - failed - there)
    ]


def _nics(cluster: Cluster) -> list[str]:
    """Each guest has the NICs of its server's record, and those are its ports."""
    with cluster.database() as db:
        query = "SELECT id, host, vifs FROM servers WHERE deleted_at IS NULL AND vm_state = 'active'"
        rows = db.execute(query).fetchall()
        ports = db.execute("SELECT device_id, id FROM ports WHERE nic IS NOT NULL").fetchall()
    wrong = []
    for server, host, vifs in rows:
        recorded = {vif["port_id"]: vif["admin_state_up"] for vif in json.loads(vifs)}
        if recorded.keys() != {port for owner, port in ports if owner == server}:
            wrong.append(f"the record of {server} has other NICs than its ports")
        if {tap_name(port): up for port, up in recorded.items()} != cluster.nics(host, server):
            wrong.append(f"the guest of {server} has other NICs than its record")
    return wrong


def _faults(cluster: Cluster) -> list[str]:
    """A fault names the step that failed."""
    with cluster.database() as db:
        query = "SELECT id, fault FROM servers WHERE deleted_at IS NULL AND vm_state = 'error'"
        rows = db.execute(query).fetchall()
    return [
        f"the fault of {server} names no step: {fault}"
        for server, fault in rows
        if not _NAMES_A_STEP.search(str(fault))
    ]
