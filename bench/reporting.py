"""What a thousand hosts at rest cost: their reports at the real interval, over RabbitMQ into PostgreSQL."""

from __future__ import annotations

import shutil
import time

from tests.rabbit import installed

from bench.cluster import running_cluster
from bench.figure import Figure

_HOSTS = 1000
_SETTLE, _SECONDS = 15.0, 40.0
"""Seconds: past what a start does once (each host's first report), then what is measured."""


def reporting() -> list[Figure]:
    """The hosts share one process: its CPU is what a thousand machines spend together, each its own."""
    if not installed() or shutil.which("psql") is None:
        return []
    with running_cluster(_HOSTS) as running:
        time.sleep(_SETTLE)  # a look at what goes on by itself, not a wait for anything
        before, began = running.cpu(), time.monotonic()
        time.sleep(_SECONDS)
        after, took = running.cpu(), time.monotonic() - began
        with running.database() as db:
            (heard,) = db.execute(
                "SELECT count(*) FROM services WHERE \"binary\" = 'nova-compute' AND last_seen >= %s",
                [time.time() - 12],
            ).fetchone()
        assert heard == _HOSTS, f"{heard} hosts were heard of"
    share = {part: (after[part] - before[part]) / took * 100 for part in after}
    hosts = share.pop("compute")
    note = ", ".join(f"{part} {value:.1f}" for part, value in share.items())
    what = f"{_HOSTS} hosts reporting each 10 s, RabbitMQ, PostgreSQL"
    return [
        Figure(f"{what}: CPU of all services", sum(share.values()), "% of a core", at_most=10, note=note),
        Figure("… CPU of a host", hosts / _HOSTS, "% of a core"),
    ]
