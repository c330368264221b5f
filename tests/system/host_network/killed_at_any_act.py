"""Forks a child for each place where plug or unplug, or making or removing a router, touches the host, and
kills it there.

    killed_at_any_act.py FOLDER VIF plug|unplug|route|unroute FIRST STEP

After each kill a new process must find its way: plug or route again, unplug, nothing left. Takes the places
FIRST, FIRST + STEP, … and prints the number of the one that is none any more.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kilonova.config import Config
from kilonova.domain import codec
from kilonova.domain.network import Vif
from kilonova.domain.routers import (
    ExternalSubnet,
    HostRouters,
    RouterAddress,
    RouterFloatingIp,
    RouterGateway,
    RouterInterface,
    RouterState,
)
from kilonova.network.host import LinuxHost, linux, names, records

folder, verb = Path(sys.argv[1]), sys.argv[3]
first, step = int(sys.argv[4]), int(sys.argv[5])
vif = codec.from_json(sys.argv[2], Vif)
subnet = vif.addresses[0].subnet
ROUTED = HostRouters(
    routers=[
        RouterState(
            id=vif.port_id,
            interfaces=[
                RouterInterface(
                    port_id=vif.port_id,
                    network_id=vif.network_id,
                    mac="fa:16:3e:10:00:01",
                    addresses=[RouterAddress(ip=str(subnet.gateway_ip), cidr=subnet.cidr)],
                )
            ],
            gateway=RouterGateway(
                port_id=vif.network_id,
                network_id=vif.network_id,
                mac="fa:16:3e:20:00:01",
                addresses=[RouterAddress(ip="198.51.100.10", cidr="198.51.100.0/24")],
                subnets=[ExternalSubnet(cidr="198.51.100.0/24", gateway_ip="198.51.100.1")],
            ),
            floating_ips=[RouterFloatingIp(floating_ip="198.51.100.20", fixed_ip=vif.addresses[0].ip)],
        )
    ],
    gateways={vif.network_id: [str(subnet.gateway_ip)]},
)
visits = itertools.count(1)


def arm(at: int) -> None:
    """From now on this process dies before the at-th act."""

    def dying(act: Callable[..., Any]) -> Callable[..., Any]:
        def acted(*arguments: Any, **named: Any) -> Any:
            if next(visits) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*arguments, **named)

        return acted

    def netlink() -> Any:
        ip = plain()
        ip.link, ip.addr, ip.route = dying(ip.link), dying(ip.addr), dying(ip.route)
        return ip

    plain = linux.netlink
    linux.netlink = netlink
    for place, name in (
        (subprocess, "run"),
        (records, "write"),
        (linux, "ensure_namespace"),
        (linux, "delete_namespace"),
        (Path, "unlink"),
        (Path, "write_text"),
        (Path, "replace"),
    ):
        setattr(place, name, dying(getattr(place, name)))


def host() -> LinuxHost:
    made = LinuxHost(Config(), folder)
    made.start(lambda network, address: None)
    return made


def killed(at: int) -> None:
    one = host()
    if verb != "plug":
        one.plug(vif)
    if verb == "unroute":
        one.apply_routers(ROUTED)
    arm(at)
    if verb == "plug":
        one.plug(vif)
    elif verb == "unplug":
        one.unplug(vif.port_id)
    else:
        one.apply_routers(ROUTED if verb == "route" else HostRouters())


def after() -> None:
    one = host()
    assert one.plugged() in ({}, {vif.port_id: vif})
    if verb == "plug":
        one.plug(vif)
        assert vif.tap in devices()
    if verb == "route":
        one.apply_routers(ROUTED)
        one.repair()  # it tells of what the start mended
        again = one.apply_routers(ROUTED), one.repair()
        assert again == ([], []), again
        assert {names.router_link(vif.port_id), names.external(vif.network_id)} <= set(devices())
    if verb in ("route", "unroute"):
        one.apply_routers(HostRouters())
        assert not linux.namespace_exists(names.router(vif.port_id))
    one.unplug(vif.port_id)
    assert one.plugged() == {}
    one.stop()


def devices() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    work()
    os._exit(0)


for at in itertools.count(first, step):
    status = forked(lambda at=at: killed(at))  # type: ignore[misc]
    assert os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL, status
    assert forked(after) == 0, f"after a kill at act {at}"
    left = [name for name in devices() if vif.network_id[:11] in name or name == vif.tap]
    assert not left, f"after a kill at act {at}: {left}"
    if os.WIFEXITED(status):
        print(at)
        break
