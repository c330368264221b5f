"""rebuild, rescue and unrescue: states, records, and what the host is told."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from tests.functional.builds.cloud import PATIENCE, Cloud
from tests.functional.builds.test_server_volumes import ADMIN
from tests.running import until

from kilonova.domain.errors import BuildAborted, BuildFailed
from kilonova.virt.fake import _EMPTY_QCOW2

OTHER = "22222222-3333-4444-5555-666666666666"


def act(cloud: Cloud, server_id: str, body: Any, version: str = "2.96") -> Any:
    headers = {"OpenStack-API-Version": f"compute {version}"}
    return cloud.ask("POST", f"/compute/v2.1/servers/{server_id}/action", body, headers=headers)


def rebuild(cloud: Cloud, server_id: str, **more: Any) -> Any:
    status, answer = act(cloud, server_id, {"rebuild": {"imageRef": OTHER, **more}})
    assert status == 202, answer
    return answer["server"]


@pytest.mark.parametrize(
    ("before", "status", "power"), [(None, "ACTIVE", 1), ("os-stop", "SHUTOFF", 4), ("error", "ACTIVE", 1)]
)
def test_a_rebuilt_server(cloud: Cloud, before: str | None, status: str, power: int) -> None:
    server_id = cloud.active(cloud.make_network(), config_drive=True)
    nics = cloud.server(server_id)["addresses"]
    if before == "error":
        cloud.hosts["h1"].driver.failures["pause"] = [BuildFailed("no")]
        assert cloud.act(server_id, "pause") == 202
    elif before:
        assert cloud.act(server_id, before) == 202
    cloud.settled(server_id)
    data = base64.b64encode(b"new").decode()
    told = rebuild(
        cloud,
        server_id,
        name="new",
        description="d",
        metadata={"a": "b"},
        hostname="new-host",
        user_data=data,
    )
    assert told["adminPass"]
    assert (told["name"], told["user_data"], told["key_name"]) == ("new", data, None)
    server = cloud.settled(server_id)
    assert (server["status"], server["OS-EXT-STS:power_state"]) == (status, power)
    assert (server["name"], server["description"], server["metadata"]) == ("new", "d", {"a": "b"})
    assert server["OS-EXT-SRV-ATTR:hostname"] == "new-host"
    assert server["image"]["id"] == OTHER
    assert server["addresses"] == nics
    assert "fault" not in server
    done = cloud.actions(server_id)[-1]
    assert done["action"] == "rebuild"
    steps = [
        "fetch_image",
        "remove_guest",
        "create_disks",
        "create_config_drive",
        "plug_vifs",
        "create_domain",
    ]
    last = "power_off" if status == "SHUTOFF" else "wait_for_boot"
    assert [event["event"] for event in done["events"]] == [*steps, last]
    assert len(cloud.hosts["h1"].network.plugged()) == 1
    assert cloud.unexplained() == []
    assert cloud.act(server_id, "reboot", {"type": "HARD"}) == 202
    assert cloud.settled(server_id)["status"] == "ACTIVE"


def test_an_admin_is_told_user_data_once(cloud: Cloud) -> None:
    server_id = cloud.active(user_data="eA==")
    path, body = f"/compute/v2.1/servers/{server_id}/action", {"rebuild": {"imageRef": OTHER}}
    status, answer = cloud.ask("POST", path, body, caller="admin")
    assert (status, answer["server"]["user_data"]) == (202, "eA==")
    assert "OS-EXT-SRV-ATTR:user_data" not in answer["server"]
    cloud.settled(server_id)


def test_what_is_not_said_stays(cloud: Cloud) -> None:
    server_id = cloud.active(metadata={"a": "b"}, user_data="eA==")
    was = cloud.server(server_id)
    rebuild(cloud, server_id)
    server = cloud.settled(server_id)
    same = ("name", "metadata", "key_name", "OS-EXT-SRV-ATTR:user_data", "OS-EXT-SRV-ATTR:hostname", "flavor")
    assert {key: server[key] for key in same} == {key: was[key] for key in same}
    rebuild(cloud, server_id, user_data=None)
    assert cloud.settled(server_id)["OS-EXT-SRV-ATTR:user_data"] is None


def test_a_rebuild_shows(cloud: Cloud) -> None:
    server_id = cloud.active()
    gate = cloud.hosts["h1"].driver.gate("ensure_paused")
    rebuild(cloud, server_id)
    gate.wait_until_reached()
    server = cloud.server(server_id)
    assert (server["status"], server["OS-EXT-STS:task_state"]) == ("REBUILD", "rebuild_spawning")
    listed = cloud.ask("GET", "/compute/v2.1/servers?status=REBUILD")[1]["servers"]
    assert [one["id"] for one in listed] == [server_id]
    gate.open()
    assert cloud.settled(server_id)["status"] == "ACTIVE"


def test_a_bad_image_costs_the_server_nothing_but_its_state(cloud: Cloud) -> None:
    server_id = cloud.active()
    driver = cloud.hosts["h1"].driver
    driver.failures["ensure_base_image"] = [BuildAborted("it is not what it says")]
    rebuild(cloud, server_id)
    server = cloud.settled(server_id)
    assert server["status"] == "ERROR"
    assert server["fault"]["message"] == "fetch_image failed: it is not what it says"
    guest = driver.guest(server_id)
    assert guest is not None
    rebuild(cloud, server_id)
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert cloud.unexplained() == []


def test_a_rebuild_that_was_cut_off_begins_again(cloud: Cloud) -> None:
    server_id = cloud.active()
    cloud.bus.broken["finished"] = 1
    rebuild(cloud, server_id)
    host = cloud.hosts["h1"]
    until(lambda: not cloud.bus.broken["finished"], PATIENCE, "its loss")
    until(lambda: not host.agent._running.busy(server_id), PATIENCE, "the work to end")
    cloud.leases_run_out()
    cloud.sweep()
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert cloud.unexplained() == []


@pytest.mark.parametrize(
    ("version", "value", "said"),
    [
        ("2.1", {}, "imageRef"),
        ("2.1", {"imageRef": "x"}, "imageRef"),
        ("2.1", {"imageRef": OTHER, "description": "x"}, "description"),
        ("2.53", {"imageRef": OTHER, "key_name": "x"}, "key_name"),
        ("2.54", {"imageRef": OTHER, "key_name": "nobody's"}, "key_name"),
        ("2.56", {"imageRef": OTHER, "user_data": "eA=="}, "user_data"),
        ("2.57", {"imageRef": OTHER, "user_data": "?"}, "base 64"),
        ("2.57", {"imageRef": OTHER, "personality": []}, "personality"),
        ("2.63", {"imageRef": OTHER, "trusted_image_certificates": ["x"]}, "not available"),
        ("2.89", {"imageRef": OTHER, "hostname": "x1"}, "hostname"),
        ("2.90", {"imageRef": OTHER, "hostname": "a.b"}, "hostname"),
        ("2.1", {"imageRef": OTHER, "preserve_ephemeral": True}, "not available"),
    ],
)
def test_bad_rebuilds(cloud: Cloud, version: str, value: Any, said: str) -> None:
    server_id = cloud.active()
    status, answer = act(cloud, server_id, {"rebuild": value}, version)
    assert status == 400, answer
    assert said in answer["badRequest"]["message"]
    assert cloud.server(server_id)["OS-EXT-STS:task_state"] is None


def test_a_paused_server_is_not_rebuilt(cloud: Cloud) -> None:
    server_id = cloud.active()
    assert cloud.act(server_id, "pause") == 202
    cloud.settled(server_id)
    status, answer = act(cloud, server_id, {"rebuild": {"imageRef": OTHER}})
    assert status == 409
    assert "Cannot 'rebuild' instance" in answer["conflictingRequest"]["message"]


# --- rescue


@pytest.mark.parametrize("image", [None, OTHER])
def test_rescue_and_back(cloud: Cloud, image: str | None) -> None:
    server_id = cloud.active(cloud.make_network())
    value = {"adminPass": "secret"} | ({"rescue_image_ref": image} if image else {})
    status, answer = act(cloud, server_id, {"rescue": value})
    assert (status, answer) == (200, {"adminPass": "secret"})
    server = cloud.settled(server_id)
    assert (server["status"], server["OS-EXT-STS:vm_state"]) == ("RESCUE", "rescued")
    assert server["OS-EXT-STS:power_state"] == 1
    driver = cloud.hosts["h1"].driver
    assert driver._servers[server_id].rescue_image == (image or server["image"]["id"])
    for action in ("os-start", "os-stop", "pause", "rescue", "createImage"):
        assert cloud.act(server_id, action, {"name": "x"} if action == "createImage" else None) == 409
    driver.guest_stops(server_id)
    assert cloud.server(server_id)["status"] == "RESCUE"
    assert cloud.act(server_id, "unrescue") == 202
    server = cloud.settled(server_id)
    assert (server["status"], server["OS-EXT-STS:power_state"]) == ("ACTIVE", 1)
    assert driver._servers[server_id].rescue_image == ""
    assert [one["action"] for one in cloud.actions(server_id)][-2:] == ["rescue", "unrescue"]
    assert cloud.unexplained() == []


def test_a_rescue_that_fails(cloud: Cloud) -> None:
    server_id = cloud.active()
    cloud.hosts["h1"].driver.failures["rescue"] = [BuildFailed("no space")]
    assert cloud.act(server_id, "rescue") == 200
    server = cloud.settled(server_id)
    assert server["status"] == "ERROR"
    assert server["fault"]["message"] == "rescue failed: no space"
    assert cloud.act(server_id, "rescue") == 200
    assert cloud.settled(server_id)["status"] == "RESCUE"
    cloud.delete(server_id)
    cloud.gone(server_id)
    assert cloud.hosts["h1"].is_empty()


@pytest.mark.parametrize("value", [{"rescue_image_ref": "x"}, {"adminPass": 1}, {"x": 1}, []])
def test_bad_rescues(cloud: Cloud, value: Any) -> None:
    server_id = cloud.active()
    assert act(cloud, server_id, {"rescue": value})[0] == 400


def test_a_rescue_from_what_is_too_large(cloud: Cloud) -> None:
    """A small file may be a disk that no flavor allows, and the guest may fill it."""
    body = {"name": "i", "disk_format": "qcow2", "container_format": "bare"}
    image = cloud.ask("POST", "/image/v2/images", body)[1]["id"]
    cloud.images.upload(ADMIN, image, io.BytesIO(_EMPTY_QCOW2))
    server_id = cloud.active()
    cloud.sql("UPDATE images SET virtual_size = ? WHERE id = ?", (32 << 30) + 1, image)
    status, answer = act(cloud, server_id, {"rescue": {"rescue_image_ref": image}})
    assert (status, "too large to rescue from" in answer["badRequest"]["message"]) == (400, True)
    cloud.sql("UPDATE images SET virtual_size = ? WHERE id = ?", 32 << 30, image)
    assert act(cloud, server_id, {"rescue": {"rescue_image_ref": image}})[0] == 200
    assert cloud.settled(server_id)["status"] == "RESCUE"
