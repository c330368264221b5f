"""ComputeFilter: the host's agent is alive and enabled."""

from __future__ import annotations

from kilonova.domain.messages import SelectDestinations
from kilonova.scheduler.hosts import HostState
from kilonova.scheduler.rules import Filter, Hosts


def _passing(_request: SelectDestinations, hosts: Hosts) -> list[HostState]:
    return [host for host in hosts if host.enabled and host.up]


COMPUTE = Filter("ComputeFilter", _passing, needed=lambda _request: "a compute that is up and enabled")
