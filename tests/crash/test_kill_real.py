"""kill -9 before and after every step, with real guests and a real network: nothing is left, nothing lost.

The guests have no system, only a machine that looks for one; it is the host that is looked at here. One state
folder and one image serve all the points.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from tests.crash.test_kill import BUILD_POINTS, DELETE_POINTS, dies_at
from tests.host_oracle import HostOracle, real_machine
from tests.running import CUT_OFF, Up, until

pytestmark = [pytest.mark.crash, pytest.mark.system]


@dataclass
class Machine:
    up: Up
    oracle: HostOracle
    image: str
    network: str

    def build(self) -> None:
        with suppress(*CUT_OFF):  # it may die before it has answered
            status, answer = self.up.post_server(self.image, self.network, config_drive=True)
            assert status == 202, answer

    def built(self) -> str:
        """The id of the one server."""
        (server,) = self.up.ask("GET", "/compute/v2.1/servers")[1]["servers"]
        return str(server["id"])

    def delete(self, server_id: str) -> None:
        with suppress(*CUT_OFF):
            assert self.up.ask("DELETE", f"/compute/v2.1/servers/{server_id}")[0] == 204

    def awaits_gone(self, server_id: str) -> None:
        until(lambda: self.up.server(server_id) is None, 60, "the server to go")

    def is_clear(self) -> None:
        """Nothing of any server is on the host or in the database."""
        assert self.up.unexplained() == []
        assert self.oracle.left() == []


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with real_machine() as (up, oracle):
        up.start()
        machine = Machine(up, oracle, up.image(b"\0" * 65536), up.network())
        up.stop()
        yield machine


@pytest.fixture
def stopped(machine: Machine) -> Iterator[Machine]:
    """Nothing runs, before the test and after."""
    try:
        yield machine
    finally:
        machine.up.kill()


@pytest.mark.parametrize("point", BUILD_POINTS)
def test_a_build_cut_off_anywhere_ends_active(stopped: Machine, point: str) -> None:
    machine, up = stopped, stopped.up
    up.start(dies_at(point))
    machine.build()
    assert up.wait() == -9, f"nothing reached {point}"

    up.start()
    server_id = machine.built()
    server = up.settled(server_id)
    assert server["status"] == "ACTIVE", server
    until(lambda: up.server(server_id)["OS-EXT-STS:power_state"] == 1, 60, "the guest to run")
    assert machine.oracle.unexplained() == []
    assert list(machine.oracle.guests()) == [server_id]

    machine.delete(server_id)
    machine.awaits_gone(server_id)
    machine.is_clear()


@pytest.mark.parametrize("point", DELETE_POINTS)
def test_a_delete_cut_off_anywhere_ends_gone(stopped: Machine, point: str) -> None:
    machine, up = stopped, stopped.up
    up.start(dies_at(point))
    machine.build()
    server_id = machine.built()
    assert up.settled(server_id)["status"] == "ACTIVE"
    machine.delete(server_id)
    assert up.wait() == -9, f"nothing reached {point}"

    up.start()
    machine.awaits_gone(server_id)
    machine.is_clear()
