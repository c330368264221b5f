"""What changes of a port reaches its host, which asks for what holds now; messages may be lost or late."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.functional.builds.cloud import Cloud
from tests.running import until

from kilonova.domain.errors import Unavailable
from kilonova.domain.messages import NetworkChanged, NetworkQuery
from kilonova.domain.network import NetworkState, PortSecurity, Vif
from kilonova.domain.security_groups import Filter
from kilonova.network.builtin.announcer import Announcer
from kilonova.network.host import MemoryHost
from kilonova.store import port_security


class Following(MemoryHost):
    """A host's network that wants to be told, and keeps what it was told."""

    follows = True

    def __init__(self) -> None:
        super().__init__()
        self.ports: dict[str, PortSecurity] = {}
        self.groups: dict[str, list[Filter]] = {}
        self.members: dict[str, list[str]] = {}
        self.told = 0

    def refresh(self, state: NetworkState, asked: float) -> None:
        assert asked <= time.monotonic()
        self.told += 1
        self.ports |= {port.port_id: port for port in state.ports}
        self.groups |= state.groups
        self.members |= state.members

    def users(self, ids: set[str]) -> set[str]:
        return {
            port.port_id
            for port in self.ports.values()
            for group in port.security_groups
            if group in ids or any(one.remote_group in ids for one in self.groups.get(group, []))
        }

    def ingress(self, group: str) -> list[Filter]:
        return [one for one in self.groups.get(group, []) if one.direction == "ingress"]


@pytest.fixture
def network(cloud: Cloud) -> Iterator[Following]:
    """The network of the only host, which is told of what changes."""
    (host,) = cloud.hosts.values()
    host.agent.stop()
    host.network = followed = Following()
    host.start()
    announcer = Announcer(cloud.db, cloud.bus)
    cloud.network._tell = announcer.tell
    yield followed
    announcer.close()


def ask(cloud: Cloud, method: str, path: str, body: Any = None) -> Any:
    status, answer = cloud.ask(method, f"/networking/v2.0{path}", body)
    assert status < 300, answer
    return answer


def default_of(cloud: Cloud) -> str:
    (group,) = ask(cloud, "GET", "/security-groups?name=default")["security_groups"]
    return str(group["id"])


def allow(cloud: Cloud, group: str, **rule: Any) -> str:
    body = {"security_group_rule": {"security_group_id": group, "direction": "ingress", **rule}}
    return str(ask(cloud, "POST", "/security-group-rules", body)["security_group_rule"]["id"])


def test_a_port_that_changes_while_a_server_holds_it(cloud: Cloud, network: Following) -> None:
    """Addresses, name and link reach the host's plug(), what may pass reaches its refresh(): each one way."""
    server = cloud.active(cloud.make_network())
    (port,) = network.plugged()
    group = default_of(cloud)

    def change(**attributes: Any) -> None:
        ask(cloud, "PUT", f"/ports/{port}", {"port": attributes})

    def plugged() -> Vif:
        return network.plugged()[port]

    change(fixed_ips=[{"ip_address": "10.91.0.77"}])
    until(lambda: [one.ip for one in plugged().addresses] == ["10.91.0.77"], 60, "the address")
    until(lambda: network.members[group] == ["10.91.0.77"], 60, "the member's address")
    change(dns_name="other")
    until(lambda: plugged().hostname == "other", 60, "the name")
    change(admin_state_up=False)
    until(lambda: not plugged().admin_state_up, 60, "the link to go down")
    assert cloud.server(server)["addresses"]["n"][0]["addr"] == "10.91.0.77"
    before = plugged()
    change(allowed_address_pairs=[{"ip_address": "10.9.0.0/24"}])
    until(lambda: network.ports[port].allowed_address_pairs, 60, "the pair")
    change(allowed_address_pairs=[], security_groups=[], port_security_enabled=False)
    until(lambda: not network.ports[port].port_security, 60, "port security to go")
    assert plugged() is before
    (record,) = cloud.network.vifs([server])[server]
    assert record.wiring == before.wiring
    assert record != before


def test_a_nic_that_is_attached_brings_what_its_port_needs(cloud: Cloud, network: Following) -> None:
    server, other = cloud.active(cloud.make_network()), cloud.make_network()
    status, answer = cloud.ask(
        "POST",
        f"/compute/v2.1/servers/{server}/os-interface",
        {"interfaceAttachment": {"net_id": other}},
    )
    assert status == 200, answer
    port = answer["interfaceAttachment"]["port_id"]
    group = default_of(cloud)
    assert network.ports[port].security_groups == [group]
    until(lambda: len(network.members[group]) == 2, 60, "the member to come")
    ask(cloud, "DELETE", f"/ports/{port}")
    until(lambda: port not in network.plugged(), 60, "the NIC to go")
    until(lambda: len(network.members[group]) == 1, 60, "the member to go")


def test_a_build_brings_what_its_ports_need(cloud: Cloud, network: Following) -> None:
    cloud.active(cloud.make_network())
    (port,) = network.plugged()
    group = default_of(cloud)
    assert network.ports[port].security_groups == [group]
    assert {one.remote_group for one in network.ingress(group)} == {group}
    (vif,) = network.plugged().values()
    assert network.members[group] == [vif.addresses[0].ip]


