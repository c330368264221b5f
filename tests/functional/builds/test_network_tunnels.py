"""Hosts learn on which others a network is: at once, and by comparing when the word was lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.functional.builds.cloud import Cloud, Host
from tests.functional.builds.conftest import MakeCloud
from tests.running import until

from kilonova.domain.messages import NetworkChanged
from kilonova.domain.network import NetworkState, NetworkTunnel
from kilonova.domain.routers import HostRouters
from kilonova.network.builtin.announcer import Announcer
from kilonova.network.builtin.changes import Change
from kilonova.network.host import MemoryHost


class Tunnelled(MemoryHost):
    """A host's network that takes tunnels, and keeps what it was told of them."""

    follows = True

    def __init__(self, address: str) -> None:
        super().__init__()
        self.tunnel_address = address
        self.tunnels: dict[str, NetworkTunnel] = {}
        self.told = 0
        self.refused: list[str] = []

    def refresh(self, state: NetworkState, asked: float) -> None:
        assert asked <= time.monotonic()
        self.told += 1
        self.tunnels |= state.tunnels

    def peers(self, network_id: str) -> list[str]:
        return self.tunnels[network_id].peers if network_id in self.tunnels else []

    def failed_routers(self) -> list[str]:
        return self.refused

    @property
    def routers(self) -> HostRouters:
        return self._routers


@pytest.fixture
def cloud(make_cloud: MakeCloud) -> Iterator[Cloud]:
    """Two hosts that take tunnels, at 192.0.2.1 and .2."""
    cloud = make_cloud(hosts=2)
    announcer = Announcer(cloud.db, cloud.bus)
    cloud.network._tell = announcer.tell
    for number, host in enumerate(cloud.hosts.values(), 1):
        restart(host, f"192.0.2.{number}")
    yield cloud
    announcer.close()


def restart(host: Host, address: str) -> None:
    host.agent.stop()
    before = host.network
    host.network = Tunnelled(address)
    host.network._vifs = before._vifs
    host.start()


def networks(cloud: Cloud) -> list[Tunnelled]:
    found = [host.network for host in cloud.hosts.values()]
    assert all(isinstance(one, Tunnelled) for one in found)
    return found  # type: ignore[return-value]


def server_on(cloud: Cloud, number: int, net: str) -> str:
    zone = f"nova:{list(cloud.hosts)[number]}"
    return cloud.active(net, caller="admin", availability_zone=zone)


def away(cloud: Cloud, server: str) -> None:
    assert cloud.ask("DELETE", f"/compute/v2.1/servers/{server}", caller="admin")[0] == 204
    cloud.gone(server)


def shared_network(cloud: Cloud) -> str:
    return cloud.make_network()


def vni(cloud: Cloud, net: str) -> int:
    (row,) = cloud.sql("SELECT segmentation_id FROM networks WHERE id = ?", net)
    return int(row[0])


def test_a_second_host_of_a_network_and_its_end(cloud: Cloud) -> None:
    net, (one, two) = shared_network(cloud), networks(cloud)
    server_on(cloud, 0, net)
    assert one.tunnels[net] == NetworkTunnel(segmentation_id=vni(cloud, net))
    last = server_on(cloud, 1, net)
    assert two.peers(net) == ["192.0.2.1"]  # with its build, before the guest began
    until(lambda: one.peers(net) == ["192.0.2.2"], 60, "the first host to be told")
    tell, told = cloud.network._tell, list[Change]()
    cloud.network._tell = told.append
    more = server_on(cloud, 1, net)
    away(cloud, last)
    assert told  # of members of its group
    assert [change for change in told if change.networks] == []  # not with each guest
    cloud.network._tell = tell
    away(cloud, more)
    until(lambda: one.peers(net) == [], 60, "the first host to be alone")


def test_a_lost_word_is_found_by_comparing(cloud: Cloud) -> None:
    net, (one, _) = shared_network(cloud), networks(cloud)
    server_on(cloud, 0, net)
    cloud.network._tell = None
    server_on(cloud, 1, net)
    assert one.peers(net) == []
    next(iter(cloud.hosts.values())).repairs.tick()
    assert one.peers(net) == ["192.0.2.2"]


