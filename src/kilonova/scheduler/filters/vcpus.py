"""CoreFilter: enough vCPUs are free, after the allocation ratio."""

from __future__ import annotations

from kilonova.domain.messages import SelectDestinations
from kilonova.scheduler.hosts import HostState
from kilonova.scheduler.rules import Filter, Hosts, need_of


def _passing(request: SelectDestinations, hosts: Hosts) -> list[HostState]:
    need = need_of(request.spec).vcpus
    return [host for host in hosts if host.free_vcpus >= need]


VCPUS = Filter(
    "CoreFilter",
    _passing,
    needed=lambda request: f"{need_of(request.spec).vcpus} vCPUs",
    found=lambda hosts: f"at most {max(0, *(host.free_vcpus for host in hosts))} vCPUs free",
)
