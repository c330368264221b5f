"""shelve, shelveOffload and unshelve: a server that is an image, and where it comes back."""

from __future__ import annotations

from typing import Any

import pytest
from tests.functional.builds.cloud import PATIENCE, Cloud
from tests.functional.builds.conftest import MakeCloud
from tests.running import until

from kilonova.config import Compute, Config
from kilonova.domain.errors import BuildFailed

STAYS = Config(compute=Compute(shelved_offload_time=-1))


def act(cloud: Cloud, server_id: str, body: Any, version: str = "2.96", caller: str = "member") -> Any:
    headers = {"OpenStack-API-Version": f"compute {version}"}
    return cloud.ask("POST", f"/compute/v2.1/servers/{server_id}/action", body, caller, headers)


def shelved(cloud: Cloud, server_id: str) -> Any:
    assert cloud.act(server_id, "shelve") == 202
    return cloud.settled(server_id)


def image_of(cloud: Cloud, server_id: str) -> str:
    (image,) = cloud.ask("GET", f"/image/v2/images?instance_uuid={server_id}")[1]["images"]
    assert image["status"] == "active"
    return str(image["id"])


def events(cloud: Cloud, server_id: str) -> list[str]:
    return [event["event"] for event in cloud.actions(server_id)[-1]["events"]]


@pytest.mark.parametrize("before", [None, "os-stop", "pause", "suspend"])
def test_away_and_back(two: Cloud, before: str | None) -> None:
    cloud = two
    server_id = cloud.active(cloud.make_network(), config_drive=True)
    nics, first = cloud.server(server_id)["addresses"], cloud.where(server_id)
    if before:
        assert cloud.act(server_id, before) == 202
        cloud.settled(server_id)
    server = shelved(cloud, server_id)
    assert (server["status"], server["OS-EXT-STS:power_state"]) == ("SHELVED_OFFLOADED", 0)
    assert server["OS-EXT-SRV-ATTR:host"] is None
    assert server["addresses"] == nics
    assert first.is_empty()
    assert cloud.sql("SELECT count(*) FROM claims")[0][0] == 0
    image = cloud.image(image_of(cloud, server_id))
    assert image["name"] == "vm-shelved"
    steps = ["power_off", "take_snapshot", "upload_image", "drop_snapshot", "destroy", "unplug_vifs"]
    assert events(cloud, server_id) == steps
    assert cloud.unexplained() == []
    for action in ("os-start", "reboot", "shelve", "createImage", "rebuild"):
        value = {
            "createImage": {"name": "x"},
            "rebuild": {"imageRef": image["id"]},
            "reboot": {"type": "HARD"},
        }
        assert cloud.act(server_id, action, value.get(action)) == 409, action

    first.vanish()
    cloud.conductor_forgets_liveness()
    assert cloud.act(server_id, "unshelve") == 202
    server = cloud.settled(server_id)
    assert (server["status"], server["OS-EXT-STS:power_state"]) == ("ACTIVE", 1)
    assert cloud.where(server_id) is not first
    assert server["addresses"] == nics
    assert len(cloud.where(server_id).network.plugged()) == 1
    assert cloud.image(image["id"]) is None
    assert events(cloud, server_id) == [
        *("select_destinations", "fetch_image", "create_disks", "create_config_drive", "plug_vifs"),
        *("create_domain", "wait_for_boot"),
    ]
    assert cloud.unexplained() == []
    cloud.images.bury()
    assert cloud.bytes.images == {}
    cloud.delete(server_id)
    cloud.gone(server_id)


def test_a_server_that_stays_on_its_host_and_comes_back(make_cloud: MakeCloud) -> None:
    cloud = make_cloud(config=STAYS)
    server_id = cloud.active(cloud.make_network())
    server = shelved(cloud, server_id)
    assert (server["status"], server["OS-EXT-STS:power_state"]) == ("SHELVED", 4)
    assert server["OS-EXT-SRV-ATTR:host"] == "h1"
    image_id = image_of(cloud, server_id)
    assert act(cloud, server_id, {"unshelve": {"availability_zone": "nova"}})[0] == 409
    assert cloud.act(server_id, "unshelve") == 202
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert cloud.image(image_id) is None
    assert events(cloud, server_id) == ["power_on"]
    assert cloud.unexplained() == []


