"""Volumes of servers: made by builds, attached, swapped, detached, grown, and what becomes of them."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest
from msgspec import structs
from tests.functional.builds.cloud import IMAGE, PATIENCE, PROJECT, Cloud
from tests.functional.builds.conftest import MakeCloud
from tests.running import until
from tests.statements import sent

from kilonova.cancel import Cancel
from kilonova.conductor import proxy
from kilonova.domain.block_devices import AttachedVolume
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BuildFailed
from kilonova.domain.messages import ServerQuery, ServerRef
from kilonova.domain.servers import GuestMetadata, ImageRef
from kilonova.domain.volumes import Connector
from kilonova.store import orphans
from kilonova.virt.libvirt.xml import volume as xml
from kilonova.virt.libvirt.xml.volume import VolumeDevice
from kilonova.volume.base import NewVolume

SERVERS = "/compute/v2.1/servers"
ADMIN = RequestContext(request_id="", user_id="f" * 32, project_id=PROJECT, roles=frozenset({"admin"}))
LATEST = {"OpenStack-API-Version": "compute 2.100"}
OF_IMAGE = {
    "uuid": IMAGE,
    "source_type": "image",
    "destination_type": "volume",
    "volume_size": 3,
    "boot_index": 0,
    "delete_on_termination": True,
}
ROOT = {"uuid": IMAGE, "source_type": "image", "destination_type": "local", "boot_index": 0}


class Volumes:
    """Of a cloud, from all sides."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.service = cloud.volumes
        cloud.keep_volumes()

    def make(self, size_gb: int = 1, **more: Any) -> str:
        new = NewVolume(id=str(uuid.uuid4()), size_gb=size_gb, **more)
        self.service.create(ADMIN, [new])
        until(lambda: not self.service.ready([new.id]).pending, PATIENCE, "the volume")
        return new.id

    def bootable(self) -> str:
        return self.make(image=ImageRef(id=IMAGE, disk_format="raw", size=512))

    def status(self, volume_id: str) -> str:
        return self.service.volume(ADMIN, volume_id).status

    def is_gone(self, volume_id: str) -> bool:
        return volume_id in self.service.ready([volume_id]).failed and volume_id not in self.cloud.store.made

    def attach(self, server_id: str, volume_id: str, caller: str = "member", **more: Any) -> Any:
        body = {"volumeAttachment": {"volumeId": volume_id, **more}}
        return self.cloud.ask("POST", f"{SERVERS}/{server_id}/os-volume_attachments", body, caller, LATEST)

    def attached(self, server_id: str, volume_id: str, **more: Any) -> Any:
        status, answer = self.attach(server_id, volume_id, **more)
        assert status == 200, answer
        self.cloud.settled(server_id)
        return answer["volumeAttachment"]

    def detach(self, server_id: str, volume_id: str) -> Any:
        return self.cloud.ask("DELETE", f"{SERVERS}/{server_id}/os-volume_attachments/{volume_id}")

    def put(self, server_id: str, volume_id: str, caller: str = "member", **body: Any) -> Any:
        path = f"{SERVERS}/{server_id}/os-volume_attachments/{volume_id}"
        return self.cloud.ask("PUT", path, {"volumeAttachment": body}, caller, LATEST)

    def listed(self, server_id: str) -> list[dict[str, Any]]:
        path = f"{SERVERS}/{server_id}/os-volume_attachments"
        status, answer = self.cloud.ask("GET", path, headers=LATEST)
        assert status == 200
        found: list[dict[str, Any]] = answer["volumeAttachments"]
        return found

    def of(self, server_id: str) -> list[str]:
        return [one["volumeId"] for one in self.listed(server_id)]

    def of_guest(self, server_id: str) -> set[str]:
        return self.cloud.where(server_id).driver.volumes(server_id)

    def create(self, *devices: dict[str, Any], image: str = "", **more: Any) -> Any:
        server = {"name": "vm", "imageRef": image, "flavorRef": "42", "networks": "none", **more}
        server["block_device_mapping_v2"] = list(devices)
        return self.cloud.ask("POST", SERVERS, {"server": server}, headers=LATEST)

    def created(self, *devices: dict[str, Any], **more: Any) -> str:
        status, answer = self.create(*devices, **more)
        assert status == 202, answer
        return str(answer["server"]["id"])

    def active(self, *devices: dict[str, Any], **more: Any) -> str:
        server_id = self.created(*devices, **more)
        until(lambda: not self.cloud._busy(server_id), 3 * PATIENCE, "the build")
        assert self.cloud.server(server_id)["status"] == "ACTIVE", self.cloud.server(server_id)
        return server_id


