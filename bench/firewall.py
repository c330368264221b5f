"""How long a host takes to enforce a change of security groups: real nftables, in a network of its own."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import uuid
from pathlib import Path

from bench.figure import Figure
from kilonova.config import Config
from kilonova.domain.network import NetworkState, PortSecurity, Vif
from kilonova.domain.security_groups import IPV4, Filter

_PORTS, _MEMBERS, _ROUNDS = 200, 500, 9


def firewall() -> list[Figure]:
    if os.geteuid() != 0:
        return []
    from kilonova.network.host import linux

    return linux.aside(_measured)


def _measured() -> list[Figure]:
    """In a new network namespace: nothing of the host's is touched."""
    from kilonova.network.host import nft
    from kilonova.network.host.forwarding import Forwarding
    from kilonova.network.host.knowledge import Knowledge
    from kilonova.network.host.perimeter import Perimeter
    from kilonova.network.host.plug.bridge import BridgePlug

    group, remote, network = (str(uuid.uuid4()) for _ in range(3))
    vifs = [_vif(network, number, group) for number in range(_PORTS)]
    with tempfile.TemporaryDirectory(prefix="kilonova-bench-") as folder:
        knowledge = Knowledge(Path(folder))
        known = {vif.port_id: vif for vif in vifs}
        options, forwarding = Config().network, Forwarding(Path(folder) / "ip_forward")
        perimeter = Perimeter(options, forwarding, Path(folder), known, knowledge, lambda _: 1, BridgePlug())

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

        change(vifs, [_rule(1)], [])
        of_rule = [change(vifs, [_rule(n + 2)], []) for n in range(_ROUNDS)]
        with_members = [_rule(1), _rule(2, remote)]
        of_members = [change(vifs, with_members, _addresses(n)) for n in range(_ROUNDS)]
        other = [Vif(port_id=v.port_id, network_id=network, mac=v.mac, security_groups=[]) for v in vifs]
        of_ports = [change(vifs if n % 2 else other, with_members, _addresses(1)) for n in range(_ROUNDS)]
        nft.apply([{"flush": {"ruleset": None}}])
    return [
        Figure(
            f"a rule changed in the group of {_PORTS} ports of a host",
            statistics.median(of_rule) * 1000,
            "ms",
            at_most=200,
        ),
        Figure(
            f"{_PORTS} ports of a host go to another group",
            statistics.median(of_ports) * 1000,
            "ms",
            at_most=200,
        ),
        Figure(
            f"the {_MEMBERS} members of a remote group changed",
            statistics.median(of_members) * 1000,
            "ms",
            at_most=100,
        ),
    ]


def _vif(network: str, number: int, group: str) -> Vif:
    mac = f"fa:16:3e:00:{number // 256:02x}:{number % 256:02x}"
    return Vif(port_id=str(uuid.uuid4()), network_id=network, mac=mac, security_groups=[group])


def _rule(port: int, remote: str | None = None) -> Filter:
    more = {"port_min": port, "port_max": port, "remote_group": remote}
    return Filter(direction="ingress", ethertype=IPV4, protocol=6, **more)  # type: ignore[arg-type]


def _addresses(first: int) -> list[str]:
    """Far enough from each other that none becomes a range."""
    return [f"10.{first}.{n // 100}.{n % 100 * 2 + 1}" for n in range(_MEMBERS)]
