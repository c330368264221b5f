"""Forks a child for each place where plug or unplug, or making or removing a router or a tunnel, touches the
host, and kills it there.

    killed_at_any_act.py FOLDER VIF plug|unplug|route|unroute|join|part FIRST STEP [KIND CONNECTION]

After each kill a new process must find its way: plug or route again, unplug, nothing left. Takes the places
FIRST, FIRST + STEP, … and prints the number of the one that is none any more. With the KIND of a plug, and
where its switch is, only what that plug does is taken: the rest is the same for all.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import structs

from kilonova.config import Config, Network
from kilonova.domain import codec
from kilonova.domain.network import NetworkState, NetworkTunnel, Vif
from kilonova.domain.routers import (
    ExternalSubnet,
    HostRouters,
    RouterAddress,
    RouterFloatingIp,
    RouterGateway,
    RouterInterface,
    RouterState,
)
from kilonova.network.host import LinuxHost, linux, names, records, rtnl, tunnel_device

OWN, PEERS = "192.0.2.1", ["192.0.2.2", "192.0.2.3"]
folder, verb = Path(sys.argv[1]), sys.argv[3]
first, step = int(sys.argv[4]), int(sys.argv[5])
kind, connection = sys.argv[6:] or ("bridge", "unix:/run/openvswitch/db.sock")
options = Config(
    network=Network(
        plug=kind,
        ovsdb_connection=connection,
        tunnel_address=OWN if verb in ("join", "part") else "",
    )
)
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
in_plug = threading.local()


def arm(at: int) -> None:
    """From now on this process dies before the at-th act."""

    def dying(act: Callable[..., Any], always: bool = kind == "bridge") -> Callable[..., Any]:
        def acted(*arguments: Any, **named: Any) -> Any:
            if arguments[:1] in (("get",), ("dump",)):  # a look
                return act(*arguments, **named)
            if (always or getattr(in_plug, "now", False)) and next(visits) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*arguments, **named)

        return acted

    def netlink() -> Any:
        ip = plain()
        ip.link, ip.addr, ip.route, ip.fdb = map(dying, (ip.link, ip.addr, ip.route, ip.fdb))
        return ip

    plain = linux.netlink
    linux.netlink = netlink
    for place, name in (
        (subprocess, "run"),
        (records, "write"),
        (rtnl, "change"),
        (rtnl, "change_bridge"),
        (rtnl, "remove"),
        (rtnl, "make_tap"),
        (linux, "ensure_namespace"),
        (linux, "delete_namespace"),
        (Path, "unlink"),
        (Path, "write_text"),
        (Path, "replace"),
    ):
        setattr(place, name, dying(getattr(place, name)))
    # A plug's devices go with the tap: the host removes them, after the plug has parted them.
    rtnl.remove_group = dying(rtnl.remove_group, always=True)
    if kind != "bridge":
        arm_plug(dying)


def arm_plug(dying: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    from kilonova.network.host import offload
    from kilonova.network.host.plug.hybrid import HybridPlug
    from kilonova.network.host.plug.ovs import OvsPlug
    from kilonova.network.host.switch.database import Database

    def marked(verb: Callable[..., Any]) -> Callable[..., Any]:
        def done(*arguments: Any) -> Any:
            in_plug.now = True
            try:
                return verb(*arguments)
            finally:
                in_plug.now = False

        return done

    Database.change = dying(Database.change)  # type: ignore[method-assign]
    offload.ensure_off = dying(offload.ensure_off)
    for plug in (HybridPlug, OvsPlug):
        acts = [f"{act}_{what}" for what in ("network", "port", "tunnel") for act in ("ensure", "remove")]
        for name in (*acts, "ensure_router", "keep_routers"):
            setattr(plug, name, marked(getattr(plug, name)))


def host() -> LinuxHost:
    made = LinuxHost(options, folder)
    made.start(lambda network, address: None)
    return made


def killed(at: int) -> None:
    one = host()
    if verb != "plug":
        one.plug(vif)
    if verb == "unroute":
        one.apply_routers(ROUTED)
    if verb == "part":
        tell(one, PEERS)
    arm(at)
    if verb == "plug":
        one.plug(vif)
    elif verb == "unplug":
        one.unplug(vif.port_id)
    elif verb in ("join", "part"):
        tell(one, PEERS if verb == "join" else [])
    else:
        one.apply_routers(ROUTED if verb == "route" else HostRouters())


def tell(one: LinuxHost, peers: list[str]) -> None:
    tunnel = NetworkTunnel(segmentation_id=7, peers=peers)
    one.refresh(NetworkState(tunnels={vif.network_id: tunnel}), time.monotonic())


def are_joined(peers: list[str]) -> None:
    name = names.tunnel(vif.network_id)
    assert (name in devices()) is bool(peers)
    if peers:
        assert tunnel_device.peers_of(name) == set(peers)


def after() -> None:
    one = host()
    assert one.plugged() in ({}, {vif.port_id: vif})
    are_prepared()
    if verb == "plug":
        one.plug(vif)
        assert vif.tap in devices()
        are_prepared()
    if verb == "route":
        one.apply_routers(ROUTED)
        one.repair()  # it tells of what the start mended
        again = one.apply_routers(ROUTED), one.repair()
        assert again == ([], []), again
        are_prepared()
        assert {names.router_link(vif.port_id), names.external(vif.network_id)} <= set(devices())
    if verb in ("join", "part"):
        tell(one, PEERS if verb == "join" else [])
        one.repair()
        assert one.repair() == []
        are_joined(PEERS if verb == "join" else [])
        tell(one, [])  # it would be remembered for the next round
    if verb in ("route", "unroute"):
        one.apply_routers(HostRouters())
        assert not linux.namespace_exists(names.router(vif.port_id))
    one.unplug(vif.port_id)
    assert one.plugged() == {}
    one.stop()


def are_prepared() -> None:
    """What is done to a namespace once, when it is made, was done to each that is there."""

    def look() -> tuple[str, str]:
        settings = Path("/proc/sys/net/ipv4/conf/all/promote_secondaries").read_text().strip()
        return settings, "up" if is_up("lo") else "down"

    for space in (names.namespace(vif.network_id), names.router(vif.port_id)):
        if linux.namespace_exists(space):
            assert linux.inside(space, look) == ("1", "up"), space


def is_up(name: str) -> bool:
    link = linux.find(name)
    return link is not None and link.up


def left() -> list[str]:
    ours = (vif.network_id[:11], vif.port_id[:11])
    found = [name for name in devices() if any(part in name for part in ours)]
    if kind != "bridge":
        command = ["ovs-vsctl", f"--db={connection}", "--timeout=10", "list-br"]
        found += subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return found


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
    assert not left(), f"after a kill at act {at}: {left()}"
    if os.WIFEXITED(status):
        if verb in ("join", "part"):  # a host that takes no tunnels has no rules for them
            options = structs.replace(options, network=structs.replace(options.network, tunnel_address=""))
            assert forked(lambda: host().stop()) == 0
        print(at)
        break
