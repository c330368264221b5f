"""A router between subnets of IPv6: guests hear of it, reach each other by it, and nothing of it is left."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.openvswitch import installed
from tests.plugs import KINDS, plug_lab
from tests.system.host_network import six
from tests.system.host_network.lab import Guest, eventually, make_vif, run
from tests.system.host_network.test_host_routers import OTHER, Routed, interface

from kilonova.domain.network import Vif, VifAddress, VifSubnet
from kilonova.domain.routers import HostRouters, RouterAddress
from kilonova.network.host import dhcp, linux, look, names

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="changes the host's network"),
]

HERE, THERE = six.subnet6(), six.subnet6(cidr="2001:db8:90::/64")


@pytest.fixture(params=KINDS)
def routed(request: pytest.FixtureRequest) -> Iterator[Routed]:
    if request.param != "bridge" and not installed():
        pytest.skip("Open vSwitch is not installed")
    with plug_lab(request.param) as lab:
        one = Routed(lab)
        yield one
        lab.host.apply_routers(HostRouters())
        assert not linux.namespace_exists(names.router(one.state.id))
        assert not folder(one).exists()


def folder(routed: Routed) -> Path:
    return routed.lab.folder / "network" / "adverts" / routed.state.id


def guest(routed: Routed, number: int, four: VifSubnet, of: VifSubnet, network_id: str) -> Guest:
    one = make_vif(four, number, network_id)
    fields = {name: getattr(one, name) for name in one.__struct_fields__}
    addresses = [*one.addresses, VifAddress(ip=six.own(one.mac, of.cidr), subnet=of)]
    made = routed.lab.plug(Vif(**fields | {"addresses": addresses}))
    six.configures_itself(made)
    return made


def joins(routed: Routed) -> None:
    """Both networks, with the gateways of all of their subnets."""
    interfaces = [
        interface(network_id, of)
        for network_id, of in ((routed.lab.network_id, routed.lab.subnet), (routed.other_id, OTHER))
    ]
    for network_id, of in ((routed.lab.network_id, HERE), (routed.other_id, THERE)):
        one = interface(network_id, of)
        address = RouterAddress(ip=str(of.gateway_ip), cidr=of.cidr, ra_mode=of.ipv6_ra_mode)
        fields = {name: getattr(one, name) for name in one.__struct_fields__}
        interfaces.append(type(one)(**fields | {"addresses": [address], "mac": "fa:16:3e:10:00:02"}))
    routed.change(interfaces=interfaces)


def default(one: Guest) -> str:
    return one.run("ip", "-6", "route", "show", "default")


def connects(one: Guest, to: tuple[str, int]) -> bool:
    def connect() -> bool:
        try:
            with socket.create_connection(to, timeout=1):
                return True
        except OSError:
            return False

    return one.inside(connect)


def test_guests_go_by_the_router_that_they_hear_of(routed: Routed) -> None:
    one = guest(routed, 5, routed.lab.subnet, HERE, routed.lab.network_id)
    other = guest(routed, 7, OTHER, THERE, routed.other_id)
    for who in (one, other):
        eventually(lambda who=who: six.addresses(who) == [six.six_of(who)], 20)  # type: ignore[misc]
        assert default(who) == ""
    joins(routed)
    for who in (one, other):
        eventually(lambda who=who: "via fe80::f816:3eff:fe10:2" in default(who), 20)  # type: ignore[misc]
    service = other.inside(lambda: socket.create_server(("::", 0), family=socket.AF_INET6))
    with service:
        to = (six.six_of(other), service.getsockname()[1])
        eventually(lambda: connects(one, to), 20)
        routed.lab.restart()
        assert routed.lab.host.repair() == [] or routed.lab.host.repair() == []
        assert look.problems(routed.lab.folder / "network", routed.lab.config.network) == []
        pid = dhcp.running(folder(routed))
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: dhcp.running(folder(routed)) is None)
        assert any("advertisements started" in line for line in routed.lab.host.repair())
        space = names.router(routed.state.id)
        device = names.router_inside(routed.state.interfaces[2].port_id)
        linux.inside(space, lambda: run("ip", "-6", "addr", "flush", "dev", device, "scope", "global"))
        assert routed.lab.host.repair() != []
        eventually(lambda: connects(one, to), 20)
        routed.change(interfaces=routed.state.interfaces[:2])
        assert dhcp.running(folder(routed)) is None
        assert not connects(one, to)
