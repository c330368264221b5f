"""ComputeCapabilitiesFilter: what the flavor's extra specs demand of a host.

``capabilities:hypervisor_type`` and the like by plain equality; ``trait:…=required`` and ``resources:…`` that
no host here has turn every host away, so that a demand is never silently forgotten.
Source: Nova's extra specs (https://docs.openstack.org/nova/latest/configuration/extra-specs.html).
"""

from __future__ import annotations

from kilonova.domain.messages import SelectDestinations
from kilonova.scheduler.hosts import HostState
from kilonova.scheduler.rules import Filter, Hosts

_SCOPE = "capabilities:"
_KNOWN = {"hypervisor_type", "virt_type", "availability_zone"}
_OF_THE_FLAVOR = {"resources:VCPU", "resources:MEMORY_MB", "resources:DISK_GB"}


def _passing(request: SelectDestinations, hosts: Hosts) -> list[HostState]:
    wanted = _wanted(request)
    if not wanted:
        return list(hosts)
    if not wanted.keys() <= _KNOWN:
        return []  # no host has a capability that we do not know
    return [host for host in hosts if all(getattr(host, name) == value for name, value in wanted.items())]


def _wanted(request: SelectDestinations) -> dict[str, str]:
    specs = request.spec.flavor.extra_specs
    return {name.removeprefix(_SCOPE): value for name, value in specs.items() if _demands(name, value)}


def _demands(name: str, value: str) -> bool:
    if name.startswith("trait"):
        return value == "required"
    return name.startswith(_SCOPE) or (name.startswith("resources") and name not in _OF_THE_FLAVOR)


CAPABILITIES = Filter(
    "ComputeCapabilitiesFilter",
    _passing,
    needed=lambda request: ", ".join(f"{name}={value}" for name, value in _wanted(request).items()),
)
