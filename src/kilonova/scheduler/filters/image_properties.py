"""ImagePropertiesFilter: the architecture and hypervisor that the image asks for.

Source: Glance's useful image properties ``hw_architecture``/``architecture`` and ``img_hv_type``/
``hypervisor_type`` (https://docs.openstack.org/glance/latest/admin/useful-image-properties.html).
"""

from __future__ import annotations

from kilonova.domain.messages import SelectDestinations
from kilonova.scheduler.hosts import HostState
from kilonova.scheduler.rules import Filter, Hosts


def _passing(request: SelectDestinations, hosts: Hosts) -> list[HostState]:
    architecture, hypervisor = _wanted(request)
    if architecture:
        hosts = [host for host in hosts if architecture in host.architectures]
    if hypervisor:
        hosts = [host for host in hosts if hypervisor in _names(host)]
    return list(hosts)


def _wanted(request: SelectDestinations) -> tuple[str, str]:
    properties = request.spec.properties
    architecture = properties.get("hw_architecture") or properties.get("architecture") or ""
    hypervisor = properties.get("img_hv_type") or properties.get("hypervisor_type") or ""
    return architecture, hypervisor.lower()


def _names(host: HostState) -> set[str]:
    return {host.hypervisor_type.lower(), host.virt_type.lower()}


IMAGE_PROPERTIES = Filter(
    "ImagePropertiesFilter",
    _passing,
    needed=lambda request: " ".join(filter(None, _wanted(request))),
    found=lambda hosts: ", ".join(
        sorted({name for host in hosts for name in _names(host) | host.architectures})
    ),
)