@pytest.fixture
def volumes(cloud: Cloud) -> Volumes:
    return Volumes(cloud)


def test_a_server_boots_from_a_volume_that_its_build_makes(cloud: Cloud, volumes: Volumes) -> None:
    blank = {"source_type": "blank", "destination_type": "volume", "volume_size": 2, "tag": "data"}
    server_id = volumes.active(OF_IMAGE, blank)
    root, data = volumes.listed(server_id)
    assert (root["device"], data["device"]) == ("/dev/vda", "/dev/vdb")
    assert (data["tag"], data["delete_on_termination"]) == ("data", False)
    assert volumes.of_guest(server_id) == {root["volumeId"], data["volumeId"]}
    assert cloud.store.made[root["volumeId"]] == (3, f"image {IMAGE}")
    assert {volumes.status(root["volumeId"]), volumes.status(data["volumeId"])} == {"in-use"}
    shown = cloud.server(server_id)
    assert shown["image"] == ""
    assert shown["OS-EXT-SRV-ATTR:root_device_name"] == "/dev/vda"
    assert shown["os-extended-volumes:volumes_attached"] == [
        {"id": root["volumeId"], "delete_on_termination": True},
        {"id": data["volumeId"], "delete_on_termination": False},
    ]
    assert "prepare_block_devices" in [step["event"] for step in cloud.actions(server_id)[0]["events"]]
    assert volumes.detach(server_id, root["volumeId"])[0] == 403
    cloud.delete(server_id)
    cloud.gone(server_id)
    until(lambda: volumes.is_gone(root["volumeId"]), PATIENCE, "the root volume to go")
    assert volumes.status(data["volumeId"]) == "available"
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


def test_a_volume_comes_grows_and_goes(cloud: Cloud, volumes: Volumes) -> None:
    server_id, volume_id = cloud.active(), volumes.make()
    made = volumes.attached(server_id, volume_id)
    assert made == {
        "id": volume_id,
        "volumeId": volume_id,
        "serverId": server_id,
        "device": "/dev/vdb",
        "tag": None,
        "delete_on_termination": False,
    }
    assert volumes.of_guest(server_id) == {volume_id}
    assert volumes.status(volume_id) == "in-use"
    again, _ = volumes.attach(server_id, volume_id)
    assert again == 400
    other, _ = volumes.attach(cloud.active(), volume_id)
    assert other == 400
    cloud.store.made[volume_id] = (5, "zeros")
    cloud.sql("UPDATE volumes SET size = 5 WHERE id = ?", volume_id)
    event = {"name": "volume-extended", "server_uuid": server_id, "tag": volume_id}
    path = "/compute/v2.1/os-server-external-events"
    assert cloud.ask("POST", path, {"events": [event]}, "admin")[0] == 200
    driver = cloud.where(server_id).driver
    until(lambda: driver.volume_sizes(server_id) == {volume_id: 5}, PATIENCE, "the guest to see it")
    assert volumes.detach(server_id, volume_id)[0] == 202
    cloud.settled(server_id)
    assert volumes.of(server_id) == []
    assert volumes.of_guest(server_id) == set()
    assert volumes.status(volume_id) == "available"
    assert volumes.detach(server_id, volume_id)[0] == 404
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


def test_a_stopped_server_has_its_volumes_when_it_starts(cloud: Cloud, volumes: Volumes) -> None:
    server_id, volume_id = cloud.active(), volumes.make()
    assert cloud.act(server_id, "os-stop") == 202
    cloud.settled(server_id)
    volumes.attached(server_id, volume_id)
    driver = cloud.where(server_id).driver
    driver._servers[server_id].volumes = {}  # as if its definition were lost
    for action, value in (("os-start", None), ("reboot", {"type": "HARD"})):
        cloud.store.let_in.clear()
        assert cloud.act(server_id, action, value) == 202
        cloud.settled(server_id)
        assert volumes.of_guest(server_id) == {volume_id}
        assert cloud.store.ways == {(volume_id, "h1")}


def test_a_paused_guest_keeps_its_volume(cloud: Cloud, volumes: Volumes) -> None:
    server_id, volume_id = cloud.active(), volumes.make()
    assert cloud.act(server_id, "pause") == 202
    cloud.settled(server_id)
    volumes.attached(server_id, volume_id)
    assert volumes.detach(server_id, volume_id)[0] == 202
    cloud.settled(server_id)
    assert volumes.of(server_id) == [volume_id]
    assert volumes.status(volume_id) == "in-use"
    assert cloud.actions(server_id)[-1]["action"] == "detach_volume"
    assert cloud.server(server_id)["status"] == "PAUSED"
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


