"""What a real switch does not take: many ports' flows fit, one that does not closes whom it concerns."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs
from tests.contract.test_plug import answers, arrives
from tests.openvswitch import installed
from tests.plugs import PlugLab, plug_lab
from tests.system.host_network.lab import BROADCAST, ipv4, make_vif

from kilonova.domain.network import NetworkState
from kilonova.network.host.switch import flows, openflow, port_flows
from kilonova.network.host.switch.flows import GUARD, Flow
from kilonova.network.host.switch.port_flows import Guarded, Seat

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="changes the host's network"),
    pytest.mark.skipif(not installed(), reason="Open vSwitch is not installed"),
]

MANY = 1500


@pytest.fixture
def lab() -> Iterator[PlugLab]:
    with plug_lab("ovs") as one:
        yield one


def test_flows_of_many_ports_fit(lab: PlugLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as a host may have of one network; and by several flows each hears what is for all."""
    monkeypatch.setattr(port_flows, "_AT_ONCE", 1)
    one, two, three = (lab.guest(number) for number in (5, 6, 7))
    frame, last = (ipv4((one.vif.mac, BROADCAST), one.ip, "10.80.0.255", text=t) for t in (b"all", b"last"))
    for other in (two, three):
        assert arrives(one, other, [frame], last) == [frame]
    monkeypatch.undo()
    vifs = [make_vif(lab.subnet, 9, lab.network_id, security_groups=[]) for _ in range(MANY)]
    ports = [Guarded(vif, Seat(vif.tap, 1000 + n, 77), 1000 + n) for n, vif in enumerate(vifs)]
    made = [f"add {flows.text(1, flow)}" for flow in port_flows.network(77, ports)]
    control = lab.switch.folder / "br-int.mgmt"
    openflow.change(control, made)
    openflow.change(control, [f"delete cookie={flows.cookies(1)}"])


def test_a_flow_that_is_refused_closes_whom_it_concerns(
    lab: PlugLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No value is known that does this: so one port's are spoilt here."""
    one, two, three = (lab.guest(number) for number in (5, 6, 7))
    for guest in (one, two, three):
        guest.set_address()
    assert answers(one, two)
    made = port_flows.guarded_port

    def spoil(port: Guarded) -> list[Flow]:
        bad = [Flow(GUARD, 1, f"in_port={port.seat.number}", "output:70000")]
        return made(port) + (bad if port.vif.port_id == two.vif.port_id else [])

    monkeypatch.setattr(port_flows, "guarded_port", spoil)
    lab.restart()
    with capture_logs() as said:
        lab.host.refresh(NetworkState(), time.monotonic())
        four = lab.guest(8)
        lab.host.repair()
    assert [line for line in said if line["event"] == "left_closed"] == [], "known since the start"
    four.set_address()
    assert answers(one, three)
    assert answers(one, four)
    assert not answers(one, two)
    monkeypatch.undo()
    lab.restart()
    assert answers(one, two)
