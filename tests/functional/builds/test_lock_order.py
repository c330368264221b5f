"""Everybody locks in one order (store/database.py), so that no two wait for each other: ports and what they
take before their server, routers by their ids. On PostgreSQL alone, where many write."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from tests.functional.builds.cloud import PATIENCE, Cloud
from tests.functional.builds.conftest import MakeCloud
from tests.running import until

from kilonova.store import ports, routers, subnets

pytestmark = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)

_WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


@pytest.fixture
def cloud(make_cloud: MakeCloud) -> Cloud:
    return make_cloud()


def is_free(
    cloud: Cloud, table: str, row: str, held: Callable[[sa.Connection], object], request: Callable[[], Any]
) -> Any:
    """While somebody holds ``held``, ``request`` waits for that and has not locked that row; its answer."""
    with ThreadPoolExecutor(1) as pool:
        with cloud.db.write() as conn:
            held(conn)
            asked = pool.submit(request)
            until(lambda: conn.exec_driver_sql(_WAITING).scalar() or asked.done(), PATIENCE, "it to wait")
            assert not asked.done()
            conn.exec_driver_sql(f"SELECT id FROM {table} WHERE id = %s FOR UPDATE NOWAIT", (row,))
        return asked.result(timeout=PATIENCE)


def test_the_ports_come_before_their_server(cloud: Cloud) -> None:
    network = cloud.make_network()
    server = cloud.active(network)
    (nic,) = cloud.ask("GET", f"/compute/v2.1/servers/{server}/os-interface")[1]["interfaceAttachments"]
    port, (fixed,) = nic["port_id"], nic["fixed_ips"]

    def act(action: str, value: Any) -> Callable[[], Any]:
        path = f"/compute/v2.1/servers/{server}/action"
        headers = {"OpenStack-API-Version": "compute 2.43"}
        return lambda: cloud.ask("POST", path, {action: value}, headers=headers)[0]

    def port_held(conn: sa.Connection) -> None:
        ports.by_id(conn, [port], for_update=True)

    def subnets_held(conn: sa.Connection) -> None:
        subnets.of_networks(conn, [network], for_update=True)

    def attach() -> Any:
        return cloud.ask("POST", f"/compute/v2.1/servers/{server}/os-interface", {})[0]

    add = act("addFixedIp", {"networkId": network})
    assert is_free(cloud, "servers", server, port_held, add) == 202
    assert is_free(cloud, "servers", server, subnets_held, add) == 202
    remove = act("removeFixedIp", {"address": fixed["ip_address"]})
    assert is_free(cloud, "servers", server, port_held, remove) == 202
    assert is_free(cloud, "servers", server, subnets_held, attach) == 200
    assert cloud.unexplained() == []


def test_the_routers_of_a_floating_ip_come_in_their_order(cloud: Cloud) -> None:
    def make(kind: str, caller: str = "admin", **values: Any) -> str:
        status, made = cloud.ask("POST", f"/networking/v2.0/{kind}s", {kind: values}, caller)
        assert status == 201, made
        return str(made[kind]["id"])

    outside = make("network", **{"router:external": True})
    make("subnet", network_id=outside, cidr="198.51.100.0/24", ip_version=4)
    behind = {}
    for number in range(2):
        network = make("network")
        subnet = make("subnet", network_id=network, cidr=f"10.0.{number}.0/24", ip_version=4)
        router = make("router", external_gateway_info={"network_id": outside})
        path = f"/networking/v2.0/routers/{router}/add_router_interface"
        assert cloud.ask("PUT", path, {"subnet_id": subnet}, "admin")[0] == 200
        behind[router] = make("port", network_id=network)
    first, last = sorted(behind)
    floating = make("floatingip", floating_network_id=outside, port_id=behind[last])

    def move() -> Any:
        body = {"floatingip": {"port_id": behind[first]}}
        return cloud.ask("PUT", f"/networking/v2.0/floatingips/{floating}", body, "admin")[0]

    def first_held(conn: sa.Connection) -> None:
        routers.get(conn, first, None, for_update=True)

    assert is_free(cloud, "routers", last, first_held, move) == 200
