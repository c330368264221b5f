"""What hosts are told of routers: when they change, which host has one, and who gets it when that is down."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from falcon.testing import TestClient
from tests.functional.network.conftest import Caller, authenticate
from tests.functional.network.test_routers import attach, detach

from kilonova.api import network as api
from kilonova.api.http import application
from kilonova.domain.hosts import Capacity, HostReport
from kilonova.domain.network import PlugKind
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.builtin.changes import Change
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import hosts, segments
from kilonova.store.schema.hosts import services

SILENCE = 60.0


class Told:
    """The hosts that were told to look at their routers, since it was last asked."""

    def __init__(self) -> None:
        self._hosts: set[str] = set()
        self.networks: set[str] = set()
        """That are on other hosts than before."""

    def __call__(self, change: Change) -> None:
        self._hosts.update(change.hosts)
        self.networks.update(change.networks)

    def take(self) -> set[str]:
        taken, self._hosts = self._hosts, set()
        return taken


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def client(network: BuiltinNetwork, told: Told) -> TestClient:
    heard = BuiltinNetwork(network.db, network.config, told)
    return TestClient(application([api.service(heard)], authenticate))


@pytest.fixture
def external(admin: Caller) -> str:
    net = admin.create("network", name="public", **{"router:external": True})
    admin.create("subnet", network_id=net["id"], cidr="198.51.100.0/24", enable_dhcp=False)
    return str(net["id"])


def up(network: BuiltinNetwork, host: str) -> None:
    with network.db.write() as conn:
        hosts.seen(conn, "nova-compute", host, "nova")


def report(network: BuiltinNetwork, host: str, **more: Any) -> None:
    """It is up, and this is what it is."""
    up(network, host)
    told = HostReport(
        hypervisor_hostname=host,
        hypervisor_type="QEMU",
        hypervisor_version=1,
        host_ip="192.0.2.1",
        total=Capacity(vcpus=1, memory_mb=1, disk_gb=1),
        **more,
    )
    with network.db.write() as conn:
        hosts.report_all(conn, {host: told}, "nova", network.config.compute)


def silent(network: BuiltinNetwork, host: str) -> None:
    with network.db.write() as conn:
        conn.execute(sa.update(services).where(services.c.host == host).values(last_seen=1.0))


def test_a_router_gets_the_host_that_is_up_and_goes_elsewhere_when_it_is_not(
    alice: Caller, network: BuiltinNetwork, told: Told, external: str
) -> None:
    made = alice.create("router", external_gateway_info={"network_id": external})
    assert made["status"] == "DOWN"
    network.rehome_routers(SILENCE)
    assert alice.get(f"/routers/{made['id']}")["router"]["status"] == "DOWN"
    up(network, "a")
    network.rehome_routers(SILENCE)
    assert alice.get(f"/routers/{made['id']}")["router"]["status"] == "ACTIVE"
    assert [router.id for router in network.host_routers("a").routers] == [made["id"]]
    up(network, "b")
    told.take()
    heard = BuiltinNetwork(network.db, network.config, told)
    heard.rehome_routers(SILENCE)
    assert told.take() == set()
    silent(network, "a")
    heard.rehome_routers(SILENCE)
    assert told.take() == {"a", "b"}
    assert network.host_routers("a").routers == []
    assert [router.id for router in network.host_routers("b").routers] == [made["id"]]


def test_a_router_is_rather_where_it_leads_to_all_guests_and_where_nobody_is_at_work(
    alice: Caller, network: BuiltinNetwork, external: str
) -> None:
    def change(host: str, **values: Any) -> None:
        with network.db.write() as conn:
            conn.execute(sa.update(services).where(services.c.host == host).values(**values))

    def placed() -> str:
        made = alice.create("router", external_gateway_info={"network_id": external})["id"]
        (found,) = (host for host in "abc" if made in [one.id for one in network.host_routers(host).routers])
        assert alice("DELETE", f"/routers/{made}").status_code == 204
        return found

    for host, address in (("a", None), ("b", "192.0.2.2"), ("c", "192.0.2.3")):
        report(network, host, tunnel_address=address)
    assert placed() == "b", "guests of other hosts are reached from there"
    change("b", disabled=True)
    assert placed() == "c"
    change("c", forced_down=True)
    assert placed() == "b", "better than to reach nobody"
    change("b", forced_down=True)
    assert placed() == "a"


def test_a_router_works_where_it_is_up_and_on_a_host_and_its_ports_on_a_host(
    alice: Caller, admin: Caller, network: BuiltinNetwork, external: str, subnet: dict[str, Any]
) -> None:
    router = str(alice.create("router")["id"])

    def statuses() -> dict[str, set[str]]:
        """As they are shown; the filter finds just those."""
        ports = admin.get("/ports", device_id=router)["ports"]
        shown = {port["id"]: port["status"] for port in ports}
        for status in ("ACTIVE", "DOWN"):
            found = set(admin.ids("ports", device_id=router, status=status))
            assert found == {port for port in shown if shown[port] == status}
        own = alice.get(f"/routers/{router}")["router"]["status"]
        assert alice.ids("routers", status=own) == [router]
        return {"router": {own}, "ports": set(shown.values())}

    assert statuses() == {"router": {"ACTIVE"}, "ports": set()}
    attach(alice, router, subnet_id=subnet["id"])
    assert statuses() == {"router": {"DOWN"}, "ports": {"DOWN"}}
    up(network, "a")
    network.rehome_routers(SILENCE)
    alice.update("router", router, external_gateway_info={"network_id": external})
    assert statuses() == {"router": {"ACTIVE"}, "ports": {"ACTIVE"}}
    assert len(admin.ids("ports", device_id=router, sort_key="status")) == 2
    alice.update("router", router, admin_state_up=False)
    assert statuses() == {"router": {"DOWN"}, "ports": {"ACTIVE"}}


def test_hosts_with_any_plug_have_routers(alice: Caller, network: BuiltinNetwork, external: str) -> None:
    kinds: dict[str, PlugKind] = {"a": "ovs-hybrid", "b": "ovs"}
    for host, kind in kinds.items():
        report(network, host, plug=kind)
    for _ in range(2):
        made = alice.create("router", external_gateway_info={"network_id": external})
        assert made["status"] == "ACTIVE"
    assert [len(network.host_routers(host).routers) for host in ("a", "b")] == [1, 1]
    silent(network, "a")
    network.rehome_routers(SILENCE)
    assert [len(network.host_routers(host).routers) for host in ("a", "b")] == [0, 2]


def places(network: BuiltinNetwork, *names: str) -> list[int]:
    """How many routers each has."""
    return [len(network.host_routers(name).routers) for name in names]


def test_a_router_that_its_host_cannot_make_is_down_and_goes_elsewhere(
    alice: Caller, network: BuiltinNetwork, told: Told, external: str, net: str, subnet: dict[str, Any]
) -> None:
    report(network, "a")
    router = alice.create("router", external_gateway_info={"network_id": external})["id"]
    attach(alice, router, subnet_id=subnet["id"])
    port = alice.create("port", network_id=net)["id"]
    floating = alice.create("floatingip", floating_network_id=external, port_id=port)["id"]
    other = alice.create("router", external_gateway_info={"network_id": external})["id"]

    def statuses(of: str = router) -> set[str]:
        shown = alice.get(f"/routers/{of}")["router"]["status"]
        assert of in alice.ids("routers", status=shown)
        ports = alice.get("/ports", device_id=of)["ports"]
        return {shown, *(one["status"] for one in ports)}

    assert statuses() == {"ACTIVE"}
    report(network, "a", failed_routers=[router])
    assert statuses() == {"DOWN"}
    assert statuses(other) == {"ACTIVE"}
    assert alice.get(f"/floatingips/{floating}")["floatingip"]["status"] == "DOWN"
    network.rehome_routers(SILENCE)
    assert places(network, "a") == [2], "there is no better one"
    report(network, "a")
    assert statuses() == {"ACTIVE"}

    report(network, "a", failed_routers=[router])
    report(network, "b")
    told.take()
    BuiltinNetwork(network.db, network.config, told).rehome_routers(SILENCE)
    assert told.take() >= {"a", "b"}
    assert [one.id for one in network.host_routers("b").routers] == [router]
    assert statuses() == {"ACTIVE"}
    assert alice.get(f"/floatingips/{floating}")["floatingip"]["status"] == "ACTIVE"
    report(network, "b", failed_routers=[router])
    network.rehome_routers(SILENCE)
    assert [one.id for one in network.host_routers("b").routers] == [router], "both refuse it"
    assert statuses() == {"DOWN"}


def test_routers_are_spread(alice: Caller, network: BuiltinNetwork, external: str) -> None:
    for host in ("a", "b"):
        up(network, host)
    for _ in range(4):
        alice.create("router", external_gateway_info={"network_id": external})
    assert [len(network.host_routers(host).routers) for host in ("a", "b")] == [2, 2]


def test_every_change_is_told_to_whom_it_concerns(
    alice: Caller,
    admin: Caller,
    network: BuiltinNetwork,
    told: Told,
    net: str,
    subnet: dict[str, Any],
    external: str,
) -> None:
    up(network, "a")
    asked = [RequestedNetwork(network_id=net)]
    network.allocate_for_instance("s", "p", "h", "elsewhere", "zone", asked)
    router = alice.create("router")["id"]
    assert told.take() == set()
    attach(alice, router, subnet_id=subnet["id"])
    assert told.take() == {"a", "elsewhere"}
    assert network.host_routers("elsewhere").gateways == {net: ["10.0.0.1"]}
    assert network.host_routers("nowhere").gateways == {}
    alice.update("router", router, external_gateway_info={"network_id": external})
    assert told.take() == {"a"}
    floating = alice.create("floatingip", floating_network_id=external)["id"]
    assert told.take() == set()
    port = alice.create("port", network_id=net)
    for wanted in (port["id"], None, port["id"]):
        alice.update("floatingip", floating, port_id=wanted)
        assert told.take() == {"a"}
    (state,) = network.host_routers("a").routers
    assert [one.fixed_ip for one in state.floating_ips] == [port["fixed_ips"][0]["ip_address"]]
    alice.delete("port", port["id"])
    assert told.take() == {"a"}
    route = {"destination": "192.168.0.0/24", "nexthop": "10.0.0.9"}
    alice.update("router", router, routes=[route])
    assert told.take() == {"a"}
    admin.create("subnet", network_id=external, cidr="192.0.2.0/24", enable_dhcp=False)
    assert told.take() == {"a"}
    (state,) = network.host_routers("a").routers
    assert state.gateway is not None
    assert [one.cidr for one in state.gateway.subnets] == ["198.51.100.0/24", "192.0.2.0/24"]
    assert [one.nexthop for one in state.routes] == ["10.0.0.9"]
    alice.update("router", router, admin_state_up=False, routes=[])
    assert told.take() == {"a"}
    down = network.host_routers("a")
    assert (down.routers, down.gateways) == ([], {})
    assert network.host_routers("elsewhere").gateways == {net: ["10.0.0.1"]}
    detach(alice, router, subnet_id=subnet["id"])
    assert told.take() == {"a", "elsewhere"}
    alice.delete("router", router)
    assert told.take() == {"a"}


def test_the_hosts_of_a_network_hear_that_its_router_came_or_is_down(
    alice: Caller, network: BuiltinNetwork, told: Told, external: str, net: str, subnet: dict[str, Any]
) -> None:
    """A router with interfaces gets its host with its gateway, if there was none before."""
    router = alice.create("router")["id"]
    attach(alice, router, subnet_id=subnet["id"])
    with network.db.write() as conn:
        service = hosts.seen(conn, "nova-compute", "a", "nova")
        one = HostReport(
            hypervisor_hostname="a",
            hypervisor_type="QEMU",
            hypervisor_version=1,
            host_ip="192.0.2.1",
            total=Capacity(vcpus=4, memory_mb=4096, disk_gb=100),
            tunnel_address="192.0.2.1",
        )
        hosts.report(conn, service, "a", one, network.config.compute)

    def places() -> set[str]:
        with network.db.read() as conn:
            return set(segments.places(conn, [net])[net])

    for change, now in (
        ({"external_gateway_info": {"network_id": external}}, {"a"}),
        ({"admin_state_up": False}, set()),
        ({"admin_state_up": True}, {"a"}),
    ):
        told.networks.clear()
        alice.update("router", router, **change)
        assert told.networks == {net}
        assert places() == now
    told.networks.clear()
    alice.update("router", router, name="other")
    assert told.networks == set()


def test_a_router_is_in_the_zones_that_were_asked_for(alice: Caller, network: BuiltinNetwork) -> None:
    with network.db.write() as conn:
        for host, zone in (("a", "west"), ("b", "east"), ("c", "north")):
            hosts.seen(conn, "nova-compute", host, zone)
    gone = network.config.compute.service_down_time + 1
    with network.db.write() as conn:
        conn.exec_driver_sql(f"UPDATE services SET last_seen = last_seen - {gone} WHERE host = 'c'")
    zones = alice.get("/availability_zones")["availability_zones"]
    assert [(zone["name"], zone["state"]) for zone in zones] == [
        ("east", "available"),
        ("north", "unavailable"),
        ("west", "available"),
    ]
    assert alice.get("/availability_zones", name="west", state="available", fields="resource") == {
        "availability_zones": [{"resource": "router"}]
    }
    assert alice.refused("GET", "/availability_zones?nonsense=1")[0] == 400
    cases = ((["west"], ["west"]), (["north"], []), (["north", "east"], ["east"]))
    for number, (asked, wanted) in enumerate(cases):
        router = alice.create("router", availability_zone_hints=asked)
        assert (router["availability_zone_hints"], router["availability_zones"]) == (asked, [])
        net = alice.create("network")["id"]
        subnet = alice.create("subnet", network_id=net, cidr=f"10.{number}.0.0/24")["id"]
        alice("PUT", f"/routers/{router['id']}/add_router_interface", {"subnet_id": subnet})
        assert alice.get(f"/routers/{router['id']}")["router"]["availability_zones"] == wanted
    with network.db.write() as conn:
        hosts.seen(conn, "nova-compute", "c", "north")
    network.rehome_routers(network.config.compute.service_down_time)
    assert all(router["availability_zones"] for router in alice.get("/routers")["routers"])
    refused = alice.refused_create("router", availability_zone_hints=["nowhere"])
    assert refused == (404, "AvailabilityZoneNotFound")