def test_one_volume_takes_the_place_of_another(cloud: Cloud, volumes: Volumes) -> None:
    server_id, old, new, small = cloud.active(), volumes.make(2), volumes.make(3), volumes.make(1)
    volumes.attached(server_id, old)
    assert volumes.put(server_id, old, volumeId=new)[0] == 403
    assert volumes.put(server_id, old, "admin", volumeId=small)[0] == 400
    assert volumes.put(server_id, old, "admin", volumeId=new)[0] == 202
    cloud.settled(server_id)
    assert volumes.of(server_id) == [new]
    assert volumes.of_guest(server_id) == {new}
    assert (volumes.status(old), volumes.status(new)) == ("available", "in-use")
    driver = cloud.where(server_id).driver
    for step in ("mirror_volume", "swap_volume"):
        another = volumes.make(3)
        driver.failures[step] = [BuildFailed("no")]
        assert volumes.put(server_id, new, "admin", volumeId=another)[0] == 202
        cloud.settled(server_id)
        assert volumes.of(server_id) == [new]
        assert (volumes.status(new), volumes.status(another)) == ("in-use", "available")
        assert driver.mirrors(server_id) == {}
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


def test_what_becomes_of_a_volume_can_be_changed(cloud: Cloud, volumes: Volumes) -> None:
    server_id, volume_id = cloud.active(), volumes.make()
    volumes.attached(server_id, volume_id)
    assert volumes.put(server_id, volume_id, volumeId=volume_id, device="/dev/vdz")[0] == 400
    assert volumes.put(server_id, volume_id, volumeId=volume_id, delete_on_termination=True)[0] == 202
    cloud.delete(server_id)
    cloud.gone(server_id)
    until(lambda: volumes.is_gone(volume_id), PATIENCE, "the volume to go")


def test_what_is_said_with_a_swap_that_is_refused_changes_nothing(cloud: Cloud, volumes: Volumes) -> None:
    server_id, old, small, new = cloud.active(), volumes.make(2), volumes.make(1), volumes.make(2)
    volumes.attached(server_id, old)
    said = {"delete_on_termination": True}
    assert volumes.put(server_id, old, "admin", volumeId=small, **said)[0] == 400
    assert volumes.listed(server_id)[0]["delete_on_termination"] is False
    assert volumes.put(server_id, old, "admin", volumeId=new, **said)[0] == 202
    cloud.settled(server_id)
    (held,) = volumes.listed(server_id)
    assert (held["volumeId"], held["delete_on_termination"]) == (new, True)


def test_an_attach_that_fails_leaves_all_as_it_was(cloud: Cloud, volumes: Volumes) -> None:
    server_id, volume_id = cloud.active(), volumes.make()
    cloud.where(server_id).driver.failures["attach_volume"] = [BuildFailed("no room")]
    assert volumes.attach(server_id, volume_id)[0] == 200
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert volumes.of(server_id) == []
    assert volumes.status(volume_id) == "available"
    (event,) = [one for one in cloud.actions(server_id)[-1]["events"] if one["result"] == "Error"]
    assert event["event"] == "attach_volume"
    cloud.store.refuses = "connect"
    assert volumes.attach(server_id, volume_id)[0] == 200
    cloud.settled(server_id)
    assert volumes.status(volume_id) == "available"
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


def test_a_volume_that_cannot_be_made_ends_its_build(cloud: Cloud, volumes: Volumes) -> None:
    cloud.store.refuses = "ensure_volume"
    server_id = volumes.created(OF_IMAGE)
    server = cloud.settled(server_id)
    assert server["status"] == "ERROR"
    assert "prepare_block_devices failed" in server["fault"]["message"]
    assert server["os-extended-volumes:volumes_attached"] == []
    until(lambda: not cloud.store.made, PATIENCE, "the store to be empty")
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


def test_a_server_that_is_deleted_while_its_volume_is_made_leaves_none(
    cloud: Cloud, volumes: Volumes
) -> None:
    cloud.store.hold = "ensure_volume"
    server_id = volumes.created(OF_IMAGE)
    assert cloud.store.held.wait(PATIENCE)
    cloud.delete(server_id)
    cloud.gone(server_id)
    cloud.store.hold = ""
    cloud.store.go.set()
    until(lambda: not cloud.sql("SELECT 1 FROM volumes"), PATIENCE, "no volume")
    assert cloud.store.made == {}
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


