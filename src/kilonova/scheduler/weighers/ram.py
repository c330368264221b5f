"""RAMWeigher: prefers the most free memory."""

from __future__ import annotations

from kilonova.scheduler.rules import Hosts, Weigher


def _weigh(hosts: Hosts) -> list[float]:
    return [host.free_memory_mb for host in hosts]


RAM = Weigher("RAMWeigher", _weigh, multiplier=1.0)
