"""What the control plane may rely on, whichever network service is behind NetworkService."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from tests.statements import sent

from kilonova.config import Config
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, BuildAborted, Conflict, Forbidden, QuotaExceeded
from kilonova.domain.network import Network, Port, Subnet, Vif
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.base import NetworkService
from kilonova.network.builtin import instances, networks, ports, subnets
from kilonova.network.builtin.errors import NetworkNotFound, PortNotFound
from kilonova.network.builtin.requests import (
    NetworkCreate,
    NetworkUpdate,
    PortCreate,
    PortUpdate,
    SubnetCreate,
)
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store.database import Database


def user(project: str | None, *roles: str) -> RequestContext:
    return RequestContext(request_id="r", user_id="u", project_id=project, roles=frozenset(roles))


ALICE, BOB, ADMIN = user("alice", "member"), user("bob", "member"), user("admin", "admin")


@dataclass(frozen=True)
class Cloud:
    """A service with ways to make what its users would have made."""

    service: BuiltinNetwork

    def network(self, context: RequestContext = ALICE, cidr: str | None = "10.0.0.0/24", **said: Any) -> str:
        with self.service.db.write() as conn:
            made: Network = networks.create(conn, self.service.config, context, NetworkCreate(**said))
        if cidr:
            self.subnet(made.id, context, cidr=cidr)
        return made.id

    def subnet(self, network_id: str, context: RequestContext = ALICE, **said: Any) -> str:
        with self.service.db.write() as conn:
            body = SubnetCreate(network_id=network_id, **said)
            made: Subnet = subnets.create(conn, self.service.config, context, body)
        return made.id

    def port(self, network_id: str, context: RequestContext = ALICE, **said: Any) -> str:
        with self.service.db.write() as conn:
            body = PortCreate(network_id=network_id, **said)
            made: Port = ports.create(conn, self.service.config, context, body)
        return made.id

    def show(self, port_id: str) -> Port:
        with self.service.db.read() as conn:
            return ports.find(conn, ADMIN, port_id)

    def set_port(self, port_id: str, **said: Any) -> None:
        with self.service.db.write() as conn:
            ports.update(conn, self.service.config, ADMIN, port_id, PortUpdate(**said))

    def allocate(
        self, *requested: RequestedNetwork, server: str = "", host: str = "h1", project: str = "alice"
    ) -> list[Vif]:
        server = server or str(uuid.uuid4())
        return self.service.allocate_for_instance(server, project, "vm", host, "az1", list(requested))


@pytest.fixture
def cloud(new_database: Callable[[], Database]) -> Cloud:
    return Cloud(BuiltinNetwork(new_database(), Config()))


def limited(cloud: Cloud, quota_port: int) -> None:
    config = cloud.service.config
    few = msgspec.structs.replace(config.network, quota_port=quota_port)
    cloud.service.config = msgspec.structs.replace(config, network=few)


def on(network_id: str, **more: str) -> RequestedNetwork:
    return RequestedNetwork(network_id=network_id, **more)


def test_it_is_a_network_service(cloud: Cloud) -> None:
    service: NetworkService = cloud.service
    assert service.vifs([]) == {}


class TestAllocate:
    def test_all_that_a_host_needs(self, cloud: Cloud) -> None:
        net = cloud.network(name="red", mtu=1400)
        (vif,) = cloud.allocate(on(net, tag="eth"), server="s1")
        assert (vif.network_id, vif.network_name, vif.mtu) == (net, "red", 1400)
        assert (vif.server_id, vif.hostname, vif.tag) == ("s1", "vm", "eth")
        assert vif.port_security
        (address,) = vif.addresses
        assert (address.ip, address.subnet.gateway_ip) == ("10.0.0.3", "10.0.0.1")
        assert address.subnet.dhcp_address == "10.0.0.2"
        port = cloud.show(vif.port_id)
        assert (port.device_id, port.device_owner, port.host) == ("s1", "compute:az1", "h1")
        assert (port.project_id, port.dns_name, port.status) == ("alice", "vm", "DOWN")

    def test_nothing_asked_nothing_made(self, cloud: Cloud) -> None:
        assert cloud.allocate() == []

    def test_again_it_is_the_same_on_the_new_host(self, cloud: Cloud) -> None:
        net = cloud.network()
        mine = cloud.port(net)
        asked = [on(net), RequestedNetwork(port_id=mine), on(net)]
        first = cloud.allocate(*asked, server="s1")
        cloud.service.port_status(["s1"], True)
        assert cloud.allocate(*asked, server="s1") == first
        assert cloud.show(mine).status == "ACTIVE"
        assert cloud.allocate(*asked, server="s1", host="h2") == first
        assert {cloud.show(vif.port_id).host for vif in first} == {"h2"}
        assert {cloud.show(vif.port_id).status for vif in first} == {"DOWN"}

    def test_the_order_is_the_one_asked_for(self, cloud: Cloud) -> None:
        red, blue = cloud.network(name="red"), cloud.network(name="blue")
        mine = cloud.port(blue)
        asked = [on(blue), on(red), RequestedNetwork(port_id=mine), on(blue), on(red)]
        vifs = cloud.allocate(*asked, server="s1")
        assert [vif.network_name for vif in vifs] == ["blue", "red", "blue", "blue", "red"]
        assert vifs[2].port_id == mine
        assert cloud.service.vifs(["s1"])["s1"] == vifs

    def test_a_port_of_the_user(self, cloud: Cloud) -> None:
        net = cloud.network()
        mine = cloud.port(net, name="keep", dns_name="db")
        (vif,) = cloud.allocate(RequestedNetwork(port_id=mine, tag="t"), server="s1")
        assert (vif.port_id, vif.hostname, vif.tag) == (mine, "db", "t")
        cloud.service.port_status(["s1"], True)
        cloud.service.deallocate_for_instance("s1")
        port = cloud.show(mine)
        assert (port.device_id, port.device_owner, port.host, port.status) == ("", "", "", "DOWN")
        assert (port.name, port.dns_name, port.nic, port.nic_tag) == ("keep", "db", None, None)
        (again,) = cloud.allocate(RequestedNetwork(port_id=mine), server="s2")
        assert again.addresses == vif.addresses

    def test_a_fixed_address(self, cloud: Cloud) -> None:
        net = cloud.network()
        (vif,) = cloud.allocate(on(net, fixed_ip="10.0.0.99"))
        assert vif.addresses[0].ip == "10.0.0.99"
        with pytest.raises(BuildAborted, match="in use"):
            cloud.allocate(on(net, fixed_ip="10.0.0.99"))

    def test_the_next_subnet_when_one_is_full(self, cloud: Cloud) -> None:
        net = cloud.network(cidr="10.0.0.0/30")  # gateway and DHCP are all of it
        with pytest.raises(BuildAborted, match="No more IP addresses available on network"):
            cloud.allocate(on(net))
        cloud.subnet(net, cidr="10.0.1.0/24")
        assert cloud.allocate(on(net))[0].addresses[0].ip == "10.0.1.3"

    def test_all_or_nothing(self, cloud: Cloud) -> None:
        net, full = cloud.network(), cloud.network(cidr="10.0.0.0/30")
        mine = cloud.port(net)
        with pytest.raises(BuildAborted):
            cloud.allocate(on(net), RequestedNetwork(port_id=mine), on(full), server="s1")
        assert cloud.service.vifs(["s1"]) == {"s1": []}
        assert cloud.show(mine).device_id == ""

    @pytest.mark.parametrize("gone", [{"network_id": "nothing"}, {"port_id": "nothing"}])
    def test_what_went_meanwhile(self, cloud: Cloud, gone: dict[str, str]) -> None:
        with pytest.raises(BuildAborted, match="could not be found"):
            cloud.allocate(RequestedNetwork(**gone))

    def test_a_port_that_another_server_took(self, cloud: Cloud) -> None:
        mine = cloud.port(cloud.network())
        cloud.allocate(RequestedNetwork(port_id=mine), server="s1")
        with pytest.raises(BuildAborted, match="still in use"):
            cloud.allocate(RequestedNetwork(port_id=mine), server="s2")

    def test_the_quota_holds_in_a_race(self, cloud: Cloud) -> None:
        net = cloud.network()
        limited(cloud, 2)
        cloud.allocate(on(net), on(net))
        with pytest.raises(BuildAborted, match="Quota"):
            cloud.allocate(on(net))

    def test_a_device_id_that_a_stranger_wrote_gives_no_port(self, cloud: Cloud) -> None:
        theirs = cloud.network(BOB)
        cloud.port(theirs, BOB, device_id="s1", device_owner="compute:az1")
        (vif,) = cloud.allocate(on(cloud.network()), server="s1")
        assert vif.network_id != theirs
        assert cloud.service.vifs(["s1"]) == {"s1": [vif]}
        cloud.service.deallocate_for_instance("s1")


class TestAfterwards:
    def test_deallocate_frees_addresses_and_may_come_again(self, cloud: Cloud) -> None:
        net = cloud.network(cidr="10.0.0.0/29")
        cloud.allocate(*[on(net)] * 4, server="s1")
        with pytest.raises(BuildAborted):
            cloud.allocate(on(net))
        for _ in range(2):
            cloud.service.deallocate_for_instance("s1")
        assert cloud.service.vifs(["s1"]) == {"s1": []}
        assert len(cloud.allocate(*[on(net)] * 4)) == 4

    def test_vifs_of_many_cost_as_many_statements_as_of_one(self, cloud: Cloud) -> None:
        nets = [cloud.network() for _ in range(3)]
        servers = [f"s{n}" for n in range(20)]
        for server in servers:
            cloud.allocate(*map(on, nets), server=server)
        with sent(cloud.service.db) as seen:
            cloud.service.vifs(servers[:1])
            one = len(seen)
            assert {len(vifs) for vifs in cloud.service.vifs([*servers, "nobody"]).values()} == {3, 0}
        assert 2 <= len(seen) == 2 * one <= 12

    def test_who_has_this_address(self, cloud: Cloud) -> None:
        net, other = cloud.network(), cloud.network()
        (vif,) = cloud.allocate(on(net), server="s1")
        assert cloud.service.server_at(net, vif.addresses[0].ip) == "s1"
        assert cloud.service.server_at(other, vif.addresses[0].ip) is None
        assert cloud.service.server_at(net, "10.0.0.2") is None

    def test_the_hundredth_port_costs_no_more_than_the_second(self, cloud: Cloud) -> None:
        net = cloud.network(cidr="10.0.0.0/16")
        limited(cloud, -1)
        cloud.allocate(on(net))
        with sent(cloud.service.db) as second:
            cloud.allocate(on(net))
        for _ in range(97):
            cloud.allocate(on(net))
        with sent(cloud.service.db) as hundredth:
            cloud.allocate(on(net))
        assert len(hundredth) <= len(second) <= 20


class TestValidate:
    def check(
        self, cloud: Cloud, *asked: RequestedNetwork, count: int = 1, by: RequestContext = ALICE
    ) -> Any:
        return cloud.service.validate(by, list(asked), count)

    def test_what_is_right_comes_back_with_its_networks(self, cloud: Cloud) -> None:
        net = cloud.network()
        mine = cloud.port(net)
        good = self.check(cloud, on(net, fixed_ip="10.0.0.9"), RequestedNetwork(port_id=mine, tag="t"))
        assert good == [on(net, fixed_ip="10.0.0.9"), on(net, port_id=mine, tag="t")]
        assert self.check(cloud) == []
        assert self.check(cloud, on(net), on(net), count=5) == [on(net), on(net)]

    def test_only_what_the_asker_sees(self, cloud: Cloud) -> None:
        theirs = cloud.network(BOB)
        port = cloud.port(theirs, BOB)
        for asked in (
            on(theirs),
            RequestedNetwork(port_id=port),
            on("nothing"),
            RequestedNetwork(port_id="x"),
        ):
            with pytest.raises(BadRequest, match="could not be found"):
                self.check(cloud, asked)
        self.check(cloud, on(theirs), RequestedNetwork(port_id=port), by=ADMIN)
        shared = cloud.network(ADMIN, shared=True)
        self.check(cloud, on(shared))

    def test_on_a_network_of_others_the_address_is_not_the_askers_to_choose(self, cloud: Cloud) -> None:
        shared = on(cloud.network(ADMIN, shared=True), fixed_ip="10.0.0.9")
        with pytest.raises(Forbidden, match="disallowed by policy"):
            self.check(cloud, shared)
        assert self.check(cloud, shared, by=ADMIN) == [shared]

    @pytest.mark.parametrize(
        "ip", ["x", "10.0.0.0", "10.0.0.255", "10.0.0.1", "10.0.0.2", "10.9.0.1", "::1", "10.0.0.1/24"]
    )
    def test_addresses_that_do_not_fit(self, cloud: Cloud, ip: str) -> None:
        net = cloud.network()
        with pytest.raises(BadRequest):
            self.check(cloud, on(net, fixed_ip=ip))

    def test_ports_that_are_not_to_be_had(self, cloud: Cloud) -> None:
        net = cloud.network()
        taken, bare, down = cloud.port(net), cloud.port(net, fixed_ips=[]), cloud.port(net)
        cloud.allocate(RequestedNetwork(port_id=taken))
        cloud.set_port(down, admin_state_up=False)
        with pytest.raises(Conflict, match="still in use"):
            self.check(cloud, RequestedNetwork(port_id=taken))
        with pytest.raises(BadRequest, match="requires a FixedIP"):
            self.check(cloud, RequestedNetwork(port_id=bare))
        with pytest.raises(BadRequest, match="down"):
            self.check(cloud, RequestedNetwork(port_id=down))
        with pytest.raises(BuildAborted, match="down"):
            cloud.allocate(RequestedNetwork(port_id=down))

    def test_networks_that_no_server_can_live_on(self, cloud: Cloud) -> None:
        with pytest.raises(BadRequest, match="requires a subnet"):
            self.check(cloud, on(cloud.network(cidr=None)))
        with pytest.raises(BadRequest, match="down"):
            self.check(cloud, on(cloud.network(admin_state_up=False)))

    def test_one_thing_for_one_nic(self, cloud: Cloud) -> None:
        net = cloud.network()
        mine = RequestedNetwork(port_id=cloud.port(net))
        exact = on(net, fixed_ip="10.0.0.9")
        for asked, count in (([mine, mine], 1), ([mine], 2), ([exact], 2), ([exact, exact], 1)):
            with pytest.raises(BadRequest):
                self.check(cloud, *asked, count=count)

    def test_quota(self, cloud: Cloud) -> None:
        net = cloud.network()
        limited(cloud, 3)
        self.check(cloud, on(net), count=3)
        for asked, count in (([on(net)], 4), ([on(net)] * 2, 2)):
            with pytest.raises(QuotaExceeded) as refused:
                self.check(cloud, *asked, count=count)
            assert refused.value.status == 403


class TestAuto:
    def test_the_only_network(self, cloud: Cloud) -> None:
        with pytest.raises(BadRequest):
            cloud.service.auto(ALICE)
        cloud.network(BOB)
        cloud.network(cidr=None)
        cloud.network(admin_state_up=False)
        net = cloud.network()
        assert cloud.service.auto(ALICE) == [on(net)]
        cloud.network(ADMIN, shared=True)
        with pytest.raises(Conflict, match="Multiple possible networks"):
            cloud.service.auto(ALICE)


def test_concurrent_builds_and_deletes_leave_nothing(cloud: Cloud, run_threads: Callable[..., None]) -> None:
    net = cloud.network()

    def work(n: int) -> None:
        for k in range(5):
            cloud.allocate(on(net), on(net), server=f"{n}-{k}")
            cloud.service.port_status([f"{n}-{k}"], True)
            cloud.service.deallocate_for_instance(f"{n}-{k}")

    run_threads(work, 6)
    with cloud.service.db.write() as conn:
        networks.delete(conn, ALICE, net)
        with pytest.raises(NetworkNotFound):
            networks.update(conn, cloud.service.config, ALICE, net, NetworkUpdate(name="x"))
        with pytest.raises(PortNotFound):
            ports.find(conn, ADMIN, "nothing")


def test_servers_on_the_same_networks_in_another_order_are_no_deadlock(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two transactions tell of ports on both networks; each holds what it has locked until both have."""
    red, blue = cloud.network(), cloud.network()
    for server, net in (("a", red), ("b", blue), ("c", blue), ("d", red)):
        cloud.allocate(on(net), server=server)
    both = threading.Barrier(2)
    refresh = instances.store.refresh_dhcp_status

    def refresh_and_meet(conn: Any, networks: list[str]) -> None:
        refresh(conn, networks)
        with suppress(threading.BrokenBarrierError):  # the other one waits for us as it should
            both.wait(1.0)

    monkeypatch.setattr(instances.store, "refresh_dhcp_status", refresh_and_meet)

    def tell(*servers: str) -> None:
        with cloud.service.db.write():
            cloud.service.port_status(servers, True)

    with ThreadPoolExecutor(2) as pool:
        told = [pool.submit(tell, *servers) for servers in (("a", "b"), ("c", "d"))]
    for one in told:
        one.result()
    with cloud.service.db.read() as conn:
        rows = conn.exec_driver_sql("SELECT DISTINCT status FROM ports").all()
    assert [tuple(row) for row in rows] == [("ACTIVE",)]


def test_many_servers_are_told_of_as_quickly_as_two(cloud: Cloud) -> None:
    nets = [cloud.network(), cloud.network()]
    servers = [f"s{number}" for number in range(12)]
    for number, server in enumerate(servers):
        cloud.allocate(on(nets[number % 2]), server=server)

    def statements(*told: str) -> int:
        with sent(cloud.service.db) as said:
            cloud.service.port_status(told, True)
        return len(said)

    assert statements(*servers[:2]) == statements(*servers[2:])


def test_ports_of_nobody_are_told_of_for_nothing(cloud: Cloud) -> None:
    cloud.service.port_status([], True)
    cloud.service.port_status(["no-such", "nor-this"], True)


@pytest.fixture
def run_threads() -> Callable[..., None]:
    """``run_threads(work, n)``: work(0) … work(n-1) at once; the first error is raised."""

    def run(work: Callable[[int], None], count: int) -> None:
        with ThreadPoolExecutor(count) as pool:
            for _ in pool.map(work, range(count)):
                pass

    return run
