"""DiskFilter: enough GiB of disk is free, after the allocation ratio."""

from __future__ import annotations

from kilonova.domain.messages import SelectDestinations
from kilonova.scheduler.hosts import HostState
from kilonova.scheduler.rules import Filter, Hosts, need_of


def _passing(request: SelectDestinations, hosts: Hosts) -> list[HostState]:
    need = need_of(request.spec).disk_gb
    return [host for host in hosts if host.free_disk_gb >= need]


DISK = Filter(
    "DiskFilter",
    _passing,
    needed=lambda request: f"{need_of(request.spec).disk_gb} GiB of disk",
    found=lambda hosts: f"at most {max(0, *(host.free_disk_gb for host in hosts))} GiB of disk free",
)
