"""DiskWeigher: prefers the most free disk."""

from __future__ import annotations

from kilonova.scheduler.rules import Hosts, Weigher


def _weigh(hosts: Hosts) -> list[float]:
    return [host.free_disk_gb for host in hosts]


DISK = Weigher("DiskWeigher", _weigh, multiplier=1.0)
