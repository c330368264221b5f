"""How soon a host's network is as it should be again after others have damaged it, by each kind of plug.

A `kilonova up` with guests that run nothing. From the damage, done at any moment, until the doctor, asked all
the time, has nothing to say any more: one of its own looks is in it.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from tests.host_oracle import HostOracle, real_machine
from tests.openvswitch import OpenVSwitch, installed
from tests.plugs import KINDS
from tests.running import Up, until
from tests.system.wounds import Host, Wound

from bench.figure import Figure
from kilonova.domain.network import PlugKind

_ROUNDS = 3
_PROMISED = 10
"""Seconds."""
_PATIENCE = 60.0
_PERIOD = 5.0
"""Seconds between two looks of an agent: a wound comes at any moment of them."""
_IMAGE = bytes(1 << 16)
_NETWORKING = "/networking/v2.0"


def mending() -> list[Figure]:
    if os.geteuid() != 0 or not installed():
        return []
    return [figure for kind in KINDS for figure in _of(kind)]


def _of(kind: PlugKind) -> list[Figure]:
    figures = []
    with _host(kind) as host:
        for wound in [one for together in host.wounds() for one in together]:
            taken = [_from_wound_to_repair(host, wound) for _ in range(_ROUNDS)]
            note = f"median {median(taken):.1f}"
            figures.append(
                Figure(f"{kind}: {wound.what}, until mended", max(taken), "s", _PROMISED, note=note)
            )
    return figures


def _from_wound_to_repair(host: Host, wound: Wound) -> float:
    until(lambda: host.doctor() == [], _PATIENCE, "all to be well")
    time.sleep(random.uniform(0, _PERIOD))
    at = time.time()
    wound.done()
    if host.switch and not host.switch.runs:
        host.switch.start()
    began = time.perf_counter()
    until(lambda: host.doctor() == [], _PATIENCE, f"{wound.what}: to be mended")
    taken = time.perf_counter() - began
    if wound.mended:
        until(lambda: [one for one in host.mended(wound.mended) if one.last >= at], _PATIENCE, wound.mended)
    return taken


@contextmanager
def _host(kind: PlugKind) -> Iterator[Host]:
    with real_machine() as (up, oracle):
        switch = None
        if kind != "bridge":
            switch = OpenVSwitch(up.state.parent / "ovs", segments=kind == "ovs").start()
        try:
            connection = f'ovsdb_connection = "{switch.connection}"\n' if switch else ""
            up.start(f'[network]\nplug = "{kind}"\n{connection}')
            yield _peopled(up, oracle, kind, switch)
        finally:
            up.kill()
            if switch:
                switch.kill()


def _peopled(up: Up, oracle: HostOracle, kind: PlugKind, switch: OpenVSwitch | None) -> Host:
    """Two guests on a network each, and a router that leads out."""
    flavor = {"id": "small", "name": "small", "vcpus": 1, "ram": 64, "disk": 0}
    _post(up, "/compute/v2.1/flavors", flavor=flavor)
    image = up.image(_IMAGE)
    first, second = (up.network(f"10.93.{number}.0/24") for number in (1, 2))
    public = _post(up, f"{_NETWORKING}/networks", network={"name": "public", "router:external": True})["id"]
    outside = {"network_id": public, "cidr": "198.51.100.0/24", "ip_version": 4, "enable_dhcp": False}
    _post(up, f"{_NETWORKING}/subnets", subnet=outside)
    leads = {"external_gateway_info": {"network_id": public}}
    router = str(_post(up, f"{_NETWORKING}/routers", router=leads)["id"])
    for network in (first, second):
        (subnet,) = up.ask("GET", f"{_NETWORKING}/subnets?network_id={network}")[1]["subnets"]
        path = f"{_NETWORKING}/routers/{router}/add_router_interface"
        assert up.ask("PUT", path, {"subnet_id": subnet["id"]})[0] == 200
    return Host(
        state=up.state,
        plug=kind,
        switch=switch,
        network=first,
        ports=(_port_of_a_guest(up, image, first), _port_of_a_guest(up, image, second)),
        router=router,
        dhcp=_pid_of(oracle, first),
    )


def _pid_of(oracle: HostOracle, network: str) -> Callable[[], int]:
    return lambda: oracle.dnsmasqs()[network]


def _port_of_a_guest(up: Up, image: str, network: str) -> str:
    status, answer = up.post_server(image, network, flavorRef="small")
    assert status == 202, answer
    server = up.settled(answer["server"]["id"])
    assert server["status"] == "ACTIVE", server
    (port,) = up.ask("GET", f"{_NETWORKING}/ports?device_id={server['id']}")[1]["ports"]
    return str(port["id"])


def _post(up: Up, path: str, **body: Any) -> Any:
    status, answer = up.ask("POST", path, body)
    assert status in (200, 201), answer
    (made,) = answer.values()
    return made
