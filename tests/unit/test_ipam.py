"""Which addresses a subnet has and gives out, whatever its size, its gateway and its pools."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kilonova.config import Config
from kilonova.domain.context import RequestContext
from kilonova.domain.network import Pool
from kilonova.network.builtin import addressing, networks, ports, subnets
from kilonova.network.builtin.errors import IpAddressGenerationFailure, IpAddressInUse
from kilonova.network.builtin.requests import FixedIpRequest, NetworkCreate, PortCreate, SubnetCreate
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store.database import Database
from kilonova.store.schema.networks import ip_allocations

ALICE = RequestContext(request_id="r", user_id="u", project_id="p", roles=frozenset({"member"}))
UNLIMITED = Config(network=Config().network.__class__(quota_network=-1, quota_subnet=-1, quota_port=-1))


@contextmanager
def service(path: Any) -> Iterator[BuiltinNetwork]:
    db = Database(f"sqlite:///{path}")
    db.create()
    yield BuiltinNetwork(db, UNLIMITED)
    db.close()


def make_subnet(network: BuiltinNetwork, **asked: Any) -> str:
    """A new network with that subnet; the network's id."""
    with network.db.write() as conn:
        made = networks.create(conn, network.config, ALICE, NetworkCreate())
        subnets.create(conn, network.config, ALICE, SubnetCreate(network_id=made.id, **asked))
    return made.id


def take(network: BuiltinNetwork, network_id: str, ip: str | None = None) -> tuple[str, str]:
    """(port id, its address)."""
    body = PortCreate(network_id=network_id)
    if ip is not None:
        body = PortCreate(network_id=network_id, fixed_ips=[FixedIpRequest(ip_address=ip)])
    with network.db.write() as conn:
        port = ports.create(conn, network.config, ALICE, body)
    return port.id, port.fixed_ips[0].ip_address


def give_back(network: BuiltinNetwork, port_id: str) -> None:
    with network.db.write() as conn:
        ports.delete(conn, ALICE, port_id)


cidrs = st.builds(
    lambda number, prefix: IPv4Network((0x0A000000 | number, prefix), strict=False),
    st.integers(0, 0xFFFFFF),
    st.integers(8, 30),
)


@given(cidrs, st.data())
def test_default_pools_are_every_host_but_the_gateway(cidr: IPv4Network, data: st.DataObject) -> None:
    first, last = addressing.hosts(cidr)
    gateway = data.draw(st.none() | st.integers(first, last).map(IPv4Address))
    pools = addressing.default_pools(cidr, gateway)
    assert addressing.check_pools(cidr, gateway, pools) == pools
    given = sum(int(IPv4Address(pool.end)) - int(IPv4Address(pool.start)) + 1 for pool in pools)
    assert given == cidr.num_addresses - 2 - (gateway is not None)


