"""What needs no real guest: the API, the scheduler, and the process at rest, over the fake driver."""

from __future__ import annotations

import random
import time
from collections import Counter

from bench.cloud import FLAVOR, cloud, cpu_seconds, idle_mib, load, start_again
from bench.figure import Figure
from bench.load import p50
from kilonova.domain.hosts import Capacity
from kilonova.domain.messages import SelectDestinations
from kilonova.domain.servers import BuildSpec, Flavor
from kilonova.scheduler import filters, weighers
from kilonova.scheduler.decide import decide
from kilonova.scheduler.hosts import HostState

_IMAGE = b"\0" * 65536


def one_at_a_time() -> list[Figure]:
    with cloud() as up:
        image = up.image(_IMAGE)
        load(up, "sequential", image=image, flavor=FLAVOR, count=20)  # warm
        told = load(up, "sequential", image=image, flavor=FLAVOR, count=100)
    return [
        Figure("POST /servers answered, p50", p50(told["post"]), "ms", at_most=8),
        Figure("POST → ACTIVE, one at a time, p50", p50(told["active"]), "ms", at_most=25),
    ]


def many_at_once() -> list[Figure]:
    with cloud() as up:
        image = up.image(_IMAGE)
        warm = load(up, "create", image=image, flavor=FLAVOR, count=50, threads=8)
        load(up, "delete", ids=warm["ids"], threads=8)
        before = cpu_seconds(up.pid)
        told = load(up, "create", image=image, flavor=FLAVOR, count=500, threads=32)
        gone = load(up, "delete", ids=told["ids"], threads=32)
        spent = cpu_seconds(up.pid) - before
    return [
        Figure("500 servers, 32 at once, first POST → last ACTIVE", 500 / told["wall"], "/s", at_least=100),
        Figure("500 deletes, 32 at once", 500 / gone["wall"], "/s"),
        Figure("CPU per server created and deleted", spent / 500 * 1000, "ms", at_most=20),
    ]


def spread() -> list[Figure]:
    with cloud() as up:
        image = up.image(_IMAGE)
        load(up, "create", image=image, flavor=FLAVOR, count=100, threads=8)
        _, answer = up.ask("GET", "/compute/v2.1/servers/detail?limit=1000")
    hosts = Counter(server["OS-EXT-SRV-ATTR:host"] for server in answer["servers"])
    worst = max(hosts.values())
    counts = "/".join(str(n) for n in sorted(hosts.values(), reverse=True))
    return [Figure("100 creates on ten equal hosts: most on one", worst, "servers", at_most=20, note=counts)]


def lists() -> list[Figure]:
    """Reads with 500 servers present (as the figures of Nova that we compare with), then with 1,000.

    The time is the client's, until it has decoded the answer.
    """
    path = "/compute/v2.1/servers/detail?limit=1000"
    with cloud() as up:
        image = up.image(_IMAGE)
        load(up, "create", image=image, flavor=FLAVOR, count=500, threads=32)
        all_500 = load(up, "read", path=path, count=30)
        page = load(up, "read", path="/compute/v2.1/servers/detail?limit=100", count=40)
        _, answer = up.ask("GET", path)
        one = load(up, "read", path=f"/compute/v2.1/servers/{answer['servers'][0]['id']}", count=200)
        load(up, "create", image=image, flavor=FLAVOR, count=500, threads=32)
        all_1000 = load(up, "read", path=path, count=30)
    return [
        Figure("GET /servers/detail?limit=1000, 500 returned, p50", p50(all_500["times"]), "ms"),
        Figure(
            "GET /servers/detail?limit=1000, 1000 returned, p50", p50(all_1000["times"]), "ms", at_most=50
        ),
        Figure("GET /servers/detail?limit=100, p50", p50(page["times"]), "ms"),
        Figure("GET /servers/{id}, p50", p50(one["times"]), "ms"),
    ]


def decision() -> list[Figure]:
    """select_destinations' own work: the filters and weighers over hosts in memory, then the claim apart."""
    hosts = [
        HostState(
            host=f"host-{number}",
            availability_zone="nova",
            up=True,
            enabled=True,
            free_vcpus=random.randint(0, 64),
            free_memory_mb=random.randint(0, 65536),
            free_disk_gb=random.randint(0, 1000),
            limit=Capacity(vcpus=64, memory_mb=65536, disk_gb=1000),
            hypervisor_type="QEMU",
            virt_type="kvm",
            architectures=frozenset({"x86_64"}),
            servers=0,
            failed_builds=0,
            generation=1,
            io_ops=random.randint(0, 8),
        )
        for number in range(1000)
    ]
    flavor = Flavor(id="1", name="f", vcpus=1, memory_mb=512, root_gb=1)
    spec = BuildSpec(
        server_id="s", name="s", hostname="s", project_id="p", user_id="u", flavor=flavor, image=None
    )
    request = SelectDestinations(operation_id="o", epoch=1, spec=spec)
    times = []
    for _ in range(200):
        began = time.perf_counter()
        decide(request, hosts, filters.BUILT_IN, weighers.BUILT_IN, {})
        times.append(time.perf_counter() - began)
    return [Figure("one decision at 1,000 hosts, p50", p50(times), "ms", at_most=2)]


def at_rest() -> list[Figure]:
    with cloud(hosts=1) as up:
        up.image(_IMAGE)
        again = start_again(up)
        memory = idle_mib(up)
    return [
        Figure("kilonova up ready, second start, fake driver", again, "s", at_most=2),
        Figure("memory after that start, idle, fake driver (PSS)", memory, "MiB", at_most=120),
    ]
