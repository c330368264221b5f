"""`kilonova up` as a whole: a server boots from a volume of its build; volumes leave it and come back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.running import Up, until

SERVERS = "/compute/v2.1/servers"


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    up = Up(tmp_path / "state")
    up.start()
    yield up
    up.stop()


def test_volumes_of_a_server_from_its_build_to_its_end(up: Up) -> None:
    image = up.image(b"\0" * (1 << 20))
    root = {
        "uuid": image,
        "source_type": "image",
        "destination_type": "volume",
        "volume_size": 1,
        "boot_index": 0,
        "delete_on_termination": True,
    }
    blank = {"source_type": "blank", "destination_type": "volume", "volume_size": 1}
    blank["delete_on_termination"] = True
    status, made = up.post_server("", block_device_mapping_v2=[root, blank])
    assert status == 202, made
    server_id = made["server"]["id"]
    assert up.settled(server_id)["status"] == "ACTIVE", up.server(server_id)
    files = list(up.state.rglob("volume-*"))
    assert len(files) == 2
    every = f"{SERVERS}/{server_id}/os-volume_attachments"
    _, listed = up.ask("GET", every)
    extra = listed["volumeAttachments"][1]["volumeId"]
    assert up.ask("DELETE", f"{every}/{extra}")[0] == 202
    until(lambda: len(up.ask("GET", every)[1]["volumeAttachments"]) == 1, 60, "the volume to leave")
    status, answer = up.ask("POST", every, {"volumeAttachment": {"volumeId": extra}})
    assert status == 200, answer
    assert up.ask("DELETE", f"{SERVERS}/{server_id}")[0] == 204
    until(lambda: up.server(server_id) is None, 60, "the server to go")
    until(lambda: not up.unexplained(), 60, f"all to be explained: {up.unexplained()}")
    assert [path.name for path in up.state.rglob("volume-*")] == [f"volume-{extra}"]