def test_a_rescheduled_build_keeps_its_volumes(make_cloud: MakeCloud) -> None:
    cloud = make_cloud(hosts=2)
    volumes = Volumes(cloud)
    failures: list[Exception] = [BuildFailed("bad disk")]
    for host in cloud.hosts.values():
        host.driver.failures["ensure_disks"] = failures
    server_id = volumes.created(OF_IMAGE)
    until(lambda: cloud.server(server_id)["status"] in ("ACTIVE", "ERROR"), 3 * PATIENCE, "the build")
    assert cloud.server(server_id)["status"] == "ACTIVE"
    assert failures == []
    (volume_id,) = cloud.store.made
    assert volumes.of_guest(server_id) == {volume_id}
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")
    assert cloud.store.ways == {(volume_id, cloud.where(server_id).name)}, "and no way from the host it left"


def test_an_existing_volume_is_promised_when_the_server_is_accepted(cloud: Cloud, volumes: Volumes) -> None:
    volume_id, bare = volumes.bootable(), volumes.make()
    device = {"source_type": "volume", "destination_type": "volume", "boot_index": 0}
    status, answer = volumes.create(device | {"uuid": bare})
    assert status == 400
    assert answer["badRequest"]["message"] == f"Block Device {bare} is not bootable."
    server_id = volumes.active(device | {"uuid": volume_id, "delete_on_termination": True})
    assert volumes.create(device | {"uuid": volume_id})[0] == 400
    cloud.delete(server_id)
    cloud.gone(server_id)
    until(lambda: volumes.is_gone(volume_id), PATIENCE, "the volume to go")
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


@pytest.mark.parametrize(
    ("devices", "image", "said"),
    [
        ([{"source_type": "volume", "boot_index": 0}], "", "Missing device UUID."),
        ([{"source_type": "blank", "uuid": IMAGE}], IMAGE, "Invalid device UUID."),
        ([OF_IMAGE | {"boot_index": 1}], "", "Boot sequence"),
        ([OF_IMAGE, OF_IMAGE | {"boot_index": 2}], "", "Boot sequence"),
        ([OF_IMAGE | {"volume_size": None}], "", "need to have a non-zero size"),
        ([OF_IMAGE | {"volume_type": "nosuch"}], "", "nosuch could not be found"),
        ([OF_IMAGE | {"volume_size": 10**6}], "", "quota|exceed"),
        ([ROOT | {"volume_type": "x"}], IMAGE, "destination_type=local is not supported"),
        ([{"source_type": "volume", "uuid": str(uuid.uuid4()), "boot_index": 0}], "", "failed to get volume"),
        (
            [{"source_type": "snapshot", "uuid": str(uuid.uuid4()), "boot_index": 0}],
            "",
            "failed to get snapshot",
        ),
        ([OF_IMAGE | {"disk_bus": "xyz"}], "", "disk bus xyz is not valid"),
        (
            [ROOT, {"source_type": "blank", "destination_type": "volume"}],
            IMAGE,
            "need to have non-zero size",
        ),
        ([ROOT, {"source_type": "blank", "volume_size": 1}], IMAGE, "larger than the instance type allows"),
        ([ROOT] + [OF_IMAGE | {"boot_index": -1, "tag": "a"}] * 2, IMAGE, "tag"),
    ],
)
def test_disks_that_cannot_be(volumes: Volumes, devices: Any, image: str, said: str) -> None:
    status, answer = volumes.create(*devices, image=image)
    assert status in (400, 403), answer
    (fault,) = answer.values()
    assert any(word in fault["message"] for word in said.split("|")), fault


def test_several_servers_have_their_own_volumes_and_no_one_volume(cloud: Cloud, volumes: Volumes) -> None:
    taken = {"source_type": "volume", "uuid": volumes.bootable(), "boot_index": 0}
    status, answer = volumes.create(taken, min_count=2)
    assert status == 400
    assert answer["badRequest"]["message"] == "Cannot attach one or more volumes to multiple instances"
    volumes.created(OF_IMAGE, min_count=2)
    until(lambda: not cloud.sql("SELECT 1 FROM operations WHERE state = 'open'"), 3 * PATIENCE, "builds")
    ids = [row[0] for row in cloud.sql("SELECT id FROM servers WHERE vm_state = 'active'")]
    assert len({volume for one in ids for volume in volumes.of(one)}) == len(ids) == 2


def test_the_old_form_of_the_mapping(cloud: Cloud, volumes: Volumes) -> None:
    volume_id = volumes.bootable()
    server = {"name": "vm", "flavorRef": "42"}
    server["block_device_mapping"] = [{"device_name": "vda", "volume_id": volume_id}]
    old = {"OpenStack-API-Version": "compute 2.1"}
    status, answer = cloud.ask("POST", SERVERS, {"server": server}, headers=old)
    assert status == 202, answer
    assert cloud.settled(answer["server"]["id"])["status"] == "ACTIVE"
    assert volumes.of(answer["server"]["id"]) == [volume_id]


