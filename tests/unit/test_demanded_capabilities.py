"""What a flavor demands of a host is met, or no host is valid: never forgotten."""

from __future__ import annotations

import pytest

from kilonova.domain.hosts import Capacity
from kilonova.domain.messages import SelectDestinations
from kilonova.domain.servers import BuildSpec, Flavor
from kilonova.scheduler.filters.capabilities import CAPABILITIES
from kilonova.scheduler.hosts import HostState

HOST = HostState(
    host="a",
    availability_zone="nova",
    up=True,
    enabled=True,
    free_vcpus=1,
    free_memory_mb=1,
    free_disk_gb=1,
    limit=Capacity(vcpus=1, memory_mb=1, disk_gb=1),
    hypervisor_type="QEMU",
    virt_type="kvm",
    architectures=frozenset({"x86_64"}),
    servers=0,
    failed_builds=0,
    generation=1,
)


@pytest.mark.parametrize(
    ("specs", "passes"),
    [
        ({}, True),
        ({"hw_rng:allowed": "true"}, True),
        ({"capabilities:virt_type": "kvm"}, True),
        ({"capabilities:virt_type": "xen"}, False),
        ({"trait:HW_CPU_X86_SGX": "required"}, False),
        ({"trait1:HW_CPU_X86_SGX": "required"}, False),
        ({"trait:HW_CPU_X86_SGX": "forbidden"}, True),
        ({"resources:VGPU": "1"}, False),
        ({"resources:VCPU": "2"}, True),
    ],
)
def test_a_demand_is_met_or_turns_the_host_away(specs: dict[str, str], passes: bool) -> None:
    flavor = Flavor(id="f", name="f", vcpus=1, memory_mb=1, root_gb=1, extra_specs=specs)
    spec = BuildSpec(
        server_id="s", name="s", hostname="s", project_id="p", user_id="u", flavor=flavor, image=None
    )
    request = SelectDestinations(operation_id="o", epoch=1, spec=spec)
    assert CAPABILITIES.passing(request, [HOST]) == ([HOST] if passes else [])
