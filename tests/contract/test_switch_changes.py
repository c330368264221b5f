"""What a change of rules costs a real switch: one run of ovs-ofctl, whatever else there is on the bridge."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from tests.contract.test_plug import answers
from tests.openvswitch import installed
from tests.plugs import PlugLab, plug_lab
from tests.system.host_network.lab import eventually

from kilonova.domain.errors import Unavailable
from kilonova.domain.network import NetworkState, PortSecurity
from kilonova.domain.security_groups import IPV4, Filter
from kilonova.network.host.switch import Switch, openflow
from kilonova.network.host.switch.disturbance import Disturbance

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="changes the host's network"),
    pytest.mark.skipif(not installed(), reason="Open vSwitch is not installed"),
]

GROUP = "5f9a4d8e-9d3a-4a3e-8a63-0a1f0f2f3b4c"


@pytest.fixture
def lab() -> Iterator[PlugLab]:
    with plug_lab("ovs") as one:
        yield one


def tell(lab: PlugLab, *rules: Filter) -> None:
    ports = [
        PortSecurity(port_id=port_id, port_security=True, security_groups=[GROUP])
        for port_id in lab.host.plugged()
    ]
    lab.host.refresh(NetworkState(ports=ports, groups={GROUP: list(rules)}), time.monotonic())


def test_a_change_is_one_run_of_ovs_ofctl(lab: PlugLab, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = lab.guest(5), lab.guest(6)
    for guest in (one, two):
        guest.set_address()
    inwards, outwards = (Filter(direction=way, ethertype=IPV4) for way in ("ingress", "egress"))
    runs, reads = [], []
    run, read = openflow._run, Switch._seats_of

    def noted(arguments: list[str], *more: object) -> bytes:
        runs.append(arguments)
        return run(arguments, *more)  # type: ignore[arg-type]

    def noted_too(switch: Switch, bridge: object) -> object:
        reads.append(bridge)
        return read(switch, bridge)

    monkeypatch.setattr(openflow, "_run", noted)
    monkeypatch.setattr(Switch, "_seats_of", noted_too)
    tell(lab, inwards, outwards)
    assert answers(one, two)
    tell(lab, outwards)
    assert not answers(one, two), "at once, whatever the switch remembers"
    assert ["--no-names" in words for words in runs] == [True, True], "it asks for no names of ports"
    assert reads == [], "nothing came or went since the last guest"
    monkeypatch.undo()

    lab.switch.vsctl("del-port", two.vif.tap)
    assert eventually(lambda: two.vif.tap not in [seat.name for seat in _seats(lab)])
    eventually(lab.host.repair)
    tell(lab, inwards, outwards)
    assert eventually(lambda: answers(one, two)), "its number on the bridge is another one"


def _seats(lab: PlugLab) -> list[object]:
    return list(lab.host._plug._switch.seats())  # type: ignore[attr-defined]


def test_a_disturbance_leaves_nothing(lab: PlugLab) -> None:
    lab.guest(5)
    control = lab.switch.folder / "br-int.mgmt"
    before = lab.switch.flows()
    with Disturbance(control) as disturb:
        for _ in range(3):
            disturb()
        assert lab.switch.flows() == before
        lab.switch.kill()
        with pytest.raises(Unavailable, match="does not answer"):
            disturb()
    with Disturbance(control) as disturb, pytest.raises(Unavailable, match="does not answer"):
        disturb()
    lab.switch.start()
    eventually(lab.host.repair)
