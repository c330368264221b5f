"""createImage and createBackup: an image that gets its bytes, or is gone; a server that is what it was."""

from __future__ import annotations

import io
from typing import Any

import pytest
from tests.functional.builds.cloud import PATIENCE, Cloud, Driver
from tests.functional.builds.test_server_volumes import ADMIN
from tests.running import until

from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BuildFailed, Unavailable
from kilonova.domain.servers import ImageLocation


def snapshot(cloud: Cloud, server_id: str, name: str = "s", **more: Any) -> str:
    """The id of an image that was accepted."""
    path = f"/compute/v2.1/servers/{server_id}/action"
    status, answer = cloud.ask("POST", path, {"createImage": {"name": name, **more}})
    assert status == 202, answer
    return str(answer["image_id"])


def backup(cloud: Cloud, server_id: str, rotation: int, kind: str = "daily") -> Any:
    body = {"createBackup": {"name": "b", "backup_type": kind, "rotation": rotation}}
    status, answer = cloud.ask("POST", f"/compute/v2.1/servers/{server_id}/action", body)
    assert status == 202, answer
    cloud.settled(server_id)
    return answer["image_id"]


def is_clean(cloud: Cloud, server_id: str) -> None:
    host = cloud.where(server_id)
    until(lambda: not host.agent._running.busy(server_id), PATIENCE, "the work to end")
    assert not host.driver._servers[server_id].has_snapshot
    assert cloud.unexplained() == []


@pytest.mark.parametrize("before", [None, "os-stop", "pause", "suspend"])
def test_an_image_of_a_server(cloud: Cloud, before: str | None) -> None:
    server_id = cloud.active()
    if before:
        assert cloud.act(server_id, before) == 202
    was = cloud.settled(server_id)
    image_id = snapshot(cloud, server_id, "holiday", metadata={"mine": "yes", "image_type": "mine too"})
    server = cloud.settled(server_id)
    keys = ("status", "OS-EXT-STS:vm_state", "OS-EXT-STS:task_state", "OS-EXT-STS:power_state")
    assert [server[key] for key in keys] == [was[key] for key in keys]
    image = cloud.image(image_id)
    assert image["status"] == "active"
    assert image["size"] == len(cloud.bytes.images[image_id])
    expected = {
        "name": "holiday",
        "visibility": "private",
        "owner": image["owner_id"],
        "disk_format": "qcow2",
        "container_format": "bare",
        "base_image_ref": server["image"]["id"],
        "instance_uuid": server_id,
        "image_type": "snapshot",
        "boot_roles": "member,reader",
        "mine": "yes",
    }
    assert expected.items() <= image.items()
    done = cloud.actions(server_id)[-1]
    assert done["action"] == "createImage"
    assert [event["event"] for event in done["events"]] == ["take_snapshot", "upload_image", "drop_snapshot"]
    notes = cloud.sql("SELECT message FROM steps WHERE name = 'upload_image'")
    assert [note.partition(":")[0] for (note,) in notes] == ["copy"], "no store makes an image of a disk"
    is_clean(cloud, server_id)


def test_what_is_done_shows(cloud: Cloud) -> None:
    server_id = cloud.active()
    gate = cloud.hosts["h1"].driver.gate("take_snapshot")
    image_id = snapshot(cloud, server_id)
    gate.wait_until_reached()
    server = cloud.server(server_id)
    assert (server["status"], server["OS-EXT-STS:task_state"]) == ("ACTIVE", "image_pending_upload")
    assert cloud.image(image_id)["status"] == "queued"
    assert cloud.act(server_id, "os-stop") == 409
    assert cloud.act(server_id, "createImage", {"name": "again"}) == 409
    assert len(cloud.ask("GET", "/image/v2/images")[1]["images"]) == 1, "of what was refused nothing is left"
    gate.open()
    cloud.settled(server_id)
    assert cloud.image(image_id)["status"] == "active"


def test_a_snapshot_that_fails_leaves_the_server_and_no_image(cloud: Cloud) -> None:
    server_id = cloud.active()
    cloud.hosts["h1"].driver.failures["take_snapshot"] = [BuildFailed("the disk is full")]
    image_id = snapshot(cloud, server_id)
    server = cloud.settled(server_id)
    assert (server["status"], server["OS-EXT-STS:task_state"]) == ("ACTIVE", None)
    assert cloud.image(image_id) is None
    event = cloud.actions(server_id)[-1]["events"][0]
    assert (event["event"], event["result"]) == ("take_snapshot", "Error")
    is_clean(cloud, server_id)


