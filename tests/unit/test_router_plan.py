"""What a router is on its host, worked out of its state."""

from __future__ import annotations

from uuid import uuid4

import pytest
from msgspec import structs

from kilonova.domain.errors import BuildFailed
from kilonova.domain.network import HostRoute
from kilonova.domain.routers import (
    ExternalSubnet,
    RouterAddress,
    RouterFloatingIp,
    RouterForwarding,
    RouterGateway,
    RouterInterface,
    RouterState,
)
from kilonova.network.host.router_plan import Flow, Route, check, contradicts, plan
from kilonova.network.host.router_rules import router_table

NET, PUBLIC = "10.0.0.0/24", "198.51.100.0/24"
GATEWAY, FLOATING, FIXED, CLIENT = "198.51.100.10", "198.51.100.20", "10.0.0.5", "203.0.113.9"


def state(**more: object) -> RouterState:
    interface = RouterInterface(
        port_id=str(uuid4()),
        network_id=str(uuid4()),
        mac="fa:16:3e:00:00:01",
        addresses=[RouterAddress(ip="10.0.0.1", cidr=NET)],
    )
    return RouterState(id=str(uuid4()), interfaces=[interface], **more)  # type: ignore[arg-type]


def gateway() -> RouterGateway:
    return RouterGateway(
        port_id=str(uuid4()),
        network_id=str(uuid4()),
        mac="fa:16:3e:00:00:02",
        addresses=[RouterAddress(ip=GATEWAY, cidr=PUBLIC)],
        subnets=[
            ExternalSubnet(cidr=PUBLIC, gateway_ip="198.51.100.1"),
            ExternalSubnet(cidr="192.0.2.0/24", gateway_ip="192.0.2.1"),
        ],
    )


def with_floating() -> RouterState:
    return state(gateway=gateway(), floating_ips=[RouterFloatingIp(floating_ip=FLOATING, fixed_ip=FIXED)])


def test_a_router_within() -> None:
    made = plan(state(routes=[HostRoute(destination="192.168.0.0/24", nexthop="10.0.0.9")]))
    (inside,) = made.devices
    assert inside.name.startswith("qr-")
    assert inside.addresses == ["10.0.0.1/24"]
    assert made.routes == [Route(destination="192.168.0.0/24", nexthop="10.0.0.9")]
    assert router_table(made).chains == []


def test_a_router_with_a_way_out() -> None:
    made = plan(with_floating())
    outside = made.devices[-1]
    assert outside.name == made.outside
    assert outside.addresses == [f"{GATEWAY}/24", f"{FLOATING}/32"]
    assert str(outside.bridge).startswith("knx")
    assert made.routes == [
        Route(destination="192.0.2.0/24", nexthop=None, device=outside.name),
        Route(destination="0.0.0.0/0", nexthop="198.51.100.1"),
    ]
    assert plan(with_floating(), "shared").devices[-1].bridge == "shared"
    assert all(len(name) <= 15 for device in made.devices for name in (device.name, device.link))


@pytest.mark.parametrize(
    ("flow", "wrong"),
    [
        ((CLIENT, FLOATING, FIXED, CLIENT), False),
        ((CLIENT, FLOATING, "10.0.0.6", CLIENT), True),  # it leads elsewhere now
        ((CLIENT, "198.51.100.21", FIXED, CLIENT), True),  # it is no floating IP any more
        ((FIXED, CLIENT, CLIENT, FLOATING), False),
        ((FIXED, CLIENT, CLIENT, GATEWAY), False),  # began before it had a floating IP
        ((FIXED, CLIENT, CLIENT, "198.51.100.21"), True),
        (("10.0.0.6", CLIENT, CLIENT, FLOATING), True),
        (("10.0.0.6", CLIENT, CLIENT, GATEWAY), False),
        (("10.0.0.6", FLOATING, FIXED, GATEWAY), False),  # from inside
        (("10.0.0.6", "10.1.0.6", "10.1.0.6", "10.0.0.6"), False),
    ],
)
def test_connections_that_contradict(flow: tuple[str, str, str, str], wrong: bool) -> None:
    source, target, answers_from, answers_to = flow
    one = Flow(source=source, target=target, answers_from=answers_from, answers_to=answers_to)
    assert contradicts(plan(with_floating()), one) is wrong


def forwarding(**more: object) -> RouterForwarding:
    values: dict[str, object] = {
        "floating_ip": FLOATING,
        "fixed_ip": FIXED,
        "protocol": "tcp",
        "external_first": 80,
        "external_last": 80,
        "internal_first": 8080,
        "internal_last": 8080,
    }
    return RouterForwarding(**(values | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "protocol", "port", "answers_from", "answers_port", "wrong"),
    [
        (FLOATING, 6, 80, FIXED, 8080, False),
        (FLOATING, 6, 80, FIXED, 80, True),  # to another port
        (FLOATING, 6, 80, FLOATING, 80, True),  # nothing was forwarded when it began
        (FLOATING, 17, 80, FIXED, 8080, True),  # no such protocol
        (FLOATING, 17, 80, FLOATING, 80, False),
        (FLOATING, 6, 5003, FIXED, 6003, False),
        (FLOATING, 6, 5003, FIXED, 6000, True),
        (FLOATING, 6, 7003, FIXED, 7000, False),
        (FLOATING, 1, None, FIXED, None, True),
        (FLOATING, 1, None, FLOATING, None, False),
    ],
)
def test_connections_by_forwarded_ports_that_contradict(
    target: str, protocol: int, port: int | None, answers_from: str, answers_port: int | None, wrong: bool
) -> None:
    shifted = {"external_first": 5000, "external_last": 5009, "internal_first": 6000, "internal_last": 6009}
    to_one = {"external_first": 7000, "external_last": 7009, "internal_first": 7000, "internal_last": 7000}
    made = plan(
        state(gateway=gateway(), forwardings=[forwarding(), forwarding(**shifted), forwarding(**to_one)])
    )
    assert made.devices[-1].addresses == [f"{GATEWAY}/24", f"{FLOATING}/32"]
    one = Flow(
        source=CLIENT,
        target=target,
        answers_from=answers_from,
        answers_to=CLIENT,
        protocol=protocol,
        port=port,
        answers_port=answers_port,
    )
    assert contradicts(made, one) is wrong


def test_states_that_must_not_come_near_a_rule() -> None:
    good = with_floating()
    check(good)
    (interface,) = good.interfaces
    wrong = [
        structs.replace(good, id="../x"),
        structs.replace(good, interfaces=[structs.replace(interface, mac="drop")]),
        structs.replace(good, interfaces=[structs.replace(interface, port_id="x")]),
        structs.replace(
            good,
            interfaces=[structs.replace(interface, addresses=[RouterAddress(ip="10.1.0.1", cidr=NET)])],
        ),
        structs.replace(good, floating_ips=[RouterFloatingIp(floating_ip="x", fixed_ip=FIXED)]),
        structs.replace(good, forwardings=[forwarding(floating_ip="x")]),
        structs.replace(good, forwardings=[forwarding(protocol="drop")]),
        structs.replace(good, forwardings=[forwarding(external_last=65536)]),
        structs.replace(good, forwardings=[forwarding(internal_last=8090)]),
        structs.replace(good, routes=[HostRoute(destination="x", nexthop="10.0.0.9")]),
    ]
    for one in wrong:
        with pytest.raises(BuildFailed):
            check(one)