def test_an_admin_sends_it_off_its_host(make_cloud: MakeCloud) -> None:
    cloud = make_cloud(config=STAYS)
    server_id = cloud.active(cloud.make_network())
    assert act(cloud, server_id, {"shelveOffload": None}, caller="admin")[0] == 409
    shelved(cloud, server_id)
    assert act(cloud, server_id, {"shelveOffload": None})[0] == 403
    assert act(cloud, server_id, {"shelveOffload": None}, caller="admin")[0] == 202
    assert cloud.settled(server_id)["status"] == "SHELVED_OFFLOADED"
    assert cloud.hosts["h1"].is_empty()
    assert cloud.actions(server_id)[-1]["action"] == "shelveOffload"
    assert cloud.unexplained() == []


def test_it_leaves_when_its_time_is_over(make_cloud: MakeCloud) -> None:
    cloud = make_cloud(config=Config(compute=Compute(shelved_offload_time=60)))
    server_id = cloud.active()
    assert shelved(cloud, server_id)["status"] == "SHELVED"
    cloud.sweep()
    assert cloud.server(server_id)["status"] == "SHELVED"
    cloud.sql("UPDATE servers SET shelved_at = 1")
    cloud.sweep()
    assert cloud.settled(server_id)["status"] == "SHELVED_OFFLOADED"
    assert cloud.hosts["h1"].is_empty()
    assert cloud.unexplained() == []


def test_a_shelve_that_fails(cloud: Cloud) -> None:
    server_id = cloud.active()
    cloud.hosts["h1"].driver.failures["take_snapshot"] = [BuildFailed("no space")]
    server = shelved(cloud, server_id)
    assert server["OS-EXT-STS:task_state"] is None
    assert cloud.ask("GET", f"/image/v2/images?instance_uuid={server_id}")[1]["images"] == []
    until(lambda: cloud.server(server_id)["status"] == "SHUTOFF", PATIENCE, "what the guest is")
    assert cloud.act(server_id, "os-start") == 202
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert cloud.unexplained() == []


@pytest.mark.parametrize("step", ["ensure_base_image", "ensure_paused", "wait_for_running"])
def test_an_unshelve_that_fails_leaves_it_shelved(cloud: Cloud, step: str) -> None:
    server_id = cloud.active(cloud.make_network())
    shelved(cloud, server_id)
    image_id = image_of(cloud, server_id)
    cloud.hosts["h1"].driver.failures[step] = [BuildFailed("no")]
    assert cloud.act(server_id, "unshelve") == 202
    server = cloud.settled(server_id)
    assert (server["status"], server["OS-EXT-SRV-ATTR:host"]) == ("SHELVED_OFFLOADED", None)
    until(cloud.hosts["h1"].is_empty, PATIENCE, "the host to be empty")
    assert cloud.unexplained() == []
    assert cloud.image(image_id)["status"] == "active"
    assert cloud.act(server_id, "unshelve") == 202
    assert cloud.settled(server_id)["status"] == "ACTIVE"


def test_no_place_to_come_back_to(cloud: Cloud) -> None:
    server_id = cloud.active()
    shelved(cloud, server_id)
    cloud.sql("UPDATE hosts SET vcpus_limit = 0")
    cloud.conductor_forgets_liveness()
    assert cloud.act(server_id, "unshelve") == 202
    server = cloud.settled(server_id)
    assert (server["status"], server["OS-EXT-STS:task_state"]) == ("SHELVED_OFFLOADED", None)
    assert "No valid host" in cloud.actions(server_id)[-1]["message"]
    assert cloud.unexplained() == []


def test_hosts_that_nobody_could_hear_are_waited_for(cloud: Cloud) -> None:
    """After a conductor's absence every host seems down."""
    server_id = cloud.active()
    shelved(cloud, server_id)
    cloud.sql("UPDATE services SET last_seen = 1 WHERE host = 'h1'")
    cloud.conductor_forgets_liveness()
    cloud.hearing.after_break = True
    assert cloud.act(server_id, "unshelve") == 202
    until(lambda: cloud.open_operation(server_id).message, PATIENCE, "the first try")
    cloud.hosts["h1"].reports.tick()
    seen = "SELECT last_seen FROM services WHERE host = 'h1'"
    until(lambda: cloud.sql(seen)[0][0] > 1, PATIENCE, "its word")
    cloud.hearing.after_break = False
    cloud.conductor_forgets_liveness()
    cloud.leases_run_out()
    cloud.sweep()
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert cloud.unexplained() == []


