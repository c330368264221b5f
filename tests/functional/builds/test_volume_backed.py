"""What is done to servers that boot from volumes: images, shelves, rebuilds, rescues, and attachments."""

from __future__ import annotations

import io
import json
import uuid
from collections import Counter
from typing import Any

import pytest
from tests.functional.builds.cloud import IMAGE, PATIENCE, Cloud, Driver
from tests.functional.builds.conftest import MakeCloud
from tests.functional.builds.test_server_volumes import ADMIN, LATEST, OF_IMAGE, SERVERS, Volumes
from tests.running import until

from kilonova.config import Compute, Config
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BuildFailed
from kilonova.volume.builtin.service import BuiltinVolumes

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


def test_the_sizes_of_all_volumes_are_one_question(
    cloud: Cloud, volumes: Volumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    held, volume = BuiltinVolumes.held, BuiltinVolumes.volume

    def of_all(service: BuiltinVolumes, server_id: str) -> Any:
        asked.append("all")
        return held(service, server_id)

    def of_one(service: BuiltinVolumes, context: RequestContext, volume_id: str) -> Any:
        asked.append("one")
        return volume(service, context, volume_id)

    server_id = volumes.active(OF_IMAGE, BLANK, BLANK)
    with monkeypatch.context() as patch:
        patch.setattr(BuiltinVolumes, "held", of_all)
        patch.setattr(BuiltinVolumes, "volume", of_one)
        image_id = imaged(cloud, server_id)
    assert asked == ["all"]
    cloud.settled(server_id)
    assert [one["volume_size"] for one in mapping(cloud, image_id)] == [3, 2, 2]
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


class Agents:
    """In guests: who holds them. ``held``: what their hosts say when they let them go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.holders: list[str] = []
        self.done: list[str] = []
        self.held = [True]
        monkeypatch.setattr(Driver, "hold_still", lambda _driver, *asked: self._hold(*asked))
        monkeypatch.setattr(Driver, "go_on", lambda _driver, *asked: self._go_on(*asked))

    def _hold(self, _server_id: str, by: str, _seconds: float, in_order: bool) -> bool:
        self.holders.append(by)
        self.done.append(f"held in_order={in_order}")
        return True

    def _go_on(self, _server_id: str, by: str) -> bool:
        self.done.append("went on")
        self.holders.remove(by)
        return self.held.pop(0) if len(self.held) > 1 else self.held[0]


@pytest.fixture
def guest_agents(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Agents:
    found = Agents(monkeypatch)
    snaps = cloud.store.snaps

    class Noted(dict[str, tuple[str, str]]):
        def __setitem__(self, snapshot: str, of: tuple[str, str]) -> None:
            assert snapshot in found.holders, "nobody holds the guest still"
            found.done.append("taken")
            super().__setitem__(snapshot, of)

    cloud.store.snaps = Noted(snaps)
    cloud.store.at_once = True
    return found


def in_order_image(cloud: Cloud) -> str:
    body = {"name": "i", "disk_format": "raw", "container_format": "bare", "os_require_quiesce": "True"}
    image = str(cloud.ask("POST", "/image/v2/images", body)[1]["id"])
    cloud.images.upload(ADMIN, image, io.BytesIO(bytes(512)))
    return image


def test_a_guest_is_held_still_for_each_snapshot(
    cloud: Cloud, volumes: Volumes, guest_agents: Agents
) -> None:
    server_id = volumes.active(OF_IMAGE, BLANK)
    image_id = imaged(cloud, server_id)
    cloud.settled(server_id)
    assert cloud.image(image_id)["status"] == "active"
    assert guest_agents.holders == []
    assert Counter(guest_agents.done) == {"held in_order=False": 2, "taken": 2, "went on": 2}
    is_clean(cloud)


def test_a_guest_that_cannot_be_looked_at_is_not_held(
    cloud: Cloud, volumes: Volumes, guest_agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host may say so in the word that means a guest without an agent."""

    def refuse(*_: object) -> bool:
        raise BuildFailed("cannot look at the guest")

    monkeypatch.setattr(Driver, "hold_still", refuse)
    monkeypatch.setattr(Driver, "go_on", lambda *_: False)
    cloud.store.snaps = {}
    server_id = volumes.active(OF_IMAGE)
    image_id = imaged(cloud, server_id)
    cloud.settled(server_id)
    assert cloud.image(image_id)["status"] == "active"
    is_clean(cloud)


def test_what_must_be_in_order_is_taken_again_if_the_guest_went_on(
    cloud: Cloud, volumes: Volumes, guest_agents: Agents
) -> None:
    """A host may be compared with the records meanwhile, or let its guest go because nobody else did."""
    server_id = volumes.active(OF_IMAGE | {"uuid": in_order_image(cloud)})
    guest_agents.held = [False, True]
    image_id = imaged(cloud, server_id)
    until(lambda: len(guest_agents.done) == 3, PATIENCE, "the first try")
    cloud.leases_run_out()
    cloud.sweep()
    cloud.settled(server_id)
    assert cloud.image(image_id)["status"] == "active"
    assert guest_agents.done == ["held in_order=True", "taken", "went on"] * 2
    assert len(cloud.store.snaps) == 1
    is_clean(cloud)


@pytest.mark.parametrize("point", ["hold_still.before", "hold_still.after", "make.after"])
def test_what_must_be_in_order_is_taken_again_by_who_comes_after(
    cloud: Cloud, volumes: Volumes, guest_agents: Agents, point: str
) -> None:
    """Of what is there already nobody knows whether the guest was held until then."""
    server_id = volumes.active(OF_IMAGE | {"uuid": in_order_image(cloud)})
    cloud.faults.deadly = f"snapshot_create.{point}"
    image_id = imaged(cloud, server_id)
    assert cloud.faults.died.wait(PATIENCE)
    guest_agents.done.clear()
    cloud.leases_run_out()
    cloud.sweep()
    cloud.settled(server_id)
    assert cloud.image(image_id)["status"] == "active"
    assert guest_agents.done[-3:] == ["held in_order=True", "taken", "went on"]
    assert (guest_agents.holders, len(cloud.store.snaps)) == ([], 1)
    is_clean(cloud)


@pytest.mark.parametrize("written", [False, True])
def test_what_must_be_in_order_is_not_taken_of_a_guest_without_an_agent(
    cloud: Cloud, volumes: Volumes, written: bool
) -> None:
    """``os_require_quiesce`` of its image. Whether its store takes the snapshot, or its hypervisor."""
    cloud.store.written, cloud.store.at_once = written, not written
    server_id = volumes.active(OF_IMAGE | {"uuid": in_order_image(cloud)})
    image_id = imaged(cloud, server_id)
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert cloud.image(image_id) is None
    until(lambda: not cloud.sql("SELECT 1 FROM volume_snapshots"), PATIENCE, "no snapshot")
    assert cloud.store.snaps == {}
    cloud.store.written = False
    assert cloud.act(server_id, "pause") == 202
    cloud.settled(server_id)
    status, answer = act(cloud, server_id, "createImage", {"name": "x"})
    assert (status, "os_require_quiesce" in answer["badRequest"]["message"]) == (400, True)
    for action in ("unpause", "os-stop"):
        assert cloud.act(server_id, action) == 202
        cloud.settled(server_id)
    image_id = imaged(cloud, server_id)
    cloud.settled(server_id)
    assert cloud.image(image_id)["status"] == "active"
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


def test_a_snapshot_of_a_volume_that_a_guest_writes_to_asks_its_host(cloud: Cloud, volumes: Volumes) -> None:
    cloud.store.written = True
    image_id = imaged(cloud, server_id := volumes.active(OF_IMAGE))
    cloud.settled(server_id)
    assert cloud.image(image_id)["status"] == "active"
    assert "copy_volume" in cloud.where(server_id).driver.steps
    (root,) = mapping(cloud, image_id)
    assert cloud.store.snaps[root["snapshot_id"]][0] in volumes.of(server_id)


def test_a_copy_that_breaks_off_is_no_snapshot(cloud: Cloud, volumes: Volumes) -> None:
    cloud.store.written = True
    server_id = volumes.active(OF_IMAGE)
    driver = cloud.where(server_id).driver
    driver.failures["copy_volume"] = [BuildFailed("the disk there is full")]
    image_id = imaged(cloud, server_id)
    cloud.settled(server_id)
    assert cloud.image(image_id) is None
    assert "drop_copy" in driver.steps
    until(lambda: not cloud.sql("SELECT 1 FROM volume_snapshots"), PATIENCE, "no snapshot")
    assert cloud.store.snaps == {}
    is_clean(cloud)


def test_a_copy_that_nobody_wants_any_more_ends(cloud: Cloud, volumes: Volumes) -> None:
    cloud.store.written = True
    server_id = volumes.active(OF_IMAGE)
    (volume_id,) = volumes.of(server_id)
    driver = cloud.where(server_id).driver
    gate = driver.gate("copy_volume")
    snapshot_id = str(uuid.uuid4())
    volumes.service.create_snapshot(ADMIN, volume_id, snapshot_id, "s")
    gate.wait_until_reached()
    volumes.service.discard_snapshot(snapshot_id)
    gate.open()
    until(lambda: not cloud.sql("SELECT 1 FROM volume_snapshots"), PATIENCE, "no snapshot")
    assert "drop_copy" in driver.steps
    assert cloud.store.snaps == {}
    is_clean(cloud)


# --- shelve, and volumes of servers that are on no host


@pytest.fixture
def away(two: Cloud) -> tuple[Cloud, Volumes, str]:
    """A server that boots from a volume and has another one, on one of two hosts; and is on none any more."""
    volumes = Volumes(two)
    server_id = volumes.active(OF_IMAGE, BLANK, config_drive=True)
    assert two.act(server_id, "shelve") == 202
    two.settled(server_id)
    return two, volumes, server_id


def test_a_shelved_server_keeps_its_volumes_and_is_no_image(away: tuple[Cloud, Volumes, str]) -> None:
    cloud, volumes, server_id = away
    server = cloud.server(server_id)
    assert (server["status"], server["OS-EXT-SRV-ATTR:host"]) == ("SHELVED_OFFLOADED", None)
    assert cloud.ask("GET", "/image/v2/images")[1]["images"] == []
    assert all(host.is_empty() for host in cloud.hosts.values())
    root, data = ids = volumes.of(server_id)
    assert [volumes.status(one) for one in ids] == ["reserved", "reserved"]
    until(lambda: not cloud.store.ways, PATIENCE, "the ways there to be closed")
    events = [event["event"] for event in cloud.actions(server_id)[-1]["events"]]
    assert events == ["power_off", "destroy", "unplug_vifs"]
    is_clean(cloud)

    assert act(cloud, server_id, "unshelve")[0] == 202
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert volumes.of_guest(server_id) == {root, data}
    assert [volumes.status(one) for one in ids] == ["in-use", "in-use"]
    assert cloud.store.ways == {(one, cloud.where(server_id).name) for one in ids}
    is_clean(cloud)


def test_volumes_come_and_go_while_it_is_away(away: tuple[Cloud, Volumes, str]) -> None:
    cloud, volumes, server_id = away
    root, data = volumes.of(server_id)
    new = volumes.make()
    old = {"OpenStack-API-Version": "compute 2.19"}
    body = {"volumeAttachment": {"volumeId": new}}
    path = f"{SERVERS}/{server_id}/os-volume_attachments"
    assert cloud.ask("POST", path, body, headers=old)[0] == 409
    assert cloud.ask("DELETE", f"{path}/{data}", headers=old)[0] == 409
    assert volumes.attach(server_id, new, tag="x")[0] == 400
    assert volumes.attached(server_id, new, delete_on_termination=True)["device"] == "/dev/vdc"
    assert volumes.attach(server_id, new)[0] == 400
    assert cloud.ask("DELETE", f"{path}/{root}", headers=LATEST)[0] == 403
    assert cloud.ask("DELETE", f"{path}/{data}", headers=LATEST)[0] == 202
    assert volumes.put(server_id, new, "admin", volumeId=data)[0] == 409
    assert volumes.of(server_id) == [root, new]
    # What came while it was away is in use, as Nova has it; what left its host with it is promised to it.
    assert [volumes.status(one) for one in (root, data, new)] == ["reserved", "available", "in-use"]
    done = [action["action"] for action in cloud.actions(server_id)[-2:]]
    assert done == ["attach_volume", "detach_volume"]
    assert act(cloud, server_id, "unshelve")[0] == 202
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert volumes.of_guest(server_id) == {root, new}
    assert [volumes.status(one) for one in (root, new)] == ["in-use", "in-use"]
    is_clean(cloud)


def test_an_unshelve_that_fails_leaves_the_volumes_promised(away: tuple[Cloud, Volumes, str]) -> None:
    cloud, volumes, server_id = away
    for host in cloud.hosts.values():
        host.driver.failures["wait_for_running"] = [BuildFailed("no")]
    assert act(cloud, server_id, "unshelve")[0] == 202
    assert cloud.settled(server_id)["status"] == "SHELVED_OFFLOADED"
    assert {volumes.status(one) for one in volumes.of(server_id)} == {"reserved"}
    until(lambda: not cloud.store.ways, PATIENCE, "the ways there to be closed")
    until(lambda: all(host.is_empty() for host in cloud.hosts.values()), PATIENCE, "the hosts to be empty")
    root, data = volumes.of(server_id)
    cloud.delete(server_id)
    cloud.gone(server_id)
    until(lambda: volumes.is_gone(root), PATIENCE, "the root volume to go")
    assert volumes.status(data) == "available"
    is_clean(cloud)


def test_volumes_of_a_shelved_server_that_stays_on_its_host(make_cloud: MakeCloud) -> None:
    cloud = make_cloud(config=Config(compute=Compute(shelved_offload_time=-1)))
    volumes = Volumes(cloud)
    server_id, first, second = cloud.active(), volumes.make(), volumes.make()
    volumes.attached(server_id, first)
    assert cloud.act(server_id, "shelve") == 202
    assert cloud.settled(server_id)["status"] == "SHELVED"
    assert volumes.status(first) == "in-use"
    volumes.attached(server_id, second)
    path = f"{SERVERS}/{server_id}/os-volume_attachments/{first}"
    assert cloud.ask("DELETE", path, headers=LATEST)[0] == 202
    cloud.settled(server_id)
    assert volumes.of_guest(server_id) == {second}
    assert (volumes.status(first), volumes.status(second)) == ("available", "in-use")
    headers = {"OpenStack-API-Version": "compute 2.1"}
    body: Any = {"shelveOffload": None}
    assert cloud.ask("POST", f"{SERVERS}/{server_id}/action", body, "admin", headers)[0] == 202
    cloud.settled(server_id)
    assert volumes.status(second) == "reserved"
    assert act(cloud, server_id, "unshelve")[0] == 202
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert volumes.of_guest(server_id) == {second}
    is_clean(cloud)


def test_a_rescued_server_keeps_its_volumes(cloud: Cloud, volumes: Volumes) -> None:
    server_id, volume_id, other = cloud.active(), volumes.make(), volumes.make()
    volumes.attached(server_id, volume_id)
    assert act(cloud, server_id, "rescue")[0] == 200
    assert cloud.settled(server_id)["status"] == "RESCUE"
    assert volumes.attach(server_id, other)[0] == 409
    assert volumes.detach(server_id, volume_id)[0] == 409
    assert volumes.status(other) == "available"


@pytest.mark.parametrize(
    ("version", "keys"),
    [
        ("2.1", {"id", "volumeId", "serverId", "device"}),
        ("2.70", {"id", "volumeId", "serverId", "device", "tag"}),
        ("2.79", {"id", "volumeId", "serverId", "device", "tag", "delete_on_termination"}),
        ("2.88", {"id", "volumeId", "serverId", "device", "tag", "delete_on_termination"}),
        (
            "2.89",
            {"volumeId", "serverId", "device", "tag", "delete_on_termination", "attachment_id", "bdm_uuid"},
        ),
    ],
)
def test_an_attachment_of_a_server_that_is_away(
    away: tuple[Cloud, Volumes, str], version: str, keys: set[str]
) -> None:
    cloud, volumes, server_id = away
    (root, _) = volumes.of(server_id)
    headers = {"OpenStack-API-Version": f"compute {version}"}
    path = f"{SERVERS}/{server_id}/os-volume_attachments"
    listed = cloud.ask("GET", path, headers=headers)[1]["volumeAttachments"]
    shown = cloud.ask("GET", f"{path}/{root}", headers=headers)[1]["volumeAttachment"]
    assert shown == listed[0]
    assert shown.keys() == keys


# --- rebuild and rescue

OTHER_IMAGE = "99999999-2222-3333-4444-555555555555"


def test_before_2_93_a_rebuild_leaves_the_volume_as_it_is(cloud: Cloud, volumes: Volumes) -> None:
    server_id = volumes.active(OF_IMAGE, BLANK)
    ids = volumes.of(server_id)
    status, answer = act(cloud, server_id, "rebuild", {"imageRef": OTHER_IMAGE}, "2.92")
    assert status == 400
    assert "with a different image for a volume-backed server" in answer["badRequest"]["message"]
    cloud.store.made[ids[0]] = (3, "years of work")
    status, answer = act(cloud, server_id, "rebuild", {"imageRef": IMAGE, "name": "anew"}, "2.92")
    assert (status, answer["server"]["image"]) == (202, "")
    server = cloud.settled(server_id)
    assert (server["status"], server["name"], server["image"]) == ("ACTIVE", "anew", "")
    assert cloud.store.made[ids[0]] == (3, "years of work")
    assert volumes.of_guest(server_id) == set(ids)
    is_clean(cloud)


def test_since_2_93_the_root_volume_gets_the_image(cloud: Cloud, volumes: Volumes) -> None:
    server_id = volumes.active(OF_IMAGE, BLANK)
    root, data = volumes.of(server_id)
    cloud.store.made[data] = (2, "years of work")
    assert act(cloud, server_id, "rebuild", {"imageRef": OTHER_IMAGE})[0] == 202
    server = cloud.settled(server_id)
    assert (server["status"], server["image"]) == ("ACTIVE", "")
    assert cloud.store.made == {root: (3, f"image {OTHER_IMAGE}"), data: (2, "years of work")}
    assert volumes.of(server_id) == [root, data]
    assert volumes.of_guest(server_id) == {root, data}
    assert (volumes.status(root), volumes.status(data)) == ("in-use", "in-use")
    assert volumes.service.volume(ADMIN, root).image_metadata["image_id"] == OTHER_IMAGE
    events = [event["event"] for event in cloud.actions(server_id)[-1]["events"]]
    assert events[:3] == ["fetch_image", "remove_guest", "reimage_volume"]
    is_clean(cloud)


def test_a_rebuild_whose_volume_fails_can_be_tried_again(cloud: Cloud, volumes: Volumes) -> None:
    server_id = volumes.active(OF_IMAGE)
    (root,) = volumes.of(server_id)
    cloud.store.refuses = "ensure_volume"
    assert act(cloud, server_id, "rebuild", {"imageRef": OTHER_IMAGE})[0] == 202
    server = cloud.settled(server_id)
    assert server["status"] == "ERROR"
    assert "reimage_volume failed" in server["fault"]["message"]
    assert volumes.status(root) == "error"
    is_clean(cloud)
    cloud.store.refuses = ""
    assert act(cloud, server_id, "rebuild", {"imageRef": OTHER_IMAGE})[0] == 202
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert volumes.status(root) == "in-use"
    assert cloud.store.made == {root: (3, f"image {OTHER_IMAGE}")}
    is_clean(cloud)


def test_a_rebuild_that_was_cut_off_gets_the_image_once_more(cloud: Cloud, volumes: Volumes) -> None:
    """The first owner's guest may have written to the volume."""
    server_id = volumes.active(OF_IMAGE)
    (root,) = volumes.of(server_id)
    host = cloud.hosts["h1"]
    gate = host.driver.gate("wait_for_running")
    assert act(cloud, server_id, "rebuild", {"imageRef": OTHER_IMAGE})[0] == 202
    gate.wait_until_reached()
    cloud.store.made[root] = (3, "half a boot")
    cloud.leases_run_out()
    cloud.sweep()
    gate.open()
    del host.driver.gates["wait_for_running"]
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert cloud.store.made == {root: (3, f"image {OTHER_IMAGE}")}
    assert volumes.status(root) == "in-use"
    is_clean(cloud)


def test_a_rebuild_that_the_volume_forbids(cloud: Cloud, volumes: Volumes) -> None:
    server_id = volumes.active(OF_IMAGE)
    imaged(cloud, server_id)
    cloud.settled(server_id)
    status, answer = act(cloud, server_id, "rebuild", {"imageRef": OTHER_IMAGE})
    assert status == 400
    assert "has snapshots" in answer["badRequest"]["message"]
    (root,) = volumes.of(server_id)
    assert (volumes.status(root), cloud.server(server_id)["status"]) == ("in-use", "ACTIVE")


def test_since_2_87_such_a_server_is_rescued_if_its_disks_stay_in_place(
    cloud: Cloud, volumes: Volumes
) -> None:
    server_id = volumes.active(OF_IMAGE)
    body = {"name": "rescue", "disk_format": "raw", "container_format": "bare", "hw_rescue_bus": "virtio"}
    image_id = cloud.ask("POST", "/image/v2/images", body)[1]["id"]
    cloud.images.upload(ADMIN, image_id, io.BytesIO(b"\0" * 512))
    for version, image in (("2.86", image_id), ("2.87", IMAGE), ("2.87", None)):
        asked = {} if image is None else {"rescue_image_ref": image}
        status, answer = act(cloud, server_id, "rescue", asked, version)
        assert status == 400, answer
        assert "Cannot rescue a volume-backed instance" in answer["badRequest"]["message"]
    assert act(cloud, server_id, "rescue", {"rescue_image_ref": image_id}, "2.87")[0] == 200
    assert cloud.settled(server_id)["status"] == "RESCUE"
    assert volumes.of_guest(server_id) == set(volumes.of(server_id))
    assert act(cloud, server_id, "unrescue")[0] == 202
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert volumes.of_guest(server_id) == set(volumes.of(server_id))
    is_clean(cloud)