def test_since_2_101_an_attach_is_only_accepted(cloud: Cloud, volumes: Volumes) -> None:
    server_id, volume_id = cloud.active(), volumes.make()
    body = {"volumeAttachment": {"volumeId": volume_id}}
    path = f"{SERVERS}/{server_id}/os-volume_attachments"
    headers = {"OpenStack-API-Version": "compute 2.101"}
    assert cloud.ask("POST", path, body, headers=headers) == (202, None)
    cloud.settled(server_id)
    status, answer = cloud.ask("GET", f"{path}/{volume_id}", headers=headers)
    assert status == 200
    assert answer["volumeAttachment"].keys() >= {"attachment_id", "bdm_uuid"}
    assert "id" not in answer["volumeAttachment"]


@pytest.mark.parametrize("kind", ["attach_volume", "detach_volume"])
def test_what_was_cut_off_is_done_by_the_next_owner(cloud: Cloud, volumes: Volumes, kind: str) -> None:
    server_id, volume_id = cloud.active(), volumes.make()
    if kind == "detach_volume":
        volumes.attached(server_id, volume_id)
    cloud.bus.refused["change_volumes"] = 1
    if kind == "attach_volume":
        assert volumes.attach(server_id, volume_id)[0] == 200
    else:
        assert volumes.detach(server_id, volume_id)[0] == 202
    assert cloud._busy(server_id)
    cloud.leases_run_out()
    cloud.sweep()
    cloud.settled(server_id)
    has = {volume_id} if kind == "attach_volume" else set()
    assert volumes.of_guest(server_id) == set(volumes.of(server_id)) == has
    assert volumes.status(volume_id) == ("in-use" if has else "available")
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


def test_a_volume_that_left_while_the_agent_was_away_leaves_the_guest(cloud: Cloud, volumes: Volumes) -> None:
    server_id, volume_id = cloud.active(), volumes.make()
    volumes.attached(server_id, volume_id)
    host = cloud.where(server_id)
    host.agent.stop()
    cloud.sql("DELETE FROM block_device_mappings")
    cloud.sql("DELETE FROM volume_attachments")
    host.start()
    until(lambda: host.driver.volumes(server_id) == set(), PATIENCE, "the guest to let go of it")


def test_an_attach_past_its_deadline_leaves_the_guest_without_it(cloud: Cloud, volumes: Volumes) -> None:
    server_id, volume_id = cloud.active(), volumes.make()
    driver = cloud.where(server_id).driver
    cloud.bus.broken["finished"] = 1
    assert volumes.attach(server_id, volume_id)[0] == 200
    assert volumes.of_guest(server_id) == {volume_id}
    cloud.deadlines_pass()
    cloud.leases_run_out()
    cloud.sweep()
    cloud.settled(server_id)
    assert volumes.of(server_id) == []
    until(lambda: driver.volumes(server_id) == set(), PATIENCE, "the guest to let go of it")
    assert volumes.status(volume_id) == "available"
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


def test_a_detach_past_its_deadline_that_was_done_gives_the_volume_back(
    cloud: Cloud, volumes: Volumes
) -> None:
    """What the guest let go of too late for anybody to hear of it is its again, as the record says."""
    server_id, volume_id = cloud.active(), volumes.make()
    volumes.attached(server_id, volume_id)
    cloud.bus.broken["finished"] = 1
    assert volumes.detach(server_id, volume_id)[0] == 202
    assert volumes.of_guest(server_id) == set()
    cloud.deadlines_pass()
    cloud.leases_run_out()
    cloud.sweep()
    cloud.settled(server_id)
    assert volumes.of(server_id) == [volume_id]
    assert volumes.status(volume_id) == "in-use"
    until(lambda: volumes.of_guest(server_id) == {volume_id}, PATIENCE, "the guest to have it again")
    assert cloud.unexplained() == []


def test_a_rescued_guest_is_given_no_volumes(cloud: Cloud, volumes: Volumes) -> None:
    """It has those alone that it was rescued with."""
    server_id, volume_id = cloud.active(), volumes.make()
    volumes.attached(server_id, volume_id)
    host = cloud.where(server_id)
    cloud.sql("UPDATE servers SET vm_state = 'rescued'")
    host.driver.detach_volume(server_id, volume_id, 1.0, Cancel())
    host.agent.refresh_interfaces(ServerRef(server_id=server_id))
    assert volumes.of_guest(server_id) == set()
    cloud.sql("UPDATE servers SET vm_state = 'active'")
    host.agent.refresh_interfaces(ServerRef(server_id=server_id))
    assert volumes.of_guest(server_id) == {volume_id}


