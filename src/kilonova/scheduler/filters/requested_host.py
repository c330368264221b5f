"""RequestedHostFilter: the host that the admin named, if one was."""

from __future__ import annotations

from kilonova.domain.messages import SelectDestinations
from kilonova.scheduler.hosts import HostState
from kilonova.scheduler.rules import Filter, Hosts


def _passing(request: SelectDestinations, hosts: Hosts) -> list[HostState]:
    wanted = request.spec.host
    return list(hosts) if wanted is None else [host for host in hosts if host.host == wanted]


REQUESTED_HOST = Filter("RequestedHostFilter", _passing, needed=lambda _request: "the requested host")
