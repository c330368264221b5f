"""How long builds stand still when the conductor that owns them is killed in their midst (kill -9)."""

from __future__ import annotations

import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.postgresql import PostgreSQL
from tests.rabbit import Rabbit, installed
from tests.services import Services

from bench.figure import Figure

_LEASE = 10.0
"""Seconds. It is 30 by default: only the lease's part of the figure grows with it."""
_SERVERS = 40
_DIES = """
[faults]
kill_at = "build.select_destinations.before"
kill_at_visit = 10
"""
"""It has taken the operations of some builds, and will never say another word."""


def recovery() -> list[Figure]:
    if not installed() or shutil.which("psql") is None:
        return []
    return [
        _measure("another conductor goes on", "conductor-2"),
        _measure("it is started again", "conductor"),
    ]


def _measure(what: str, survivor: str) -> Figure:
    with tempfile.TemporaryDirectory(prefix="kilonova-bench-") as folder:
        rabbit, postgresql = Rabbit(Path(folder) / "rabbit"), PostgreSQL()
        rabbit.start()
        services = Services(
            Path(folder) / "state", rabbit.url, "kilonova", database_url=postgresql.start().url()
        )
        try:
            taken = _from_kill_to_last_active(services, survivor)
        finally:
            services.close()
            rabbit.stop()
            postgresql.remove()
    return Figure(
        f"a conductor is killed in mid-build, {what}: to the last ACTIVE",
        taken,
        "s",
        at_most=_LEASE + 2,
        note=f"lease {_LEASE:g} s",
    )


def _from_kill_to_last_active(services: Services, survivor: str) -> float:
    """Seconds, by the time at which the last server became ACTIVE as the records have it."""
    plain = services.config.read_text().replace("lease = 3.0", f"lease = {_LEASE}")
    plain = plain.replace("sweep_interval = 0.5", "sweep_interval = 5.0")
    services.config.write_text(plain + _DIES)
    services.begin("conductor")
    services.wait_ready("conductor")
    services.config.write_text(plain)
    for name in ("api", "scheduler", "compute"):
        services.start(name)
    if survivor != "conductor":
        services.start(survivor)
    image = services.image(b"\0" * 65536)
    with ThreadPoolExecutor(8) as pool:
        posted = pool.map(lambda _: services.post_server(image), range(_SERVERS))
        services.wait("conductor")
        killed = time.time()
        if survivor == "conductor":
            services.start("conductor")
        servers = [answer["server"]["id"] for _, answer in posted]
    for server in servers:
        assert services.settled(server)["status"] == "ACTIVE"
    assert services.unexplained() == []
    with services.database() as db:
        (last,) = db.execute("SELECT max(launched_at) FROM servers").fetchone()
    return float(last) - killed
