"""IPv6 on a network of two hosts: each host advertises it to its own guests, and they reach each other."""

from __future__ import annotations

import os
import socket
from typing import Any
from uuid import uuid4

import pytest
from tests.contract.test_plug_ipv6 import FILTERED
from tests.contract.test_tunnels import PEERS, guest_of, learn, plug
from tests.far_hosts import FarLab, far_hosts
from tests.openvswitch import installed
from tests.running import until
from tests.system.host_network import six
from tests.system.host_network.lab import make_vif, subnet

from kilonova.domain.network import Vif, VifAddress

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="changes the host's network"),
    pytest.mark.skipif(not installed(), reason="Open vSwitch is not installed"),
]

NET = str(uuid4())
FOUR, SIX = subnet(), six.subnet6()


def vif(number: int) -> Vif:
    one = make_vif(FOUR, number, NET, mtu=1450)
    fields = {name: getattr(one, name) for name in one.__struct_fields__}
    return Vif(**fields | {"addresses": [*one.addresses, VifAddress(ip=six.own(one.mac), subnet=SIX)]})


def configures_itself(lab: FarLab, vif: Vif) -> None:
    six.configures_itself(guest_of(lab, vif))


def addresses(lab: FarLab, vif: Vif) -> list[str]:
    return six.addresses(guest_of(lab, vif))


def listens(lab: FarLab, vif: Vif) -> int:
    def make() -> socket.socket:
        return socket.create_server(("::", 0), family=socket.AF_INET6)

    lab.listening = guest_of(lab, vif).inside(make)  # type: ignore[attr-defined]
    return int(lab.listening.getsockname()[1])  # type: ignore[attr-defined]


def connects(lab: FarLab, vif: Vif, address: str, port: int) -> bool:
    def connect() -> bool:
        try:
            with socket.create_connection((address, port), timeout=2):
                return True
        except OSError:
            return False

    return guest_of(lab, vif).inside(connect)


@pytest.mark.parametrize("kind", FILTERED)
def test_guests_of_two_hosts(kind: Any) -> None:
    with far_hosts(kind, kind) as (one, two):
        a, b = vif(10), vif(11)
        for host, guest in ((one, a), (two, b)):
            host.call(plug, guest)
            host.call(learn, NET, 4713, PEERS)
            host.call(configures_itself, guest)
        for host, guest in ((one, a), (two, b)):
            until(lambda h=host, g=guest: h.call(addresses, g) == [g.addresses[1].ip], 60, "its address")  # type: ignore[misc]
        port = two.call(listens, b)
        until(lambda: one.call(connects, a, b.addresses[1].ip, port), 60, "the other host's guest")
