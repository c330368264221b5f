"""AvailabilityZoneFilter: the host is in the zone that the user asked for, if one was."""

from __future__ import annotations

from kilonova.domain.messages import SelectDestinations
from kilonova.scheduler.hosts import HostState
from kilonova.scheduler.rules import Filter, Hosts


def _passing(request: SelectDestinations, hosts: Hosts) -> list[HostState]:
    zone = request.spec.availability_zone
    return list(hosts) if zone is None else [host for host in hosts if host.availability_zone == zone]


AVAILABILITY_ZONE = Filter(
    "AvailabilityZoneFilter",
    _passing,
    needed=lambda request: f"zone {request.spec.availability_zone}",
    found=lambda hosts: "zones " + ", ".join(sorted({host.availability_zone for host in hosts})),
)