def test_a_host_that_comes_back_learns_what_it_missed(cloud: Cloud) -> None:
    net = shared_network(cloud)
    server_on(cloud, 0, net)
    first = next(iter(cloud.hosts.values()))
    first.agent.stop()
    server_on(cloud, 1, net)
    restart(first, "192.0.2.1")
    assert networks(cloud)[0].peers(net) == ["192.0.2.2"]


def test_a_host_takes_tunnels_elsewhere(cloud: Cloud) -> None:
    net, (_, two) = shared_network(cloud), networks(cloud)
    server_on(cloud, 0, net)
    server_on(cloud, 1, net)
    first = next(iter(cloud.hosts.values()))
    restart(first, "192.0.2.77")
    until(lambda: two.peers(net) == ["192.0.2.77"], 60, "the new address")
    restart(first, None)  # type: ignore[arg-type]
    until(lambda: two.peers(net) == [], 60, "none")
    assert networks(cloud)[0].tunnels == {}


def test_a_word_that_came_while_a_build_asked_counts(cloud: Cloud) -> None:
    net, (one, _) = shared_network(cloud), networks(cloud)
    server_on(cloud, 0, net)
    first = next(iter(cloud.hosts.values()))
    old, asked = cloud.network.state(first.name, list(one.plugged())), time.monotonic()
    cloud.network._tell = None
    server_on(cloud, 1, net)
    refresher = first.agent._refresher
    refresher.network_changed(NetworkChanged(networks=[net]))
    refresher.learn(old, asked)
    until(lambda: one.peers(net) == ["192.0.2.2"], 60, "the newer word")


def test_a_host_hears_nothing_of_networks_that_are_not_its_own(cloud: Cloud) -> None:
    net = shared_network(cloud)
    server_on(cloud, 0, net)
    other = list(cloud.hosts)[1]
    assert cloud.network.state(other, [], [net]).tunnels == {}
    assert cloud.network.state("nobody", [], [net]).tunnels == {}


def test_networks_of_the_release_before_get_an_identifier(cloud: Cloud) -> None:
    net, (one, _) = shared_network(cloud), networks(cloud)
    cloud.sql("UPDATE networks SET segmentation_id = NULL")
    server_on(cloud, 0, net)
    assert one.tunnels[net].segmentation_id == vni(cloud, net) > 0


def test_a_router_brings_its_networks_to_its_host(cloud: Cloud) -> None:
    """Also without guests there; and takes them along when it goes to another host."""
    net, both = shared_network(cloud), networks(cloud)
    server_on(cloud, 0, net)
    (subnet,) = ask(cloud, "GET", f"/subnets?network_id={net}")["subnets"]
    away = next(iter(cloud.hosts.values()))
    cloud.sql("UPDATE services SET forced_down = ? WHERE host = ?", True, away.name)
    router = ask(cloud, "POST", "/routers", {"router": {"name": "r"}})["router"]["id"]
    ask(cloud, "PUT", f"/routers/{router}/add_router_interface", {"subnet_id": subnet["id"]})
    until(lambda: both[1].routers.networks == {net}, 60, "the router")
    until(lambda: both[1].peers(net) == ["192.0.2.1"], 60, "its host to know the other")
    until(lambda: both[0].peers(net) == ["192.0.2.2"], 60, "the guest's host to know the router's")
    cloud.sql("UPDATE services SET forced_down = ?", False)
    cloud.sql("UPDATE services SET forced_down = ? WHERE host = ?", True, list(cloud.hosts)[1])
    cloud.network.rehome_routers(60.0)
    until(lambda: both[0].peers(net) == [], 60, "the router to be where the guest is")
    cloud.sql("UPDATE services SET forced_down = ?", False)
    both[0].refused = [router]
    away.reports.tick()

    def moved() -> bool:
        cloud.network.rehome_routers(60.0)
        return both[1].routers.networks == {net}

    until(moved, 60, "the router to leave a host that cannot make it")


def ask(cloud: Cloud, method: str, path: str, body: Any = None) -> Any:
    status, answer = cloud.ask(method, f"/networking/v2.0{path}", body)
    assert status < 300, answer
    return answer


def test_nobody_is_told_where_nobody_takes_tunnels(make_cloud: MakeCloud) -> None:
    cloud = make_cloud(hosts=2)
    told: list[Change] = []
    cloud.network._tell = told.append
    net = shared_network(cloud)
    server_on(cloud, 0, net)
    server_on(cloud, 1, net)
    assert [change for change in told if change.networks] == []
