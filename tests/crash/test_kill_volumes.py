"""kill -9 between two steps of a build with volumes, an attach and a detach: nothing is lost or left."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.orphans import orphans
from tests.running import CUT_OFF, Up, until

BUILD_POINTS = ["build.prepare_volumes.after", "build.connect_volumes.after"]
ATTACH_POINTS = ["attach_volume.accept.after", "attach_volume.attach_volume.after"]
DETACH_POINTS = ["detach_volume.accept.after", "detach_volume.detach_volume.after"]
SERVERS = "/compute/v2.1/servers"


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    machine = Up(tmp_path / "state")
    yield machine
    machine.kill()


def _post(up: Up) -> str:
    """A server with a volume beside its own disk; its id."""
    image = up.image(b"\0" * 512)
    root = {"uuid": image, "source_type": "image", "destination_type": "local", "boot_index": 0}
    blank = {"source_type": "blank", "destination_type": "volume", "volume_size": 1}
    status, made = up.post_server(image, block_device_mapping_v2=[root, blank])
    assert status == 202, made
    return str(made["server"]["id"])


def _volumes(up: Up, server_id: str) -> list[str]:
    _, listed = up.ask("GET", f"{SERVERS}/{server_id}/os-volume_attachments")
    return [one["volumeId"] for one in listed["volumeAttachments"]]


@pytest.mark.parametrize("point", [*BUILD_POINTS, *ATTACH_POINTS, *DETACH_POINTS])
def test_a_volume_that_is_cut_off_anywhere_is_there_or_is_not(up: Up, point: str) -> None:
    up.start(f'[faults]\nkill_at = "{point}"\n')
    server_id = _post(up)
    if point not in BUILD_POINTS:
        assert up.settled(server_id)["status"] == "ACTIVE"
        (volume,) = _volumes(up, server_id)
        every = f"{SERVERS}/{server_id}/os-volume_attachments"
        with contextlib.suppress(*CUT_OFF):
            up.ask("DELETE", f"{every}/{volume}")
        if point in ATTACH_POINTS:
            until(lambda: not _volumes(up, server_id), 60, "the volume to leave")
            with contextlib.suppress(*CUT_OFF):
                up.ask("POST", every, {"volumeAttachment": {"volumeId": volume}})
    assert up.wait() == -9, f"nothing reached {point}"

    up.start()
    until(lambda: up.unexplained() == [], 60, "all to be explained")
    assert up.server(server_id)["status"] == "ACTIVE"
    has = _volumes(up, server_id)
    assert len(has) == (0 if point in DETACH_POINTS else 1)
    (guest,) = (up.state / "hosts").glob("*/*.json")
    until(lambda: list(json.loads(guest.read_text())["volumes"]) == has, 60, f"the guest to have {has}")
    assert len(list(up.state.rglob("volume-*"))) == 1
    assert orphans(up) == "0 found\n"


ACTIONS = {
    "snapshot_create.make.after": {"createImage": {"name": "whole"}},
    "rebuild.reimage.after": {"rebuild": {}},
    "shelve.destroy.after": {"shelve": None},
}


@pytest.mark.parametrize("point", ACTIONS)
def test_a_server_that_boots_from_a_volume_gets_what_it_was_promised(up: Up, point: str) -> None:
    up.start(f'[faults]\nkill_at = "{point}"\n')
    image, action = up.image(b"\0" * 512), ACTIONS[point]
    if "rebuild" in action:
        action = {"rebuild": {"imageRef": image}}
    root = {"uuid": image, "source_type": "image", "destination_type": "volume", "volume_size": 1}
    status, made = up.post_server("", block_device_mapping_v2=[root | {"boot_index": 0}])
    assert status == 202, made
    server_id = str(made["server"]["id"])
    assert up.settled(server_id)["status"] == "ACTIVE"
    with contextlib.suppress(*CUT_OFF):
        latest = {"OpenStack-API-Version": "compute 2.96"}
        status, answer = up.ask("POST", f"{SERVERS}/{server_id}/action", action, latest)
        assert status == 202, answer
    assert up.wait() == -9, f"nothing reached {point}"

    up.start()
    until(lambda: up.unexplained() == [], 60, "all to be explained")
    (volume,) = _volumes(up, server_id)
    away = "shelve" in action
    assert up.settled(server_id)["status"] == ("SHELVED_OFFLOADED" if away else "ACTIVE")
    shown = up.ask("GET", f"/volume/v3/volumes/{volume}")[1]["volume"]
    assert shown["status"] == ("reserved" if away else "in-use")
    guests = list((up.state / "hosts").glob("*/*.json"))
    assert [list(json.loads(guest.read_text())["volumes"]) for guest in guests] == [[volume]] * (not away)
    images = up.ask("GET", "/image/v2/images")[1]["images"]
    whole = [one for one in images if one["name"] == "whole"]
    assert [one["status"] for one in whole] == ["active"] * ("createImage" in action)
    assert len(list(up.state.rglob("volume-*.snapshot-*"))) == len(whole)
    assert orphans(up) == "0 found\n"
