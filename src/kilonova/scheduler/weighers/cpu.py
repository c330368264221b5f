"""CPUWeigher: prefers the most free vCPUs."""

from __future__ import annotations

from kilonova.scheduler.rules import Hosts, Weigher


def _weigh(hosts: Hosts) -> list[float]:
    return [host.free_vcpus for host in hosts]


CPU = Weigher("CPUWeigher", _weigh, multiplier=1.0)
