"""What must be true of a cluster at rest, by the database and by the hosts."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable

from crash.cluster import Cluster

_NAMES_A_STEP = re.compile(
    r"\b[a-z_]+ failed: "
    r"|No valid host"  # select_destinations, with how many hosts each rule turned away
    r"|: the last step was \w+|: no step had begun"
)


def disagreements(cluster: Cluster) -> list[str]:
    """What cannot be, or is not at its end; empty when all is well."""
    return [*cluster.unexplained(), *_on_hosts(cluster), *_faults(cluster)]


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
