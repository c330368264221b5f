"""How long a host takes to enforce a change of security groups with plug ``ovs``: flows in a real switch,
in user space. The same changes as by nftables (firewall.py)."""

from __future__ import annotations

import os
import statistics
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from msgspec import structs
from tests.openvswitch import installed
from tests.plugs import config_of, host_with

from bench.figure import Figure
from bench.firewall import MEMBERS, PORTS, addresses, rule, vif_of
from kilonova.domain.network import NetworkState, PortSecurity, Vif
from kilonova.domain.security_groups import Filter
from kilonova.network.host import LinuxHost

_ROUNDS = 9
_AT_ONCE = 8
"""Ports plugged side by side, before and after."""


def flows() -> list[Figure]:
    if os.geteuid() != 0 or not installed():
        return []
    group, remote = str(uuid.uuid4()), str(uuid.uuid4())
    networks = [str(uuid.uuid4()) for _ in range(_AT_ONCE)]
    vifs = [vif_of(networks[number % _AT_ONCE], number, group) for number in range(PORTS)]
    with host_with("ovs") as (folder, switch), ThreadPoolExecutor(_AT_ONCE) as pool:
        host = LinuxHost(config_of("ovs", switch), folder / "network")
        host.start(lambda network, address: None)

        def change(ports: list[Vif], rules: list[Filter], members: list[str]) -> float:
            """Seconds from the answer to where the flows are loaded, in one bundle, and nothing passes any
            more that they do not let pass."""
            began = time.perf_counter()
            security = [
                PortSecurity(
                    port_id=one.port_id, port_security=True, security_groups=one.security_groups or []
                )
                for one in ports
            ]
            state = NetworkState(ports=security, groups={group: rules}, members={remote: members})
            host.refresh(state, time.monotonic())
            return time.perf_counter() - began

        try:
            list(pool.map(host.plug, vifs))
            change(vifs, [rule(1)], [])
            of_rule = [change(vifs, [rule(n + 2)], []) for n in range(_ROUNDS)]
            named = [rule(1), rule(2, remote)]
            of_members = [change(vifs, named, addresses(n)) for n in range(_ROUNDS)]
            other = [structs.replace(one, security_groups=[]) for one in vifs]
            of_ports = [change(vifs if n % 2 else other, named, addresses(1)) for n in range(_ROUNDS)]
        finally:
            list(pool.map(host.unplug, host.plugged()))
            host.stop()
    return [
        _figure(f"ovs: a rule changed in the group of {PORTS} ports of a host", of_rule, 200),
        _figure(f"ovs: {PORTS} ports of a host go to another group", of_ports, 200),
        _figure(f"ovs: the {MEMBERS} members of a remote group changed", of_members, 100),
    ]


def _figure(name: str, taken: list[float], at_most: int) -> Figure:
    return Figure(name, statistics.median(taken) * 1000, "ms", at_most=at_most)