def test_an_attach_at_a_host_that_was_forced_down_ends(cloud: Cloud, volumes: Volumes) -> None:
    server_id, volume_id = cloud.active(), volumes.make()
    host = cloud.where(server_id)
    cloud.bus.broken["finished"] = 1
    assert volumes.attach(server_id, volume_id)[0] == 200
    host.vanish()
    cloud.deadlines_pass()
    cloud.leases_run_out()
    cloud.sweep()
    cloud.leases_run_out()
    assert volumes.status(volume_id) == "attaching", "a guest may write to it"
    cloud.sql("UPDATE services SET forced_down = ? WHERE host = ?", True, host.name)
    cloud.sweep()
    cloud.settled(server_id)
    assert volumes.of(server_id) == []
    assert volumes.status(volume_id) == "available"
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")
    host.agent.stop()
    host.start()
    until(lambda: host.driver.volumes(server_id) == set(), PATIENCE, "the guest to let go of it")


# --- the Block Storage API and servers


def test_what_a_server_has_is_not_taken_away_by_the_volume_service(cloud: Cloud, volumes: Volumes) -> None:
    server_id, volume_id = cloud.active(), volumes.make()
    attachment = volumes.attached(server_id, volume_id)
    shown = volumes.listed(server_id)[0]
    assert attachment["volumeId"] == shown["volumeId"]
    for caller in ("member", "admin"):
        for method, path, body in (
            ("DELETE", f"/volume/v3/attachments/{shown['attachment_id']}", None),
            ("POST", f"/volume/v3/volumes/{volume_id}/action", {"os-detach": {}}),
            (
                "POST",
                f"/volume/v3/volumes/{volume_id}/action",
                {"os-terminate_connection": {"connector": {}}},
            ),
            ("POST", f"/volume/v3/volumes/{volume_id}/action", {"os-force_detach": {}}),
            ("POST", f"/volume/v3/volumes/{volume_id}/action", {"os-reset_status": RESET}),
        ):
            status, answer = cloud.ask(method, path, body, caller, {"OpenStack-API-Version": "volume 3.70"})
            assert status in ((409,) if caller == "admin" else (403, 409)), (path, body, answer)
    assert "using the Compute API" in answer["conflictingRequest"]["message"]
    assert volumes.status(volume_id) == "in-use"
    assert volumes.of_guest(server_id) == {volume_id}
    assert volumes.detach(server_id, volume_id)[0] == 202
    cloud.settled(server_id)
    assert volumes.status(volume_id) == "available"


def test_a_host_is_told_of_all_volumes_by_one_question(cloud: Cloud, volumes: Volumes) -> None:
    server_id = cloud.active()
    asked, sizes = [], {}
    for size in (1, 2, 3):
        sizes[volumes.make(size)] = size
        volumes.attached(server_id, list(sizes)[-1])
        message = ServerQuery(host=cloud.where(server_id).name, server_id=server_id)
        with sent(cloud.db) as statements:
            record = proxy.server_record(cloud.conductor, message)
        asked.append(sum("volume" in statement for statement in statements))
        assert record.volumes == sizes
    assert asked == [asked[0]] * 3


def test_pages_of_attachments_are_full(cloud: Cloud, volumes: Volumes) -> None:
    """Disks that are none are not counted."""
    server_id = volumes.active(ROOT, OF_IMAGE | {"boot_index": -1}, image=IMAGE)
    later = volumes.make()
    volumes.attached(server_id, later)
    path = f"{SERVERS}/{server_id}/os-volume_attachments"
    pages = [cloud.ask("GET", f"{path}?limit=1&offset={n}", headers=LATEST)[1] for n in range(3)]
    found = [[one["volumeId"] for one in page["volumeAttachments"]] for page in pages]
    assert found == [[one] for one in volumes.of(server_id)] + [[]]


# --- attachments that nothing explains


def strand(cloud: Cloud, volume_id: str, status: str) -> None:
    """As a bug could leave it, a while ago."""
    cloud.sql("UPDATE volume_attachments SET status = ? WHERE volume_id = ?", status, volume_id)
    shown = "in-use" if status == "attached" else status
    cloud.sql("UPDATE volumes SET status = ?, updated_at = 1 WHERE id = ?", shown, volume_id)


