"""IoOpsWeigher: prefers the fewest operations under way (a negative multiplier)."""

from __future__ import annotations

from kilonova.scheduler.rules import Hosts, Weigher


def _weigh(hosts: Hosts) -> list[float]:
    return [host.io_ops for host in hosts]


IO_OPS = Weigher("IoOpsWeigher", _weigh, multiplier=-1.0)
