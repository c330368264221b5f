"""RamFilter: enough MiB of memory is free, after the allocation ratio."""

from __future__ import annotations

from kilonova.domain.messages import SelectDestinations
from kilonova.scheduler.hosts import HostState
from kilonova.scheduler.rules import Filter, Hosts, need_of


def _passing(request: SelectDestinations, hosts: Hosts) -> list[HostState]:
    need = need_of(request.spec).memory_mb
    return [host for host in hosts if host.free_memory_mb >= need]


RAM = Filter(
    "RamFilter",
    _passing,
    needed=lambda request: f"{need_of(request.spec).memory_mb} MiB of memory",
    found=lambda hosts: f"at most {max(0, *(host.free_memory_mb for host in hosts))} MiB of memory free",
)
