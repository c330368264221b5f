"""Each filter and weigher, the order that they make, and what "No valid host" says. Pure: no database."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from kilonova.domain.errors import NoValidHost
from kilonova.domain.hosts import Capacity
from kilonova.domain.messages import SelectDestinations
from kilonova.domain.servers import BuildSpec, Flavor, ImageRef
from kilonova.scheduler import filters, weighers
from kilonova.scheduler.decide import decide
from kilonova.scheduler.hosts import HostState
from kilonova.scheduler.rules import Filter, Weigher, need_of

FLAVOR = Flavor(id="1", name="m1", vcpus=2, memory_mb=1024, root_gb=10)


def host(name: str = "node-1", **more: Any) -> HostState:
    values: dict[str, Any] = {
        "host": name,
        "availability_zone": "nova",
        "up": True,
        "enabled": True,
        "free_vcpus": 8,
        "free_memory_mb": 8192,
        "free_disk_gb": 100,
        "limit": Capacity(vcpus=8, memory_mb=8192, disk_gb=100),
        "hypervisor_type": "QEMU",
        "virt_type": "kvm",
        "architectures": frozenset({"x86_64"}),
        "servers": 0,
        "failed_builds": 0,
        "generation": 1,
    }
    return HostState(**(values | more))


def request(exclude: list[str] | None = None, **more: Any) -> SelectDestinations:
    spec = BuildSpec(
        server_id=str(uuid.uuid4()),
        name="vm",
        hostname="vm",
        project_id="p",
        user_id="u",
        flavor=FLAVOR,
        image=None,
    )
    return SelectDestinations(
        operation_id="o", epoch=1, spec=structs.replace(spec, **more), exclude=exclude or []
    )


def with_specs(**specs: str) -> Flavor:
    return structs.replace(
        FLAVOR, extra_specs={name.replace("__", ":"): value for name, value in specs.items()}
    )


def image(**properties: str) -> ImageRef:
    return ImageRef(id="i", disk_format="raw", size=1, properties=properties)


def passes(asked: SelectDestinations, *hosts: HostState) -> list[str]:
    return [found.host for found in decide(asked, hosts, filters.BUILT_IN, weighers.BUILT_IN, {})]


def refusal(asked: SelectDestinations, *hosts: HostState, rules: Any = None) -> NoValidHost:
    with pytest.raises(NoValidHost) as caught:
        decide(asked, hosts, rules or filters.BUILT_IN, weighers.BUILT_IN, {})
    return caught.value


# --- filters: what is asked, a host that does it, one that does not


@pytest.mark.parametrize(
    ("name", "asked", "bad"),
    [
        ("ComputeFilter", request(), {"up": False}),
        ("ComputeFilter", request(), {"enabled": False}),
        ("RequestedHostFilter", request(host="good"), {}),
        ("RetryFilter", request(exclude=["bad"]), {}),
        ("AvailabilityZoneFilter", request(availability_zone="nova"), {"availability_zone": "other"}),
        ("CoreFilter", request(), {"free_vcpus": 1}),
        ("RamFilter", request(), {"free_memory_mb": 1023}),
        ("DiskFilter", request(), {"free_disk_gb": 9}),
        ("CoreFilter", request(), {"free_vcpus": -4}),
        (
            "ComputeCapabilitiesFilter",
            request(flavor=with_specs(capabilities__hypervisor_type="QEMU")),
            {"hypervisor_type": "fake"},
        ),
        (
            "ImagePropertiesFilter",
            request(image=image(hw_architecture="x86_64")),
            {"architectures": frozenset({"aarch64"})},
        ),
        (
            "ImagePropertiesFilter",
            request(image=image(architecture="x86_64")),
            {"architectures": frozenset({"aarch64"})},
        ),
        ("ImagePropertiesFilter", request(image=image(img_hv_type="KVM")), {"virt_type": "qemu"}),
        ("ImagePropertiesFilter", request(image=image(hypervisor_type="qemu")), {"hypervisor_type": "fake"}),
    ],
)
def test_a_filter_turns_away_who_does_not_fit(name: str, asked: SelectDestinations, bad: Any) -> None:
    good, other = host("good"), host("bad", **bad)
    assert passes(asked, good, other) == ["good"]
    details = refusal(asked, other).details
    assert [reason["filter"] for reason in details["filters"]] == [name]


def test_who_asks_nothing_special_passes_everywhere() -> None:
    zones = [host("a", availability_zone="one"), host("b", availability_zone="two", virt_type="qemu")]
    assert set(passes(request(), *zones)) == {"a", "b"}


def test_exactly_what_is_free_is_enough() -> None:
    assert passes(request(), host(free_vcpus=2, free_memory_mb=1024, free_disk_gb=10)) == ["node-1"]


def test_ephemeral_and_swap_are_disk_swap_rounded_up() -> None:
    flavor = structs.replace(FLAVOR, ephemeral_gb=5, swap_mb=1025)
    assert need_of(request(flavor=flavor).spec) == Capacity(vcpus=2, memory_mb=1024, disk_gb=17)
    assert passes(request(flavor=flavor), host("a", free_disk_gb=16), host("b", free_disk_gb=17)) == ["b"]


def test_a_capability_that_no_host_knows_passes_nowhere() -> None:
    error = refusal(request(flavor=with_specs(capabilities__cpu_info__topology="x")), host())
    assert error.details["filters"][0]["filter"] == "ComputeCapabilitiesFilter"


def test_extra_specs_of_other_scopes_are_not_the_schedulers() -> None:
    assert passes(request(flavor=with_specs(hw__cpu_policy="shared", quota__cpu_shares="1")), host())


# --- "No valid host"


def test_it_counts_what_each_rule_turned_away_and_names_no_host() -> None:
    hosts = [
        host("secret-1", up=False),
        host("secret-2", free_vcpus=1),
        host("secret-3", free_memory_mb=100),
        host("secret-4", free_memory_mb=900),
    ]
    error = refusal(request(), *hosts)
    assert error.message == (
        "No valid host was found. Of 4 hosts: "
        "ComputeFilter turned away 1, needed a compute that is up and enabled; "
        "CoreFilter turned away 1, needed 2 vCPUs, found at most 8 vCPUs free; "
        "RamFilter turned away 2, needed 1024 MiB of memory, found at most 900 MiB of memory free."
    )
    assert "secret" not in error.message
    assert [reason["hosts"] for reason in error.details["filters"]] == [
        ["secret-1"],
        ["secret-2"],
        ["secret-3", "secret-4"],
    ]
    assert error.details["hosts"] == 4


def test_it_says_what_zones_there_are() -> None:
    message = refusal(request(availability_zone="moon"), host(), host("b", availability_zone="two")).message
    assert "AvailabilityZoneFilter turned away 2, needed zone moon, found zones nova, two" in message


def test_it_says_what_an_image_needs() -> None:
    message = refusal(request(image=image(hw_architecture="s390x")), host()).message
    assert "needed s390x" in message
    assert "x86_64" in message


def test_it_never_offers_less_than_nothing() -> None:
    """A ratio that was lowered makes what is free negative."""
    message = refusal(request(), host(free_vcpus=-3)).message
    assert "found at most 0 vCPUs free" in message


def test_without_hosts_it_says_so() -> None:
    error = refusal(request())
    assert error.message == "No valid host was found. There are no compute hosts."


def test_the_details_name_only_some_of_very_many_hosts() -> None:
    error = refusal(request(), *[host(f"h{number}", up=False) for number in range(500)])
    assert "turned away 500" in error.message
    assert len(error.details["filters"][0]["hosts"]) == 20


def test_without_filters_every_host_passes() -> None:
    assert decide(request(), [host(up=False)], [], [], {})


# --- weighers


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"free_memory_mb": 8192}, {"free_memory_mb": 4096}),
        ({"free_vcpus": 8}, {"free_vcpus": 4}),
        ({"free_disk_gb": 100}, {"free_disk_gb": 50}),
        ({"io_ops": 0}, {"io_ops": 3}),
        ({"failed_builds": 0}, {"failed_builds": 1}),
        # One failed build weighs more than all that could speak for a host.
        (
            {"failed_builds": 0, "free_vcpus": 2, "free_memory_mb": 1024, "free_disk_gb": 10},
            {"failed_builds": 1},
        ),
    ],
)
def test_the_better_host_comes_first(better: Any, worse: Any) -> None:
    for _ in range(5):
        assert passes(request(), host("worse", **worse), host("better", **better)) == ["better", "worse"]


def test_multipliers_are_configured_by_name() -> None:
    hosts = [host("empty"), host("full", free_memory_mb=2048)]
    order = decide(request(), hosts, filters.BUILT_IN, weighers.BUILT_IN, {"RAMWeigher": -1.0})
    assert [found.host for found in order] == ["full", "empty"]
    for _ in range(5):
        zero = decide(
            request(),
            [*hosts, host("cpu", free_vcpus=9)],
            filters.BUILT_IN,
            weighers.BUILT_IN,
            {"RAMWeigher": 0},
        )
        assert zero[0].host == "cpu"


def test_equal_hosts_come_first_equally_often() -> None:
    """Several schedulers with the same view must not all choose the same host."""
    random.seed(7)
    hosts = [host(f"h{number}") for number in range(10)]
    first = Counter(
        decide(request(), hosts, filters.BUILT_IN, weighers.BUILT_IN, {})[0].host for _ in range(1000)
    )
    assert len(first) == 10
    assert max(first.values()) < 200


def test_deciding_changes_nothing_of_what_was_given() -> None:
    hosts = [host("a"), host("b", up=False), host("c", free_vcpus=4)]
    before = [found.host for found in hosts]
    decide(request(), hosts, filters.BUILT_IN, weighers.BUILT_IN, {})
    assert [found.host for found in hosts] == before


@given(
    st.lists(
        st.builds(
            host,
            name=st.uuids().map(str),
            free_vcpus=st.integers(-8, 16),
            free_memory_mb=st.integers(-1024, 4096),
            free_disk_gb=st.integers(-10, 40),
            io_ops=st.integers(0, 5),
            failed_builds=st.integers(0, 3),
            up=st.booleans(),
            enabled=st.booleans(),
        ),
        max_size=12,
    )
)
def test_only_who_fits_is_chosen_and_everyone_who_fits(hosts: list[HostState]) -> None:
    fit = {
        found.host
        for found in hosts
        if found.up
        and found.enabled
        and found.free_vcpus >= 2
        and found.free_memory_mb >= 1024
        and found.free_disk_gb >= 10
    }
    if not fit:
        error = refusal(request(), *hosts)
        turned_away = sum(reason["turned_away"] for reason in error.details.get("filters", []))
        assert turned_away == len(hosts)
        assert not any(found.host in error.message for found in hosts)
        return
    chosen = decide(request(), hosts, filters.BUILT_IN, weighers.BUILT_IN, {})
    assert {found.host for found in chosen} == fit
    assert len(chosen) == len(fit)
    failures = [found.failed_builds for found in chosen]
    assert failures == sorted(failures)


def test_names_are_unique_and_novas() -> None:
    rules: list[Filter | Weigher] = [*filters.BUILT_IN, *weighers.BUILT_IN]
    names = [rule.name for rule in rules]
    assert len(set(names)) == len(names)
    assert all(name.endswith(("Filter", "Weigher")) for name in names)


@pytest.mark.parametrize(
    ("demand", "passes"),
    [
        ("true", ["a"]),
        ("*", ["a", "b"]),
        ("s== 12", ["b"]),
        ("<or> 12 <or> true", ["a", "b"]),
        (">= 3", ["b"]),
        ("<= 3", []),
        ("= 12", ["b"]),
        ("<in> ru", ["a"]),
        ("other", []),
    ],
)
def test_aggregates_as_flavors_demand_them(demand: str, passes: list[str]) -> None:
    (rule,) = [rule for rule in filters.BUILT_IN if rule.name == "AggregateInstanceExtraSpecsFilter"]
    hosts = [
        host("a", aggregate_metadata={"k": ["false", "true"]}),
        host("b", aggregate_metadata={"k": ["12"]}),
        host("c"),
    ]
    specs = {"aggregate_instance_extra_specs:k": demand, "k": "of no scope"}
    asked = request(flavor=structs.replace(FLAVOR, extra_specs=specs))
    assert [one.host for one in rule.passing(asked, hosts)] == passes
    assert rule.passing(request(), hosts) == hosts
