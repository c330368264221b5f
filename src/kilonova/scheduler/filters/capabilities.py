"""ComputeCapabilitiesFilter: ``capabilities:hypervisor_type`` and the like in the flavor's extra specs.

Source: Nova's "Compute capabilities" scoped extra specs
(https://docs.openstack.org/nova/latest/configuration/extra-specs.html#capabilities). Plain equality only.
"""

from __future__ import annotations

from kilonova.domain.messages import SelectDestinations
from kilonova.scheduler.hosts import HostState
from kilonova.scheduler.rules import Filter, Hosts

_SCOPE = "capabilities:"
_KNOWN = {"hypervisor_type", "virt_type", "availability_zone"}


def _passing(request: SelectDestinations, hosts: Hosts) -> list[HostState]:
    wanted = _wanted(request)
    if not wanted:
        return list(hosts)
    if not wanted.keys() <= _KNOWN:
        return []  # no host has a capability that we do not know
    return [host for host in hosts if all(getattr(host, name) == value for name, value in wanted.items())]


def _wanted(request: SelectDestinations) -> dict[str, str]:
    specs = request.spec.flavor.extra_specs
    return {name.removeprefix(_SCOPE): value for name, value in specs.items() if name.startswith(_SCOPE)}


CAPABILITIES = Filter(
    "ComputeCapabilitiesFilter",
    _passing,
    needed=lambda request: ", ".join(f"{name}={value}" for name, value in _wanted(request).items()),
)
