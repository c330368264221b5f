"""/agents: what hosts' reports say, to admins."""

from __future__ import annotations

import pytest
from msgspec import structs
from tests.functional.network.conftest import ALICE, Caller

from kilonova.domain.hosts import Capacity, HostReport
from kilonova.domain.network import PlugKind
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import hosts
from kilonova.store import routers as router_store
from kilonova.store.schema.hosts import services

REPORT = HostReport(
    hypervisor_hostname="h",
    hypervisor_type="QEMU",
    hypervisor_version=1,
    host_ip="192.0.2.1",
    total=Capacity(vcpus=1, memory_mb=1, disk_gb=1),
    follows_network=True,
)


def report(network: BuiltinNetwork, host: str, **values: object) -> None:
    told = structs.replace(REPORT, **values)  # type: ignore[arg-type]
    with network.db.write() as conn:
        hosts.report_all(conn, {host: told}, "nova", network.config.compute)


def kinds(admin: Caller, **filters: object) -> list[str]:
    return [one["agent_type"] for one in admin.get("/agents", **filters)["agents"]]


@pytest.mark.parametrize(
    ("plug", "kind"),
    [
        ("bridge", "Linux bridge agent"),
        ("ovs", "Open vSwitch agent"),
        ("ovs-hybrid", "Open vSwitch agent"),
    ],
)
def test_a_host_is_four_agents(admin: Caller, network: BuiltinNetwork, plug: PlugKind, kind: str) -> None:
    report(network, "one", plug=plug, tunnel_address="192.0.2.1")
    report(network, "two", plug=plug)
    report(network, "fake", follows_network=False)
    assert kinds(admin, host="one") == [kind, "L3 agent", "DHCP agent", "Metadata agent"]
    assert kinds(admin, host="fake") == []
    assert len(kinds(admin)) == 8
    one, two = admin.get("/agents", agent_type=kind, sort_key="host")["agents"]
    assert one["configurations"]["tunneling_ip"] == "192.0.2.1"
    assert "tunneling_ip" not in two["configurations"]
    assert admin.get("/agents", agent_type=kind, sort_key="host", sort_dir="desc")["agents"] == [two, one]
    assert len({agent["id"] for agent in admin.get("/agents")["agents"]}) == 8
    before = admin.get("/agents")["agents"]
    report(network, "one", plug=plug, tunnel_address="192.0.2.1")
    assert [agent["id"] for agent in admin.get("/agents")["agents"]] == [agent["id"] for agent in before]


def test_page_by_page(admin: Caller, network: BuiltinNetwork) -> None:
    report(network, "h")
    every = [one["id"] for one in admin.get("/agents")["agents"]]
    page = admin.get("/agents", limit=3)
    assert [one["id"] for one in page["agents"]] == every[:3]
    assert [link["rel"] for link in page["agents_links"]] == ["next"]
    page = admin.get("/agents", limit=3, marker=every[2])
    assert [one["id"] for one in page["agents"]] == every[3:]
    page = admin.get("/agents", limit=2, marker=every[3], page_reverse=True)
    assert [one["id"] for one in page["agents"]] == every[1:3]
    assert admin.refused("GET", "/agents?marker=x") == (404, "AgentNotFound")


def test_whether_it_is_alive(admin: Caller, network: BuiltinNetwork) -> None:
    report(network, "h")
    assert len(kinds(admin, alive="True")) == 4
    silent = network.config.compute.service_down_time + 1
    with network.db.write() as conn:
        conn.execute(services.update().values(last_seen=services.c.last_seen - silent))
    assert kinds(admin, alive="True") == []
    assert len(kinds(admin, alive="false")) == 4
    report(network, "h")
    assert len(kinds(admin, alive="true")) == 4
    with network.db.write() as conn:
        conn.execute(services.update().values(forced_down=True))
    assert kinds(admin, alive="true") == []


def test_what_it_has(
    alice: Caller, admin: Caller, network: BuiltinNetwork, net: str, subnet: dict[str, object]
) -> None:
    report(network, "h")
    router = alice.create("router")["id"]
    with network.db.write() as conn:
        router_store.move(conn, router, "", "h")
        conn.execute(services.update().values(disabled=True))
    asked = [RequestedNetwork(network_id=net)]
    network.allocate_for_instance("server", ALICE, "vm", "h", "nova", asked)
    switch, layer3, dhcp, _ = admin.get("/agents")["agents"]
    assert (layer3["configurations"]["routers"], dhcp["configurations"]["networks"]) == (1, 1)
    assert (switch["admin_state_up"], layer3["admin_state_up"]) == (True, False)
    assert (layer3["availability_zone"], dhcp["availability_zone"]) == ("nova", "nova")


def test_for_admins_alone(alice: Caller, reader: Caller, admin: Caller, network: BuiltinNetwork) -> None:
    report(network, "h")
    one = admin.get("/agents")["agents"][0]["id"]
    for other in (alice, reader):
        assert other.get("/agents") == {"agents": []}
        assert other.refused("GET", f"/agents/{one}") == (404, "AgentNotFound")
    assert alice.refused("DELETE", f"/agents/{one}") == (404, "AgentNotFound")
    assert admin.refused("PUT", f"/agents/{one}", {"agent": {"admin_state_up": False}}) == (
        *(400, "InvalidInput"),
    )
    assert admin.refused("DELETE", f"/agents/{one}") == (400, "InvalidInput")
    assert admin.refused("GET", "/agents/x") == (404, "AgentNotFound")
    assert admin.refused("GET", "/agents?nonsense=1")[0] == 400