def test_a_host_is_told_of_rules_members_and_ports(cloud: Cloud, network: Following) -> None:
    net = cloud.make_network()
    first = cloud.active(net)
    (port,) = network.plugged()
    group = default_of(cloud)
    rule = allow(cloud, group, protocol="tcp", port_range_min=22, port_range_max=22)
    until(lambda: len(network.ingress(group)) == 3, 60, "the rule to come")
    ask(cloud, "DELETE", f"/security-group-rules/{rule}")
    until(lambda: len(network.ingress(group)) == 2, 60, "the rule to go")
    second = cloud.active(net)
    until(lambda: len(network.members[group]) == 2, 60, "the member to come")
    cloud.delete(second)
    cloud.gone(second)
    until(lambda: len(network.members[group]) == 1, 60, "the member to go")
    pairs = [{"ip_address": "10.9.0.0/24"}]
    ask(cloud, "PUT", f"/ports/{port}", {"port": {"allowed_address_pairs": pairs}})
    until(lambda: len(network.members[group]) == 2, 60, "the pair to come")
    off = {"port_security_enabled": False, "security_groups": [], "allowed_address_pairs": []}
    ask(cloud, "PUT", f"/ports/{port}", {"port": off})
    until(lambda: not network.ports[port].port_security, 60, "port security to go")
    assert "security_groups" not in cloud.server(first)


def test_many_changes_are_few_messages(cloud: Cloud, network: Following) -> None:
    cloud.active(cloud.make_network())
    group = default_of(cloud)
    before, began = network.told, time.monotonic()
    for port in range(1, 31):
        allow(cloud, group, protocol="tcp", port_range_min=port, port_range_max=port)
    until(lambda: len(network.ingress(group)) == 32, 60, "all rules to come")
    assert network.told - before <= 3 + (time.monotonic() - began) / 0.3


def test_what_is_lost_is_found_by_comparing(cloud: Cloud, network: Following) -> None:
    cloud.active(cloud.make_network())
    group = default_of(cloud)
    cloud.network._tell = None
    allow(cloud, group, protocol="icmp")
    (host,) = cloud.hosts.values()
    host.repairs.tick()
    assert len(network.ingress(group)) == 3


def test_what_was_told_before_a_port_was_known_is_asked_for_again(cloud: Cloud, network: Following) -> None:
    """The answer of a build may be older than a change that came while it was under way."""
    cloud.active(cloud.make_network())
    (host,) = cloud.hosts.values()
    group = default_of(cloud)
    (port,) = network.ports
    old = cloud.network.state(host.name, [port])
    asked = time.monotonic()
    cloud.network._tell = None
    allow(cloud, group, protocol="icmp")
    network.ports.clear()  # as if it were not known yet
    host.agent._refresher.network_changed(NetworkChanged(groups=[group]))
    host.agent._refresher.learn(old, asked)
    until(lambda: len(network.ingress(group)) == 3, 60, "the newer rules")


def test_a_host_reads_only_what_its_ports_use(cloud: Cloud, network: Following) -> None:
    server = cloud.active(cloud.make_network())
    (port,) = network.plugged()
    assert cloud.network.state("elsewhere", [port]) == NetworkState()
    (host,) = cloud.hosts.values()
    told = cloud.bus.call(
        "conductor", "network_state", NetworkQuery(host=host.name, ports=[port, server]), NetworkState
    )
    assert [one.port_id for one in told.ports] == [port]
    assert set(told.groups) == {default_of(cloud)}


def test_a_change_is_told_though_the_database_goes_away_after_it(
    cloud: Cloud, network: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.active(cloud.make_network())
    group = default_of(cloud)
    concerned, away = port_security.concerned, [Unavailable("away")] * 2

    def once_away(*arguments: Any) -> Any:
        if away:
            raise away.pop()
        return concerned(*arguments)

    monkeypatch.setattr(port_security, "concerned", once_away)
    allow(cloud, group, protocol="icmp")
    until(lambda: any(one.protocol == 1 for one in network.ingress(group)), 60, "the rule")
    assert away == []


def test_who_does_not_follow_is_not_told(cloud: Cloud) -> None:
    (host,) = cloud.hosts.values()
    announcer = Announcer(cloud.db, cloud.bus)
    cloud.network._tell = announcer.tell
    told: list[Any] = []
    host.network.refresh = lambda *said: told.append(said)  # type: ignore[method-assign]
    cloud.active(cloud.make_network())
    allow(cloud, default_of(cloud), protocol="icmp")
    announcer.close()
    assert told == []


def inject(cloud: Cloud, server_id: str) -> int:
    path = f"/compute/v2.1/servers/{server_id}/action"
    return int(cloud.ask("POST", path, {"injectNetworkInfo": None}, caller="admin")[0])


def test_an_admin_has_a_guests_nics_set_right(cloud: Cloud) -> None:
    server_id = cloud.active(cloud.make_network())
    driver = cloud.hosts["h1"].driver
    (tap,) = driver.interfaces(server_id)
    driver.set_link(server_id, tap, False)
    assert cloud.act(server_id, "injectNetworkInfo") == 403
    assert inject(cloud, server_id) == 202
    until(lambda: driver.interfaces(server_id)[tap], 60, "the link to be up again")
    assert cloud.actions(server_id)[-1]["action"] == "injectNetworkInfo"
    assert cloud.act(server_id, "shelve") == 202
    cloud.settled(server_id)
    assert inject(cloud, server_id) == 409
