"""What is done to servers that boot from volumes: images, shelves, rebuilds, rescues, and attachments."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.functional.builds.cloud import IMAGE, PATIENCE, Cloud
from tests.functional.builds.test_server_volumes import ADMIN, LATEST, OF_IMAGE, SERVERS, Volumes
from tests.running import until

BLANK = {"source_type": "blank", "destination_type": "volume", "volume_size": 2}


@pytest.fixture
def volumes(cloud: Cloud) -> Volumes:
    return Volumes(cloud)


def act(cloud: Cloud, server_id: str, action: str, value: Any = None, version: str = "2.96") -> Any:
    headers = {"OpenStack-API-Version": f"compute {version}"}
    return cloud.ask("POST", f"{SERVERS}/{server_id}/action", {action: value}, headers=headers)


def imaged(cloud: Cloud, server_id: str, **more: Any) -> str:
    """The id of an image that createImage promised."""
    status, answer = act(cloud, server_id, "createImage", {"name": "whole", **more})
    assert status == 202, answer
    return str(answer["image_id"])


def mapping(cloud: Cloud, image_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cloud.image(image_id)["block_device_mapping"])
    return found


def is_clean(cloud: Cloud) -> None:
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


# --- createImage


@pytest.mark.parametrize("before", [None, "os-stop", "pause"])
def test_an_image_lists_snapshots_of_all_volumes(cloud: Cloud, volumes: Volumes, before: str | None) -> None:
    server_id = volumes.active(OF_IMAGE, BLANK)
    if before:
        assert cloud.act(server_id, before) == 202
    was = cloud.settled(server_id)["status"]
    image_id = imaged(cloud, server_id, metadata={"mine": "yes"})
    assert cloud.settled(server_id)["status"] == was
    image = cloud.image(image_id)
    shown = {"status": "active", "size": 0, "bdm_v2": "True", "root_device_name": "/dev/vda", "mine": "yes"}
    assert shown.items() <= image.items()
    root, data = mapping(cloud, image_id)
    ids = volumes.of(server_id)
    assert [cloud.store.snaps[one["snapshot_id"]][0] for one in (root, data)] == ids
    assert (root["boot_index"], root["volume_size"], root["delete_on_termination"]) == (0, 3, True)
    assert (data["boot_index"], data["volume_size"], data["device_name"]) == (None, 2, "/dev/vdb")
    assert [event["event"] for event in cloud.actions(server_id)[-1]["events"]] == ["snapshot_volumes"]
    status, _ = cloud.ask("GET", f"/image/v2/images/{image_id}/file")
    assert status == 204
    is_clean(cloud)


def test_a_server_of_that_image_has_volumes_of_the_snapshots(cloud: Cloud, volumes: Volumes) -> None:
    image_id = imaged(cloud, first := volumes.active(OF_IMAGE, BLANK))
    cloud.settled(first)
    server = {"name": "vm", "imageRef": image_id, "flavorRef": "42", "networks": "none"}
    status, answer = cloud.ask("POST", SERVERS, {"server": server}, headers=LATEST)
    assert status == 202, answer
    plain = str(answer["server"]["id"])
    until(lambda: not cloud._busy(plain), 3 * PATIENCE, "the build")
    assert cloud.server(plain)["status"] == "ACTIVE", cloud.server(plain)
    assert cloud.server(plain)["image"] == ""
    root, data = volumes.of(plain)
    assert cloud.store.made[root] == (3, f"image {IMAGE}")
    assert cloud.store.made[data] == (2, "zeros")

    # As clients say it who ask for a disk more; the data volume is made larger, under its name.
    local = {"uuid": image_id, "source_type": "image", "destination_type": "local", "boot_index": 0}
    larger = BLANK | {"volume_size": 5, "device_name": "/dev/vdb"}
    other = volumes.active(local, larger, image=image_id)
    assert [cloud.store.made[one][0] for one in volumes.of(other)] == [3, 5]

    assert cloud.ask("DELETE", f"/image/v2/images/{image_id}")[0] == 204
    assert len(cloud.store.snaps) == 2, "the snapshots are not the image's"
    is_clean(cloud)


def test_what_cannot_be_made_of_such_an_image(cloud: Cloud, volumes: Volumes) -> None:
    image_id = imaged(cloud, server_id := volumes.active(OF_IMAGE))
    cloud.settled(server_id)
    plain = cloud.active()
    assert act(cloud, plain, "rebuild", {"imageRef": image_id})[0] == 400
    assert act(cloud, plain, "rescue", {"rescue_image_ref": image_id})[0] == 400
    assert volumes.create(OF_IMAGE | {"uuid": image_id})[0] == 400
    (root,) = mapping(cloud, image_id)
    bad = [
        "[",
        "{}",
        "[]",
        json.dumps([root | {"source_type": "volume", "volume_id": volumes.bootable()}]),
        json.dumps([root | {"snapshot_id": "../x"}]),
        json.dumps([root | {"snapshot_id": server_id}]),
        json.dumps([root | {"boot_index": 1}]),
        json.dumps([root] * 100),
    ]
    for text in bad:
        cloud.sql(
            "UPDATE image_properties SET value = ? WHERE name = 'block_device_mapping' AND image_id = ?",
            text,
            image_id,
        )
        server = {"name": "vm", "imageRef": image_id, "flavorRef": "42", "networks": "none"}
        status, answer = cloud.ask("POST", SERVERS, {"server": server}, headers=LATEST)
        assert status == 400, (text, answer)


def test_an_image_whose_snapshot_fails_is_gone(cloud: Cloud, volumes: Volumes) -> None:
    server_id = volumes.active(OF_IMAGE, BLANK)
    cloud.store.refuses = "ensure_snapshot"
    image_id = imaged(cloud, server_id)
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert cloud.image(image_id) is None
    (event,) = cloud.actions(server_id)[-1]["events"]
    assert (event["event"], event["result"]) == ("snapshot_volumes", "Error")
    until(lambda: not cloud.sql("SELECT 1 FROM volume_snapshots"), PATIENCE, "no snapshot")
    is_clean(cloud)


def test_an_image_beyond_the_quota_is_refused_and_nothing_is_begun(cloud: Cloud, volumes: Volumes) -> None:
    server_id = volumes.active(OF_IMAGE, BLANK)
    cloud.sql("UPDATE volumes SET size = 998 WHERE size = 2")
    status, answer = act(cloud, server_id, "createImage", {"name": "x"})
    assert status == 403, answer
    assert not cloud.sql("SELECT 1 FROM volume_snapshots")
    assert cloud.server(server_id)["OS-EXT-STS:task_state"] is None
    is_clean(cloud)


def test_an_image_of_a_server_that_is_deleted_meanwhile(cloud: Cloud, volumes: Volumes) -> None:
    """The snapshots were asked for, and so was the image; the volume that they are of stays with them."""
    server_id = volumes.active(OF_IMAGE)
    (volume_id,) = volumes.of(server_id)
    cloud.store.hold = "ensure_snapshot"
    image_id = imaged(cloud, server_id)
    assert cloud.store.held.wait(PATIENCE)
    assert cloud.image(image_id)["status"] == "queued"
    assert cloud.act(server_id, "os-stop") == 409
    cloud.delete(server_id)
    cloud.gone(server_id)
    cloud.store.go.set()
    until(lambda: len(cloud.store.snaps) == 1, PATIENCE, "the snapshot")
    assert cloud.image(image_id)["status"] == "active"
    assert volumes.status(volume_id) == "available"
    is_clean(cloud)


def test_a_volume_with_snapshots_does_not_go_with_its_server(cloud: Cloud, volumes: Volumes) -> None:
    image_id = imaged(cloud, server_id := volumes.active(OF_IMAGE))
    cloud.settled(server_id)
    (volume_id,) = volumes.of(server_id)
    cloud.delete(server_id)
    cloud.gone(server_id)
    assert volumes.status(volume_id) == "available"
    (root,) = mapping(cloud, image_id)
    assert volumes.service.snapshot(ADMIN, root["snapshot_id"]).status == "available"
    is_clean(cloud)


def test_an_image_that_was_cut_off_is_finished_by_the_next_owner(cloud: Cloud, volumes: Volumes) -> None:
    server_id = volumes.active(OF_IMAGE)
    cloud.bus.lost["perform_action"] = 1
    image_id = imaged(cloud, server_id)
    assert cloud.image(image_id)["status"] == "queued"
    cloud.leases_run_out()
    cloud.sweep()
    cloud.settled(server_id)
    assert cloud.image(image_id)["status"] == "active"
    assert len(cloud.store.snaps) == 1
    is_clean(cloud)


def test_no_backup_of_a_server_that_boots_from_a_volume(cloud: Cloud, volumes: Volumes) -> None:
    server_id = volumes.active(OF_IMAGE)
    body = {"name": "b", "backup_type": "daily", "rotation": 1}
    status, answer = act(cloud, server_id, "createBackup", body)
    assert status == 400
    assert answer["badRequest"]["message"] == "Backup is not supported for volume-backed instances."