def told(cloud: Cloud) -> list[str]:
    """By ``doctor --orphans``."""
    with cloud.db.read() as conn:
        return [kind for kind, _ in orphans.unowned(conn)]


@pytest.mark.parametrize("status", ["attaching", "detaching"])
def test_an_attachment_on_a_way_that_nothing_takes_it_stays_its_servers(
    cloud: Cloud, volumes: Volumes, status: str
) -> None:
    """Nobody else may have what a guest may be writing to; and it can be detached."""
    server_id, volume_id = cloud.active(), volumes.make()
    volumes.attached(server_id, volume_id)
    strand(cloud, volume_id, status)
    assert told(cloud) == ["stuck attachment"]
    cloud.sweep()
    assert volumes.status(volume_id) == "in-use"
    assert (told(cloud), cloud.unexplained()) == ([], [])
    assert volumes.detach(server_id, volume_id)[0] == 202
    cloud.settled(server_id)
    assert (volumes.status(volume_id), volumes.of_guest(server_id)) == ("available", set())


def test_what_is_stuck_for_a_server_on_no_host_is_promised_to_it(cloud: Cloud, volumes: Volumes) -> None:
    server_id, volume_id = cloud.active(), volumes.make()
    volumes.attached(server_id, volume_id)
    assert cloud.act(server_id, "shelve") == 202
    cloud.settled(server_id)
    strand(cloud, volume_id, "attaching")
    assert told(cloud) == ["stuck attachment"]
    cloud.sweep()
    assert volumes.status(volume_id) == "reserved"
    assert told(cloud) == []
    assert cloud.act(server_id, "unshelve") == 202
    cloud.settled(server_id)
    assert volumes.of_guest(server_id) == {volume_id}


def test_what_a_deleted_server_still_has_is_freed(cloud: Cloud, volumes: Volumes) -> None:
    server_id, volume_id, other = cloud.active(), volumes.make(), volumes.make()
    cloud.delete(server_id)
    cloud.gone(server_id)
    for one in (volume_id, other):
        volumes.service.reserve(ADMIN, one, server_id, str(uuid.uuid4()))
    strand(cloud, volume_id, "attached")
    assert told(cloud) == ["record of an attachment"] * 2
    cloud.sweep()
    assert volumes.status(volume_id) == "available"
    assert volumes.status(other) == "reserved", "it is young: its transaction may be, too"
    strand(cloud, other, "reserved")
    cloud.sweep()
    assert (told(cloud), cloud.unexplained()) == ([], [])


def test_what_is_under_way_and_what_others_do_is_no_matter_of_the_sweeper(
    cloud: Cloud, volumes: Volumes
) -> None:
    server_id, mine, theirs = cloud.active(), volumes.make(), volumes.make()
    attachment = str(uuid.uuid4())
    volumes.service.reserve(ADMIN, theirs, "a server of another Nova", attachment)
    volumes.service.connect(attachment, Connector(host="elsewhere"))
    strand(cloud, theirs, "attaching")
    gate = cloud.where(server_id).driver.gate("attach_volume")
    asking = threading.Thread(target=volumes.attach, args=(server_id, mine))
    asking.start()
    gate.wait_until_reached()
    strand(cloud, mine, "attaching")
    assert told(cloud) == []
    cloud.sweep()
    assert [volumes.status(one) for one in (mine, theirs)] == ["attaching", "attaching"]
    gate.open()
    asking.join()
    cloud.settled(server_id)
    assert volumes.status(mine) == "in-use"
    volumes.service.release(attachment)


RESET = {"attach_status": "detached", "status": "available"}


def forced_away(cloud: Cloud, volumes: Volumes, volume_id: str) -> None:
    """As a release before could leave it: the attachment is gone, the server's record is not."""
    (row,) = cloud.sql("SELECT id FROM volume_attachments WHERE volume_id = ?", volume_id)
    volumes.service.release(row[0])


def test_a_volume_that_was_forced_away_leaves_the_server_when_it_is_detached(
    cloud: Cloud, volumes: Volumes
) -> None:
    server_id, volume_id = cloud.active(), volumes.make()
    volumes.attached(server_id, volume_id)
    forced_away(cloud, volumes, volume_id)
    assert volumes.detach(server_id, volume_id)[0] == 202
    assert volumes.of(server_id) == []
    until(lambda: volumes.of_guest(server_id) == set(), PATIENCE, "the guest to let go of it")
    volumes.attached(server_id, volume_id)
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


