"""How long a host takes to enforce a change of security groups: real nftables, in a network of its own."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from bench import connections
from bench.figure import Figure
from kilonova.config import Config
from kilonova.domain.network import NetworkState, PortSecurity, Vif, VifAddress, VifSubnet
from kilonova.domain.security_groups import IPV4, Filter

if TYPE_CHECKING:
    from kilonova.network.host.perimeter import Perimeter

PORTS, MEMBERS, _ROUNDS = 200, 500, 9
_TRACKED, _ZONE, _OTHER_ZONE = 50_000, 1, 2
_SUBNET = VifSubnet(id=str(uuid.uuid4()), cidr="10.200.0.0/16", dhcp_address="10.200.255.2")
_OUT = Filter(direction="egress", ethertype=IPV4)


def firewall() -> list[Figure]:
    if os.geteuid() != 0:
        return []
    from kilonova.network.host import linux

    return [*linux.aside(lambda: _measured(hybrid=False)), *linux.aside(lambda: _measured(hybrid=True))]


def _measured(hybrid: bool) -> list[Figure]:
    """In a new network namespace: nothing of the host's is touched. ``hybrid``: with a bridge, and a zone of
    connections, for each port."""
    from kilonova.network.host import nft
    from kilonova.network.host.forwarding import Forwarding
    from kilonova.network.host.knowledge import Knowledge
    from kilonova.network.host.perimeter import Perimeter
    from kilonova.network.host.plug import make
    from kilonova.network.host.ruleset import Ruleset

    group, remote, network = (str(uuid.uuid4()) for _ in range(3))
    vifs = [vif_of(network, number, group) for number in range(PORTS)]
    with tempfile.TemporaryDirectory(prefix="kilonova-bench-") as folder:
        knowledge = Knowledge(Path(folder))
        known = {vif.port_id: vif for vif in vifs}
        options, forwarding = Config().network, Forwarding(Path(folder) / "ip_forward")
        zones = {vif.port_id: 10 + number for number, vif in enumerate(vifs)}

        def zone_of(owner: str) -> int:
            return zones.get(owner, _ZONE)

        plug = make(
            "ovs-hybrid" if hybrid else "bridge",
            options,
            Path(folder),
            lambda: Ruleset(vifs, knowledge.now),
            zone_of,
        )
        perimeter = Perimeter(options, forwarding, Path(folder), known, knowledge, zone_of, plug)

        def change(ports: list[Vif], rules: list[Filter], members: list[str]) -> float:
            """Seconds from the answer to where the rules are loaded and what they forbid is cut."""
            began = time.perf_counter()
            state = NetworkState(
                ports=[
                    PortSecurity(
                        port_id=vif.port_id, port_security=True, security_groups=vif.security_groups or []
                    )
                    for vif in ports
                ],
                groups={group: rules},
                members={remote: members},
            )
            knowledge.learn(state, began)
            perimeter.refresh()
            return time.perf_counter() - began

        change(vifs, [rule(1)], [])
        of_rule = [change(vifs, [rule(n + 2)], []) for n in range(_ROUNDS)]
        with_members = [rule(1), rule(2, remote)]
        of_members = [change(vifs, with_members, addresses(n)) for n in range(_ROUNDS)]
        other = [structs.replace(vif, security_groups=[]) for vif in vifs]
        of_ports = [change(vifs if n % 2 else other, with_members, addresses(1)) for n in range(_ROUNDS)]
        beside_others, waited = [], []
        if not hybrid:
            connections.track(_TRACKED, _OTHER_ZONE, "10.0.0.1")
            beside_others = [change(vifs, [_OUT, rule(n + 2)], []) for n in range(_ROUNDS)]
            connections.track(_TRACKED, _ZONE, vifs[0].addresses[0].ip)
            waited = [_waited(perimeter, lambda n=n: change(vifs, [_OUT, rule(n)], [])) for n in range(2, 5)]  # type: ignore[misc]
        nft.apply([{"flush": {"ruleset": None}}])
    how = " (ovs-hybrid)" if hybrid else ""
    figures = [
        Figure(
            f"a rule changed in the group of {PORTS} ports of a host{how}",
            statistics.median(of_rule) * 1000,
            "ms",
            at_most=200,
        ),
        Figure(
            f"{PORTS} ports of a host go to another group{how}",
            statistics.median(of_ports) * 1000,
            "ms",
            at_most=200,
        ),
        Figure(
            f"the {MEMBERS} members of a remote group changed{how}",
            statistics.median(of_members) * 1000,
            "ms",
            at_most=100,
        ),
    ]
    if hybrid:
        return figures
    return [
        *figures,
        Figure(
            f"a rule changed in it, {_TRACKED} connections of other networks tracked",
            statistics.median(beside_others) * 1000,
            "ms",
            at_most=200,
        ),
        Figure(
            f"… {_TRACKED} of its own: the longest that others wait for the lock",
            statistics.median(waited) * 1000,
            "ms",
            at_most=200,
        ),
    ]


def _waited(perimeter: Perimeter, work: Callable[[], object]) -> float:
    """Seconds for which another, such as a plug, had to wait at most while the work was done."""
    worker, longest = threading.Thread(target=work), 0.0
    worker.start()
    while worker.is_alive():
        began = time.perf_counter()
        perimeter.holds("")
        longest = max(longest, time.perf_counter() - began)
        worker.join(0.002)
    return longest


def vif_of(network: str, number: int, group: str) -> Vif:
    mac = f"fa:16:3e:00:{number // 256:02x}:{number % 256:02x}"
    address = VifAddress(ip=f"10.200.{number // 250}.{number % 250 + 1}", subnet=_SUBNET)
    return Vif(
        port_id=str(uuid.uuid4()), network_id=network, mac=mac, addresses=[address], security_groups=[group]
    )


def rule(port: int, remote: str | None = None) -> Filter:
    more = {"port_min": port, "port_max": port, "remote_group": remote}
    return Filter(direction="ingress", ethertype=IPV4, protocol=6, **more)  # type: ignore[arg-type]


def addresses(first: int) -> list[str]:
    """Far enough from each other that none becomes a range."""
    return [f"10.{first}.{n // 100}.{n % 100 * 2 + 1}" for n in range(MEMBERS)]
