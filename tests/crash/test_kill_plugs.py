"""kill -9 of the agent beside the steps that join guests to Open vSwitch, and part them.

With the plug bridge at all points: test_kill_real.py. Between any two acts of a plug itself:
tests/contract/test_plug.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.crash.test_kill import dies_at
from tests.crash.test_kill_real import Machine
from tests.host_oracle import real_machine
from tests.openvswitch import OWN_DEVICE, OpenVSwitch, installed
from tests.running import until

pytestmark = [
    pytest.mark.crash,
    pytest.mark.system,
    pytest.mark.skipif(not installed(), reason="Open vSwitch is not installed"),
]


class Switched(Machine):
    switch: OpenVSwitch
    options: str

    def is_clear(self) -> None:
        """Nothing of any server is on the host, on the switch or in the database."""
        until(lambda: self.switch.bridges() == [], 60, "the bridge to go")
        assert self.up.unexplained() == []
        assert [line for line in self.oracle.left() if OWN_DEVICE not in line] == []


@pytest.fixture(scope="module", params=["ovs-hybrid", "ovs"])
def machine(request: pytest.FixtureRequest) -> Iterator[Switched]:
    with real_machine() as (up, oracle):
        switch = OpenVSwitch(up.state.parent / "ovs", segments=request.param == "ovs").start()
        try:
            options = f'[network]\nplug = "{request.param}"\novsdb_connection = "{switch.connection}"\n'
            up.start(options)
            machine = Switched(up, oracle, up.image(b"\0" * 65536), up.network())
            machine.switch, machine.options = switch, options
            up.stop()
            yield machine
        finally:
            up.kill()
            switch.kill()


@pytest.mark.parametrize("point", ["build.plug_vifs.after", "delete.unplug_vifs.after"])
def test_cut_off_beside_a_plug(machine: Switched, point: str) -> None:
    up = machine.up
    try:
        up.start(machine.options + dies_at(point))
        machine.build()
        if point.startswith("delete"):
            server_id = machine.built()
            assert up.settled(server_id)["status"] == "ACTIVE"
            machine.delete(server_id)
        assert up.wait() == -9, f"nothing reached {point}"

        up.start(machine.options)
        if point.startswith("build"):
            server_id = machine.built()
            assert up.settled(server_id)["status"] == "ACTIVE"
            assert len(machine.switch.ports()) == 2, "the guest's and the network's"
            machine.delete(server_id)
        machine.awaits_gone(server_id)
        machine.is_clear()
    finally:
        up.kill()