def test_a_server_starts_without_a_volume_that_was_forced_away(cloud: Cloud, volumes: Volumes) -> None:
    server_id, volume_id, other = cloud.active(), volumes.make(), volumes.make()
    volumes.attached(server_id, volume_id)
    volumes.attached(server_id, other)
    forced_away(cloud, volumes, volume_id)
    assert cloud.act(server_id, "reboot", {"type": "HARD"}) == 202
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert volumes.of_guest(server_id) == {other}


@pytest.mark.parametrize("kind", ["attach", "detach", "swap"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_volume_that_is_forced_away_meanwhile_ends_what_is_done_to_it(
    cloud: Cloud, volumes: Volumes, kind: str, fails: bool
) -> None:
    server_id, volume_id, new = cloud.active(), volumes.make(), volumes.make()
    driver = cloud.where(server_id).driver
    if kind != "attach":
        volumes.attached(server_id, volume_id)
    gate = driver.gate(f"{kind}_volume")
    if fails:
        driver.failures[f"{kind}_volume"] = [BuildFailed("no")]
    ask = {
        "attach": lambda: volumes.attach(server_id, volume_id),
        "detach": lambda: volumes.detach(server_id, volume_id),
        "swap": lambda: volumes.put(server_id, volume_id, "admin", volumeId=new),
    }[kind]
    asking = threading.Thread(target=ask)
    asking.start()
    gate.wait_until_reached()
    # Of the swap the new one, which its end needs.
    forced_away(cloud, volumes, new if kind == "swap" and not fails else volume_id)
    gate.open()
    asking.join()
    cloud.settled(server_id)
    until(lambda: not cloud._busy(server_id), PATIENCE, "the operation to end")
    assert volumes.of(server_id) == []
    assert {volumes.status(volume_id), volumes.status(new)} == {"available"}
    until(lambda: volumes.of_guest(server_id) == set(), PATIENCE, "the guest to have none")
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


@pytest.mark.parametrize("kind", ["attach", "detach"])
def test_the_state_is_not_reset_while_a_volume_comes_or_goes(
    cloud: Cloud, volumes: Volumes, kind: str
) -> None:
    server_id, volume_id = cloud.active(), volumes.make()
    if kind == "detach":
        volumes.attached(server_id, volume_id)
    gate = cloud.where(server_id).driver.gate(f"{kind}_volume")
    asking = threading.Thread(target=getattr(volumes, kind), args=(server_id, volume_id))
    asking.start()
    gate.wait_until_reached()
    body = {"os-resetState": {"state": "error"}}
    assert cloud.ask("POST", f"{SERVERS}/{server_id}/action", body, "admin")[0] == 409
    gate.open()
    asking.join()
    cloud.settled(server_id)
    assert volumes.status(volume_id) == ("in-use" if kind == "attach" else "available")


def test_the_config_drive_tells_of_tagged_disks_whoever_writes_it(cloud: Cloud, volumes: Volumes) -> None:
    tagged = {"source_type": "blank", "destination_type": "volume", "volume_size": 1, "tag": "data"}
    server_id = volumes.active(ROOT, tagged, image=IMAGE, config_drive=True)
    host = cloud.where(server_id)
    told: list[Any] = []
    for name in ("ensure_config_drive", "rescue"):
        whole = getattr(host.driver, name)

        def listening(*given: Any, whole: Any = whole, **more: Any) -> None:
            told.extend(one for one in given if isinstance(one, GuestMetadata))
            whole(*given, **more)

        setattr(host.driver, name, listening)
    body: Any = {"rebuild": {"imageRef": IMAGE}}
    for action, value in (("rescue", None), ("unrescue", None), *body.items(), ("shelve", None)):
        assert cloud.act(server_id, action, value) in (200, 202)
        cloud.settled(server_id)
    assert cloud.act(server_id, "unshelve") == 202
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert [[disk.tag for disk in one.tagged_disks] for one in told] == [["data"]] * 3


def test_a_read_only_volume_is_read_only_to_the_guest(cloud: Cloud, volumes: Volumes) -> None:
    server_id, volume_id = cloud.active(), volumes.make()
    body = {"os-update_readonly_flag": {"readonly": True}}
    assert cloud.ask("POST", f"/volume/v3/volumes/{volume_id}/action", body)[0] == 202
    driver = cloud.where(server_id).driver
    given: list[AttachedVolume] = []
    attach = driver.attach_volume
    driver.attach_volume = lambda spec, volume: (given.append(volume), attach(spec, volume))[1]  # type: ignore
    volumes.attached(server_id, volume_id)
    assert [one.read_only for one in given] == [True]
    for read_only, count in ((True, 1), (False, 0)):
        device = VolumeDevice(volume=structs.replace(given[0], read_only=read_only))
        assert len(xml.device(device, "vdb").findall("readonly")) == count