def test_what_must_be_in_order_is_not_taken_of_a_guest_without_an_agent(cloud: Cloud) -> None:
    """``os_require_quiesce`` of its image; a server that is off has nothing left to write."""
    body = {"name": "i", "disk_format": "raw", "container_format": "bare", "os_require_quiesce": "yes"}
    image = cloud.ask("POST", "/image/v2/images", body)[1]["id"]
    cloud.images.upload(ADMIN, image, io.BytesIO(bytes(512)))
    server_id = cloud.active(imageRef=image)
    image_id = snapshot(cloud, server_id)
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert cloud.image(image_id) is None
    is_clean(cloud, server_id)
    assert cloud.act(server_id, "os-stop") == 202
    cloud.settled(server_id)
    image_id = snapshot(cloud, server_id)
    cloud.settled(server_id)
    assert cloud.image(image_id)["status"] == "active"


@pytest.fixture
def in_ceph(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> str:
    """A server; what hosts take of servers is there."""

    def where(_driver: Driver, server_id: str) -> ImageLocation:
        return ImageLocation(fsid="f", pool="vms", image=f"{server_id}_disk", snapshot="taken")

    monkeypatch.setattr(Driver, "snapshot_location", where)
    return cloud.active()


def note(cloud: Cloud) -> str:
    ((found,),) = cloud.sql("SELECT message FROM steps WHERE name = 'upload_image'")
    return str(found)


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_disk_in_ceph_is_read_by_the_image_service(
    cloud: Cloud, in_ceph: str, monkeypatch: pytest.MonkeyPatch, is_heard: bool
) -> None:
    """Once, also if the host does not hear of it."""
    server_id = in_ceph
    cloud.bytes.disks[f"{server_id}_disk"] = b"of the server"
    real, read = cloud.images.upload_from, []

    def read_there(context: RequestContext, image_id: str, disk: ImageLocation) -> None:
        read.append(image_id)
        real(context, image_id, disk)
        if not is_heard:
            raise Unavailable("the answer was lost")

    monkeypatch.setattr(cloud.images, "upload_from", read_there)
    image_id = snapshot(cloud, server_id)
    cloud.settled(server_id)
    image = cloud.image(image_id)
    assert (image["status"], image["disk_format"], image["size"]) == ("active", "raw", 13)
    assert cloud.bytes.images[image_id] == b"of the server"
    assert read == [image_id]
    assert note(cloud) == "in Ceph: the image service reads the disk's snapshot"
    is_clean(cloud, server_id)


def test_a_disk_that_the_image_service_cannot_read_is_copied(cloud: Cloud, in_ceph: str) -> None:
    server_id = in_ceph
    assert cloud.bytes.disks == {}
    image_id = snapshot(cloud, server_id)
    cloud.settled(server_id)
    image = cloud.image(image_id)
    assert (image["status"], image["disk_format"]) == ("active", "qcow2")
    assert note(cloud) == "copy: client.glance may not read pool vms"
    is_clean(cloud, server_id)


def test_an_image_service_that_is_away_is_waited_for(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    server_id = cloud.active()
    real, tries = cloud.images.upload, []

    def away_at_first(*args: Any) -> None:
        tries.append(args)
        if len(tries) == 1:
            raise Unavailable("away")
        real(*args)

    monkeypatch.setattr(cloud.images, "upload", away_at_first)
    image_id = snapshot(cloud, server_id)
    cloud.settled(server_id)
    assert cloud.image(image_id)["status"] == "active"
    assert len(tries) == 2


def test_an_image_that_is_deleted_meanwhile(cloud: Cloud) -> None:
    server_id = cloud.active()
    gate = cloud.hosts["h1"].driver.gate("take_snapshot")
    image_id = snapshot(cloud, server_id)
    gate.wait_until_reached()
    assert cloud.ask("DELETE", f"/image/v2/images/{image_id}")[0] == 204
    gate.open()
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert cloud.bytes.images == {}
    is_clean(cloud, server_id)


def test_a_server_that_is_deleted_meanwhile_takes_the_image_along(cloud: Cloud) -> None:
    server_id = cloud.active()
    gate = cloud.hosts["h1"].driver.gate("take_snapshot")
    image_id = snapshot(cloud, server_id)
    gate.wait_until_reached()
    cloud.delete(server_id)
    assert cloud.image(image_id) is None
    gate.open()
    cloud.gone(server_id)
    assert cloud.bytes.images == {}
    assert cloud.hosts["h1"].is_empty()
    assert cloud.unexplained() == []


def test_a_reset_state_takes_the_image_along(cloud: Cloud) -> None:
    server_id = cloud.active()
    gate = cloud.hosts["h1"].driver.gate("take_snapshot")
    image_id = snapshot(cloud, server_id)
    gate.wait_until_reached()
    path = f"/compute/v2.1/servers/{server_id}/action"
    assert cloud.ask("POST", path, {"os-resetState": {"state": "active"}}, "admin")[0] == 202
    assert cloud.image(image_id) is None
    gate.open()
    is_clean(cloud, server_id)
    assert cloud.server(server_id)["OS-EXT-STS:task_state"] is None


def test_an_end_that_is_not_told_is_found_without_a_second_snapshot(cloud: Cloud) -> None:
    server_id = cloud.active()
    cloud.bus.broken["finished"] = 1
    image_id = snapshot(cloud, server_id)
    host = cloud.hosts["h1"]
    until(lambda: not cloud.bus.broken["finished"], PATIENCE, "its loss")
    until(lambda: not host.agent._running.busy(server_id), PATIENCE, "the work to end")
    cloud.leases_run_out()
    cloud.sweep()
    cloud.settled(server_id)
    assert cloud.image(image_id)["status"] == "active"
    assert host.driver.steps.count("take_snapshot") == 1
    is_clean(cloud, server_id)


def test_a_snapshot_with_no_time(cloud: Cloud) -> None:
    server_id = cloud.active()
    cloud.bus.lost["perform_action"] = 1
    image_id = snapshot(cloud, server_id)
    until(lambda: not cloud.bus.lost["perform_action"], PATIENCE, "the loss")
    cloud.deadlines_pass()
    cloud.sweep()
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert cloud.image(image_id) is None
    assert cloud.unexplained() == []


def test_backups_rotate(cloud: Cloud) -> None:
    server_id, other = cloud.active(), cloud.active()
    kept = backup(cloud, other, 5)
    weekly = backup(cloud, server_id, 5, "weekly")
    nameless = backup(cloud, server_id, 1, "")  # what `openstack server backup create` says by itself
    made = [backup(cloud, server_id, 2) for _ in range(3)]
    assert [cloud.image(image_id) is not None for image_id in made] == [False, True, True]
    assert cloud.image(made[-1])["backup_type"] == "daily"
    assert cloud.image(made[-1])["image_type"] == "backup"
    cloud.images.bury()
    assert cloud.bytes.images.keys() == {kept, weekly, nameless, *made[1:]}
    assert backup(cloud, server_id, 0) is None
    assert [cloud.image(image_id) for image_id in made] == [None] * 3
    assert {cloud.image(one)["status"] for one in (kept, weekly, nameless)} == {"active"}
    assert cloud.actions(server_id)[-1]["action"] == "createBackup"
    is_clean(cloud, server_id)


@pytest.mark.parametrize(
    "body",
    [
        {"createImage": {}},
        {"createImage": {"name": ""}},
        {"createImage": {"name": "x" * 256}},
        {"createImage": {"name": "x", "metadata": {"a": 1}}},
        {"createImage": {"name": "x", "more": 1}},
        {"createBackup": {"name": "x", "backup_type": "daily"}},
        {"createBackup": {"name": "x", "backup_type": "daily", "rotation": -1}},
        {"createBackup": {"name": "x", "backup_type": "x" * 256, "rotation": 1}},
    ],
)
def test_bad_requests(cloud: Cloud, body: Any) -> None:
    server_id = cloud.active()
    status, answer = cloud.ask("POST", f"/compute/v2.1/servers/{server_id}/action", body)
    assert status == 400, answer


def test_before_2_45_a_header_says_where_the_image_is(cloud: Cloud) -> None:
    server_id = cloud.active()
    headers = {"X-Auth-Token": "member", "OpenStack-API-Version": "compute 2.44"}
    path, body = f"/compute/v2.1/servers/{server_id}/action", {"createImage": {"name": "x"}}
    result = cloud._client.simulate_request("POST", path, json=body, headers=headers)
    assert (result.status_code, result.content) == (202, b"")
    root, _, image_id = result.headers["Location"].rpartition("/image/v2/images/")
    assert root.startswith("http")
    cloud.settled(server_id)
    assert cloud.image(image_id)["status"] == "active"
