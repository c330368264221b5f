"""What every HostNetwork keeps, the one in memory and the one of the kernel."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from pyroute2 import netns

from kilonova.config import Config
from kilonova.domain.errors import BuildFailed
from kilonova.domain.network import AddressPair, Vif, VifAddress, VifSubnet
from kilonova.network.base import HostNetwork
from kilonova.network.host import LinuxHost, MemoryHost


@pytest.fixture(params=["memory", pytest.param("linux", marks=pytest.mark.system)])
def host(request: pytest.FixtureRequest) -> Iterator[HostNetwork]:
    if request.param == "memory":
        yield MemoryHost()
        return
    if os.geteuid() != 0:
        pytest.skip("changes the host's network")
    folder = Path(tempfile.mkdtemp(prefix="kilonova-test-"))
    with a_host_of_its_own():
        linux = LinuxHost(Config(), folder)
        linux.start(lambda network_id, address: None)
        yield linux
        for port_id in linux.plugged():
            linux.unplug(port_id)
        linux.stop()
    shutil.rmtree(folder)


@contextmanager
def a_host_of_its_own() -> Iterator[None]:
    """A network namespace: the machine's own network is not touched."""
    home, name = os.open("/proc/thread-self/ns/net", os.O_RDONLY), f"test-host-{uuid4().hex[:8]}"
    netns.create(name)
    netns.setns(name, flags=0)
    try:
        yield
    finally:
        netns.setns(home)
        os.close(home)
        netns.remove(name)


def vif(**changes: object) -> Vif:
    subnet = VifSubnet(id=str(uuid4()), cidr="10.70.0.0/24", gateway_ip="10.70.0.1", dhcp_address="10.70.0.2")
    made = Vif(
        port_id=str(uuid4()),
        network_id=str(uuid4()),
        mac="fa:16:3e:00:00:01",
        addresses=[VifAddress(ip="10.70.0.9", subnet=subnet)],
    )
    return msgspec.structs.replace(made, **changes)


def test_plugged_says_what_was_plugged(host: HostNetwork) -> None:
    one, two = vif(), vif()
    host.plug(one)
    host.plug(two)
    assert host.plugged() == {one.port_id: one, two.port_id: two}
    host.unplug(one.port_id)
    assert host.plugged() == {two.port_id: two}


def test_both_are_safe_to_repeat(host: HostNetwork) -> None:
    one = vif()
    host.plug(one)
    host.plug(one)
    assert host.plugged() == {one.port_id: one}
    host.unplug(one.port_id)
    host.unplug(one.port_id)
    assert host.plugged() == {}


def test_plug_takes_the_newest(host: HostNetwork) -> None:
    one = vif()
    newer = msgspec.structs.replace(one, port_security=False)
    host.plug(one)
    host.plug(newer)
    assert host.plugged() == {one.port_id: newer}


def test_unplugging_the_unknown_is_fine(host: HostNetwork) -> None:
    host.unplug(str(uuid4()))


def test_nothing_to_repair(host: HostNetwork) -> None:
    host.plug(vif())
    assert host.repair() == []


def six() -> VifAddress:
    """Not of its subnet."""
    return VifAddress(ip="2001:db9::5", subnet=VifSubnet(id=str(uuid4()), cidr="2001:db8::/64", ip_version=6))


@pytest.mark.parametrize(
    "changes",
    [
        {"port_id": "../../etc/passwd"},
        {"port_id": "A" * 36},
        {"network_id": "x; rm -rf /"},
        {"mac": "fa:16:3e:00:00"},
        {"mac": "fa:16:3e:00:00:01,set:x"},
        {"allowed_address_pairs": [AddressPair(ip_address="10.0.0.0/33")]},
        {"allowed_address_pairs": [AddressPair(ip_address="10.0.0.1", mac_address="no")]},
        {"addresses": [VifAddress(ip="10.0.0.5", subnet=VifSubnet(id=str(uuid4()), cidr="10.70.0.0/24"))]},
        {"addresses": [VifAddress(ip="10.70.0.5", subnet=VifSubnet(id="../x", cidr="10.70.0.0/24"))]},
        {"addresses": [six()]},
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    host: HostNetwork, changes: dict[str, object]
) -> None:
    with pytest.raises(BuildFailed):
        host.plug(vif(**changes))
    assert host.plugged() == {}