def test_where_it_comes_back_may_be_said(two: Cloud) -> None:
    server_id = two.active()
    for host in ("h2", "h1"):
        shelved(two, server_id)
        body = {"unshelve": {"host": host, "availability_zone": "nova"}}
        assert act(two, server_id, body)[0] == 403
        assert act(two, server_id, body, caller="admin")[0] == 202
        server = two.settled(server_id)
        assert (server["status"], server["OS-EXT-SRV-ATTR:host"]) == ("ACTIVE", host)
        assert server["pinned_availability_zone"] == "nova"
    shelved(two, server_id)
    assert act(two, server_id, {"unshelve": {"availability_zone": None}})[0] == 202
    assert two.settled(server_id)["pinned_availability_zone"] is None
    assert two.unexplained() == []


@pytest.mark.parametrize(
    ("version", "value", "status"),
    [
        ("2.77", {"availability_zone": "nowhere"}, 400),
        ("2.77", {"availability_zone": None}, 400),
        ("2.77", {}, 400),
        ("2.90", {"host": "h1"}, 400),
        ("2.91", {}, 400),
        ("2.91", {"host": "nobody"}, 400),
        ("2.91", {"host": "h1", "x": 1}, 400),
        ("2.76", {"availability_zone": "nowhere"}, 202),
    ],
)
def test_unshelve_at_every_microversion(cloud: Cloud, version: str, value: Any, status: int) -> None:
    server_id = cloud.active()
    shelved(cloud, server_id)
    assert act(cloud, server_id, {"unshelve": value}, version, "admin")[0] == status
    cloud.settled(server_id)


def test_a_shelved_server_that_is_deleted_takes_its_image_along(cloud: Cloud) -> None:
    server_id = cloud.active(cloud.make_network())
    shelved(cloud, server_id)
    image_id = image_of(cloud, server_id)
    cloud.delete(server_id)
    cloud.gone(server_id)
    assert cloud.image(image_id) is None
    cloud.images.bury()
    assert cloud.bytes.images == {}
    assert cloud.unexplained() == []


def test_a_delete_in_the_midst_of_an_unshelve(cloud: Cloud) -> None:
    server_id = cloud.active(cloud.make_network())
    shelved(cloud, server_id)
    gate = cloud.hosts["h1"].driver.gate("ensure_disks")
    assert cloud.act(server_id, "unshelve") == 202
    gate.wait_until_reached()
    cloud.delete(server_id)
    gate.open()
    cloud.gone(server_id)
    until(cloud.hosts["h1"].is_empty, PATIENCE, "the host to be empty")
    assert cloud.unexplained() == []


def test_an_unshelve_with_no_time(cloud: Cloud) -> None:
    server_id = cloud.active(cloud.make_network())
    shelved(cloud, server_id)
    cloud.bus.lost["perform_action"] = 2
    assert cloud.act(server_id, "unshelve") == 202
    until(lambda: cloud.bus.lost["perform_action"] == 1, PATIENCE, "the loss")
    cloud.deadlines_pass()
    cloud.sweep()
    assert cloud.settled(server_id)["status"] == "SHELVED_OFFLOADED"
    assert cloud.unexplained() == []


@pytest.mark.parametrize("kind", ["shelve", "unshelve"])
def test_an_end_that_is_not_told(cloud: Cloud, kind: str) -> None:
    server_id = cloud.active(cloud.make_network())
    if kind == "unshelve":
        shelved(cloud, server_id)
    cloud.bus.broken["finished"] = 1
    assert cloud.act(server_id, kind) == 202
    host = cloud.hosts["h1"]
    until(lambda: not cloud.bus.broken["finished"], PATIENCE, "its loss")
    until(lambda: not host.agent._running.busy(server_id), PATIENCE, "the work to end")
    cloud.leases_run_out()
    cloud.sweep()
    expected = "ACTIVE" if kind == "unshelve" else "SHELVED_OFFLOADED"
    assert cloud.settled(server_id)["status"] == expected
    assert host.driver.steps.count("take_snapshot") == 1
    assert cloud.unexplained() == []
