"""What Guard.change() promises when the switch failed halfway (switch/guard.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs
from tests.system.host_network.lab import make_vif, subnet

from kilonova.domain.errors import Unavailable
from kilonova.domain.network import Vif
from kilonova.network.host.knowledge import Known
from kilonova.network.host.ruleset import Ruleset
from kilonova.network.host.switch import cache, openflow
from kilonova.network.host.switch.disturbance import Disturbance
from kilonova.network.host.switch.guard import Guard
from kilonova.network.host.switch.port_flows import Seat
from kilonova.network.host.switch.switch import Switch

NETWORK = "5f9a4d8e-9d3a-4a3e-8a63-0a1f0f2f3b4c"


class Bridge:
    """As much of the switch as flows need."""

    owner = 1

    def __init__(self, vifs: list[Vif]) -> None:
        self.vifs = vifs

    def identity(self) -> object:
        return "br-int"

    def is_gone(self, bridge: object) -> bool:
        return False

    def is_ours(self) -> bool:
        return True

    def seats(self) -> list[Seat]:
        return [Seat(vif.tap, number, 4094) for number, vif in enumerate(self.vifs, 1)]

    def control(self) -> Path:
        return Path("/nowhere")

    folder = control


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How the looks that were waited for ended. The first fails."""
    ended: list[str] = []

    def await_look(folder: Path, disturb: Callable[[], None]) -> None:
        disturb()
        ended.append("failed" if not ended else "ended")
        if ended == ["failed"]:
            raise Unavailable("no look")

    monkeypatch.setattr(cache, "await_look", await_look)
    monkeypatch.setattr(Disturbance, "__call__", lambda self: None)
    monkeypatch.setattr(openflow, "change", lambda control, commands: None)
    return ended


def guard_of(bridge: Bridge) -> Guard:
    return Guard(cast(Switch, cast(Any, bridge)), lambda: Ruleset(bridge.vifs, Known()), lambda _: 1)


def test_a_change_tried_again_is_waited_for(looks: list[str]) -> None:
    guard = guard_of(Bridge([make_vif(subnet(), 5, NETWORK)]))
    with pytest.raises(Unavailable):
        guard.change()
    guard.change()
    assert looks == ["failed", "ended", "ended"]
    guard.change()
    assert len(looks) == 3, "nothing changed since"


def test_a_change_that_another_loads_is_waited_for(looks: list[str]) -> None:
    """A port that is plugged at that moment loads all that there is."""
    looks.append("not the first")
    guard = guard_of(Bridge([make_vif(subnet(), 5, NETWORK)]))
    guard.load()
    guard.change()
    assert looks[1:] == ["ended", "ended"]


def test_what_the_switch_does_not_take_is_left_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One flow that is refused takes theirs from no others, and what is right again is loaded again."""
    loaded: list[str] = []
    refused = ["fa:16:3e:00:00:06"]

    def change(control: Path, commands: list[str]) -> None:
        if any(word in line for word in refused for line in commands):
            raise openflow.Refused("ovs-ofctl: no")
        loaded.extend(line for line in commands if "table=125" not in line)

    monkeypatch.setattr(openflow, "change", change)
    vifs = [make_vif(subnet(), number, NETWORK) for number in (5, 6, 7)]
    bridge = Bridge(vifs)
    guard = guard_of(bridge)
    with capture_logs() as said:
        guard.load()
        guard.load()
    assert [line["what"] for line in said if line["event"] == "left_closed"] == [f"port {vifs[1].port_id}"]
    text = "\n".join(loaded)
    assert [mac in text for mac in (vif.mac for vif in vifs)] == [True, False, True]
    assert "dl_dst=01:00:00:00:00:00" in text, "the network's others hear each other"
    assert "in_port=2" not in text

    refused[:] = ["nothing"]
    bridge.vifs = [vifs[0], make_vif(subnet(), 8, NETWORK), vifs[2]]
    guard.load()
    assert "fa:16:3e:00:00:08" in "\n".join(loaded)


def test_a_switch_that_takes_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(control: Path, commands: list[str]) -> None:
        if any(line.startswith("add") and "table=125" not in line for line in commands):
            raise openflow.Refused("ovs-ofctl: no room")

    monkeypatch.setattr(openflow, "change", change)
    with pytest.raises(openflow.Refused):
        guard_of(Bridge([make_vif(subnet(), 5, NETWORK)])).load()


def test_a_switch_that_goes_away_is_no_fault_of_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(control: Path, commands: list[str]) -> None:
        raise openflow.Refused("ovs-ofctl: send failed: Broken pipe")

    monkeypatch.setattr(openflow, "change", change)
    with capture_logs() as said, pytest.raises(openflow.Refused):
        guard_of(Bridge([make_vif(subnet(), 5, NETWORK)])).load()
    assert said == []
