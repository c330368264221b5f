"""RetryFilter: not a host where this build has failed."""

from __future__ import annotations

from kilonova.domain.messages import SelectDestinations
from kilonova.scheduler.hosts import HostState
from kilonova.scheduler.rules import Filter, Hosts


def _passing(request: SelectDestinations, hosts: Hosts) -> list[HostState]:
    if not request.exclude:
        return list(hosts)
    tried = set(request.exclude)
    return [host for host in hosts if host.host not in tried]


RETRY = Filter("RetryFilter", _passing, needed=lambda _request: "a host that was not tried yet")