@given(cidrs, st.data())
def test_the_ring_goes_once_round_the_pools(cidr: IPv4Network, data: st.DataObject) -> None:
    first, last = addressing.hosts(cidr)
    cuts = sorted(data.draw(st.sets(st.integers(first, last), min_size=2, max_size=6)))
    cuts = cuts[: len(cuts) // 2 * 2]
    pools = [
        Pool(start=str(IPv4Address(a)), end=str(IPv4Address(b)))
        for a, b in zip(cuts[::2], cuts[1::2], strict=True)
    ]
    start = data.draw(st.integers(first - 1, last + 1))
    spans = addressing.spans(pools, start)
    assert sum(b - a + 1 for a, b in spans) == sum(b - a + 1 for a, b in addressing.spans(pools, 0))
    begun = [a >= start for a, _ in spans]
    assert begun == sorted(begun, reverse=True)
    assert all(a <= b for a, b in spans)


class Subnet(RuleBasedStateMachine):
    """A small subnet beside the plainest model of it: a set of the addresses that are taken."""

    @initialize(
        prefix=st.integers(26, 29),
        gateway=st.integers(1, 6),
        pools=st.none() | st.tuples(st.integers(1, 2), st.integers(3, 4), st.integers(5, 6)),
    )
    def make(self, prefix: int, gateway: int, pools: tuple[int, int, int] | None) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.cidr = IPv4Network((0x0A000000, prefix))
        self.gateway = self.cidr[gateway]
        asked: dict[str, Any] = {"cidr": str(self.cidr), "gateway_ip": str(self.gateway)}
        self.pool = {ip for ip in self.cidr.hosts() if ip != self.gateway}
        if pools is not None:
            self.pool = {self.cidr[n] for n in range(pools[0], pools[2] + 1)} - {self.gateway}
            asked["allocation_pools"] = [Pool(start=str(ip), end=str(ip)) for ip in sorted(self.pool)]
        self.context = service(Path(self.folder.name) / "k.db")
        self.network = self.context.__enter__()
        self.net = make_subnet(self.network, enable_dhcp=False, **asked)
        self.taken: dict[IPv4Address, str] = {}

    @rule()
    def allocate(self) -> None:
        try:
            port, ip = take(self.network, self.net)
        except IpAddressGenerationFailure:
            assert self.pool <= set(self.taken)
            return
        assert IPv4Address(ip) in self.pool - set(self.taken)
        self.taken[IPv4Address(ip)] = port

    @rule(n=st.integers(1, 60))
    def ask_for(self, n: int) -> None:
        ip = self.cidr[min(n, self.cidr.num_addresses - 2)]
        try:
            port, _ = take(self.network, self.net, str(ip))
        except IpAddressInUse:
            assert ip == self.gateway or ip in self.taken
            return
        assert ip != self.gateway
        assert ip not in self.taken
        self.taken[ip] = port

    @precondition(lambda self: self.taken)
    @rule(n=st.integers(0, 100))
    def free(self, n: int) -> None:
        give_back(self.network, self.taken.pop(sorted(self.taken)[n % len(self.taken)]))

    @invariant()
    def the_database_agrees(self) -> None:
        with self.network.db.read() as conn:
            rows = conn.execute(sa.select(ip_allocations.c.ip, ip_allocations.c.number)).all()
        assert {IPv4Address(row.ip) for row in rows} == {IPv4Address(row.number) for row in rows}
        assert {IPv4Address(row.ip) for row in rows} == set(self.taken)

    def teardown(self) -> None:
        self.context.__exit__(None, None, None)
        self.folder.cleanup()


TestSubnet = Subnet.TestCase
TestSubnet.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)


def test_a_freed_address_rests_until_the_others_were_given(tmp_path: Any) -> None:
    with service(tmp_path / "k.db") as network:
        net = make_subnet(network, cidr="10.0.0.0/29", enable_dhcp=False)
        port, first = take(network, net)
        give_back(network, port)
        rest = [take(network, net)[1] for _ in range(4)]
        assert first not in rest
        assert take(network, net)[1] == first


def test_builds_at_once_never_share_an_address(tmp_path: Any) -> None:
    with service(tmp_path / "k.db") as network:
        net = make_subnet(network, cidr="10.0.0.0/24")
        found: list[str] = []

        def build() -> None:
            found.extend(take(network, net)[1] for _ in range(25))

        threads = [threading.Thread(target=build) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == len(set(found)) == 200


def test_the_database_itself_refuses_an_address_twice(tmp_path: Any) -> None:
    with service(tmp_path / "k.db") as network:
        net = make_subnet(network, cidr="10.0.0.0/24")
        take(network, net)
        with network.db.write() as conn:
            row = dict(conn.execute(sa.select(ip_allocations).limit(1)).one()._mapping)
            with pytest.raises(sa.exc.IntegrityError):
                conn.execute(sa.insert(ip_allocations), row)


def test_a_crowded_16_is_searched_quickly(tmp_path: Any) -> None:
    """With 30,000 addresses in a row taken, the next one costs the database what the second did."""

    def cost() -> int:
        """What SQLite does for the next address, in thousands of instructions of its machine."""
        done = [0]

        def count() -> int:
            done[0] += 1
            return 0

        with network.db.write() as conn:
            raw: Any = conn.connection.driver_connection
            raw.set_progress_handler(count, 1000)
            ports.create(conn, network.config, ALICE, PortCreate(network_id=net))
            raw.set_progress_handler(None, 0)
        return done[0]

    with service(tmp_path / "k.db") as network:
        net = make_subnet(network, cidr="10.0.0.0/16", enable_dhcp=False)
        _, first = take(network, net)
        with network.db.write() as conn:
            row = dict(conn.execute(sa.select(ip_allocations)).one()._mapping)
        before = cost()
        with network.db.write() as conn:
            more = range(row["number"] + 2, row["number"] + 30_000)
            conn.execute(
                sa.insert(ip_allocations), [{**row, "number": n, "ip": str(IPv4Address(n))} for n in more]
            )
        assert take(network, net)[1] == str(IPv4Address(first) + 30_000)
        assert cost() <= before + 2
