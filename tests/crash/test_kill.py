"""kill -9 before and after every step of a build and of a delete: after a restart all is clear."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.running import CUT_OFF, Up, until

pytestmark = pytest.mark.crash

BUILD_POINTS = [
    "build.select_destinations.before",
    "build.select_destinations.after",
    "build.hand_over.after",
    *(
        f"build.{step}.{side}"
        for step in (
            "allocate_networks",
            "fetch_image",
            "create_disks",
            "create_config_drive",
            "plug_vifs",
            "create_domain",
            "commit",
            "wait_for_boot",
        )
        for side in ("before", "after")
    ),
]
DELETE_POINTS = [
    "delete.hand_over.before",
    "delete.hand_over.after",
    "delete.destroy.before",
    "delete.destroy.after",
    "delete.unplug_vifs.before",
    "delete.unplug_vifs.after",
    "delete.deallocate_networks.before",
    "delete.deallocate_networks.after",
]

ATTACH_POINTS = [
    "attach_interface.accept.after",
    "attach_interface.plug_vifs.after",
    "attach_interface.attach_interface.after",
    "attach_interface.finished.after",
]
DETACH_POINTS = [
    "detach_interface.accept.after",
    "detach_interface.detach_interface.after",
    "detach_interface.unplug_vifs.after",
]
"""Of a NIC that comes and goes: the moments after which something is otherwise than before.
`make crash` kills at all of them."""


@pytest.fixture
def up(tmp_path: Path, up_database: str) -> Iterator[Up]:
    machine = Up(tmp_path / "state", database_url=up_database)
    yield machine
    machine.kill()


def dies_at(point: str) -> str:
    return f'[faults]\nkill_at = "{point}"\n'


@pytest.mark.parametrize("point", BUILD_POINTS)
def test_a_build_cut_off_anywhere_ends_active(up: Up, point: str) -> None:
    up.start(dies_at(point))
    image, network = up.image(b"\0" * 512), up.network()
    with contextlib.suppress(*CUT_OFF):  # it may die before it has answered
        assert up.post_server(image, network, config_drive=True)[0] == 202
    assert up.wait() == -9, f"nothing reached {point}"

    up.start()
    (made,) = up.ask("GET", "/compute/v2.1/servers")[1]["servers"]
    server = up.settled(made["id"])
    assert server["status"] == "ACTIVE", server
    assert up.unexplained() == []
    assert [len(addresses) for addresses in server["addresses"].values()] == [1]
    until(lambda: up.server(server["id"])["OS-EXT-STS:power_state"] == 1, 60, "the guest to run")


@pytest.mark.parametrize("point", DELETE_POINTS)
def test_a_delete_cut_off_anywhere_ends_gone(up: Up, point: str) -> None:
    up.start(dies_at(point))
    _, answer = up.post_server(up.image(b"\0" * 512), up.network())
    server_id = answer["server"]["id"]
    assert up.settled(server_id)["status"] == "ACTIVE"
    with contextlib.suppress(*CUT_OFF):
        assert up.ask("DELETE", f"/compute/v2.1/servers/{server_id}")[0] == 204
    assert up.wait() == -9, f"nothing reached {point}"

    up.start()
    until(lambda: up.server(server_id) is None, 60, "the server to go")
    assert up.unexplained() == []
    _, ports = up.ask("GET", "/networking/v2.0/ports")
    assert [port["device_owner"] for port in ports["ports"]] in ([], ["network:dhcp"])


@pytest.mark.parametrize("side", ["before", "after"])
def test_the_end_of_a_failed_build_cut_off_anywhere_leaks_nothing(up: Up, side: str) -> None:
    fails = "[fake]\nstep_failures = {ensure_disks = 1.0}\n[operations]\nmax_attempts = 1\n"
    up.start(fails + dies_at(f"build.deallocate_networks.{side}"))
    image, network = up.image(b"\0" * 512), up.network()
    with contextlib.suppress(*CUT_OFF):
        assert up.post_server(image, network)[0] == 202
    assert up.wait() == -9

    up.start(fails)
    (made,) = up.ask("GET", "/compute/v2.1/servers")[1]["servers"]
    server = up.settled(made["id"])
    assert server["status"] == "ERROR"
    assert server["fault"]["message"].startswith("create_disks failed")
    assert up.unexplained() == []


@pytest.mark.parametrize("point", [*ATTACH_POINTS, *DETACH_POINTS])
def test_a_nic_that_is_cut_off_anywhere_is_there_or_is_not(up: Up, point: str) -> None:
    up.start(dies_at(point))
    network = up.network()
    _, answer = up.post_server(up.image(b"\0" * 512), network)
    path = f"/compute/v2.1/servers/{answer['server']['id']}/os-interface"
    assert up.settled(answer["server"]["id"])["status"] == "ACTIVE"
    attach = {"interfaceAttachment": {"net_id": network}}
    with contextlib.suppress(*CUT_OFF):
        if point in DETACH_POINTS:
            (nic,) = up.ask("GET", path)[1]["interfaceAttachments"]
            up.ask("DELETE", f"{path}/{nic['port_id']}")
        else:
            up.ask("POST", path, attach)
    assert up.wait() == -9, f"nothing reached {point}"

    up.start()
    until(lambda: up.unexplained() == [], 60, "the operation to end")
    _, listed = up.ask("GET", path)
    assert len(listed["interfaceAttachments"]) == (0 if point in DETACH_POINTS else 2)
    taps = [f"tap{nic['port_id'][:11]}" for nic in listed["interfaceAttachments"]]
    (guest,) = (up.state / "hosts").glob("*/*.json")
    until(lambda: list(json.loads(guest.read_text())["nics"]) == taps, 60, f"the guest to have {taps}")
    _, shown = up.ask("GET", "/networking/v2.0/ports")
    owners = sorted(port["device_owner"] for port in shown["ports"])
    assert owners == ["compute:nova"] * len(taps) + ["network:dhcp"]
