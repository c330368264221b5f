"""What happens to a server that runs: actions, events of its guest, deletes; also in the midst of a build."""

from __future__ import annotations

import time

import pytest
from tests.functional.builds.cloud import PATIENCE, Cloud
from tests.functional.builds.conftest import MakeCloud
from tests.running import until

from kilonova.config import Config, Fake
from kilonova.domain.errors import BuildAborted, BuildFailed
from kilonova.domain.servers import PowerState

ACTIONS = [
    ("os-stop", None, "SHUTOFF", "stop", 4),
    ("pause", None, "PAUSED", "pause", 3),
    ("suspend", None, "SUSPENDED", "suspend", 7),
    ("reboot", {"type": "SOFT"}, "ACTIVE", "reboot", 1),
    ("reboot", {"type": "HARD"}, "ACTIVE", "reboot", 1),
]
BACK = {"SHUTOFF": "os-start", "PAUSED": "unpause", "SUSPENDED": "resume"}


@pytest.mark.parametrize(("action", "value", "status", "record", "power_state"), ACTIONS)
def test_an_action_its_state_its_record_and_back(
    cloud: Cloud, action: str, value: object, status: str, record: str, power_state: int
) -> None:
    server_id = cloud.active(cloud.make_network())
    assert cloud.act(server_id, action, value) == 202
    server = cloud.settled(server_id)
    assert (server["status"], server["OS-EXT-STS:power_state"]) == (status, power_state)
    done = cloud.actions(server_id)[-1]
    assert done["action"] == record
    (event,) = done["events"]
    assert event["result"] == "Success"
    assert event["host"] == "h1"
    assert event["start_time"] <= event["finish_time"]
    if status in BACK:
        assert cloud.act(server_id, BACK[status]) == 202
        server = cloud.settled(server_id)
        assert (server["status"], server["OS-EXT-STS:power_state"]) == ("ACTIVE", 1)
    assert cloud.unexplained() == []


def test_an_action_that_fails_ends_in_error_and_a_hard_reboot_mends_it(cloud: Cloud) -> None:
    server_id = cloud.active()
    cloud.hosts["h1"].driver.failures["pause"] = [BuildFailed("QEMU does not answer")]
    assert cloud.act(server_id, "pause") == 202
    server = cloud.settled(server_id)
    assert server["status"] == "ERROR"
    assert server["fault"]["message"] == "pause failed: QEMU does not answer"
    assert cloud.unexplained() == []
    assert cloud.act(server_id, "reboot", {"type": "HARD"}) == 202
    assert cloud.settled(server_id)["status"] == "ACTIVE"


def test_the_record_of_a_build(cloud: Cloud) -> None:
    server_id = cloud.active(cloud.make_network(), config_drive=True)
    until(
        lambda: "wait_for_boot" in [event["event"] for event in cloud.actions(server_id)[0]["events"]],
        PATIENCE,
        "the last step",
    )
    (create,) = cloud.actions(server_id)
    assert create["action"] == "create"
    assert [event["event"] for event in create["events"]] == [
        "select_destinations",
        "allocate_networks",
        "fetch_image",
        "create_disks",
        "create_config_drive",
        "plug_vifs",
        "create_domain",
        "wait_for_boot",
    ]
    assert {event["result"] for event in create["events"]} == {"Success"}
    assert [event["host"] for event in create["events"]] == ["", *["h1"] * 7]
    assert all(event["start_time"] <= event["finish_time"] for event in create["events"])


# --- what guests do by themselves


@pytest.mark.parametrize("how", [PowerState.SHUTDOWN, PowerState.CRASHED])
def test_a_guest_that_stops_by_itself_shows_it(cloud: Cloud, how: PowerState) -> None:
    server_id = cloud.active()
    cloud.hosts["h1"].driver.guest_stops(server_id, how)
    until(lambda: cloud.server(server_id)["status"] == "SHUTOFF", PATIENCE, "SHUTOFF")
    assert cloud.server(server_id)["OS-EXT-STS:power_state"] == how
    assert cloud.act(server_id, "os-start") == 202
    assert cloud.settled(server_id)["status"] == "ACTIVE"


def test_an_event_that_was_lost_is_told_with_the_next_report(cloud: Cloud) -> None:
    server_id = cloud.active()
    cloud.bus.lost["power_states"] = 1
    cloud.hosts["h1"].driver.guest_stops(server_id)
    assert cloud.server(server_id)["status"] == "ACTIVE"
    cloud.hosts["h1"].reports.tick()
    until(lambda: cloud.server(server_id)["status"] == "SHUTOFF", PATIENCE, "SHUTOFF")


def test_a_guest_that_stops_while_its_build_ends_shows_it(cloud: Cloud) -> None:
    gate = cloud.hosts["h1"].driver.gate("wait_for_running")
    server_id = cloud.create()
    gate.wait_until_reached()
    cloud.hosts["h1"].driver.guest_stops(server_id)
    gate.open()
    until(lambda: cloud.server(server_id)["status"] in ("SHUTOFF", "ERROR"), PATIENCE, "the truth")
    assert cloud.server(server_id)["OS-EXT-STS:power_state"] != 1


def test_what_a_guest_did_before_an_action_does_not_undo_what_the_action_did(cloud: Cloud) -> None:
    """The report was made while the guest ran; it arrives when the server has been stopped since."""
    server_id = cloud.active()
    held: list[object] = []
    send = cloud.bus.cast

    def hold_back(topic: str, method: str, request: object) -> None:
        if method == "power_states":
            held.append(request)
        else:
            send(topic, method, request)  # type: ignore[arg-type]

    cloud.bus.cast = hold_back  # type: ignore[method-assign, assignment]
    cloud.hosts["h1"].reports.tick()
    assert cloud.act(server_id, "os-stop") == 202
    assert cloud.settled(server_id)["status"] == "SHUTOFF"
    cloud.bus.cast = send  # type: ignore[method-assign]
    for request in held:
        cloud.conductor_hears("power_states", request)
    assert cloud.server(server_id)["status"] == "SHUTOFF"


# --- delete


def test_a_delete_takes_everything(cloud: Cloud) -> None:
    server_id = cloud.active(cloud.make_network())
    cloud.delete(server_id)
    cloud.gone(server_id)
    assert cloud.hosts["h1"].is_empty()
    assert cloud.unexplained() == []
    assert cloud.sql("SELECT count(*) FROM ports WHERE device_id = ?", server_id)[0][0] == 0
    assert cloud.sql("SELECT count(*) FROM claims")[0][0] == 0
    assert [action["action"] for action in cloud.actions(server_id)] == ["create", "delete"]


@pytest.mark.parametrize("step", ["ensure_base_image", "ensure_disks", "ensure_paused", "wait_for_running"])
def test_a_delete_in_the_midst_of_a_build(cloud: Cloud, step: str) -> None:
    gate = cloud.hosts["h1"].driver.gate(step)
    server_id = cloud.create(cloud.make_network())
    gate.wait_until_reached()
    cloud.delete(server_id)
    cloud.delete(server_id)  # a second one changes nothing
    gate.open()
    cloud.gone(server_id)
    until(cloud.hosts["h1"].is_empty, PATIENCE, "the host to be empty")
    assert cloud.unexplained() == []
    create, delete = cloud.actions(server_id)
    assert (create["action"], delete["action"]) == ("create", "delete")
    assert all(event["finish_time"] for event in create["events"]), "a step without an end"


@pytest.mark.parametrize(("action", "step"), [("os-stop", "power_off"), ("reboot", "reboot")])
def test_a_delete_does_not_wait_for_a_guest_that_does_not_stop(
    make_cloud: MakeCloud, action: str, step: str
) -> None:
    cloud = make_cloud(config=Config(fake=Fake(step_seconds={step: 60.0})))
    server_id = cloud.active(cloud.make_network())
    assert cloud.act(server_id, action, {"type": "SOFT"} if action == "reboot" else None) == 202
    driver = cloud.hosts["h1"].driver
    until(lambda: step in driver.steps, PATIENCE, "the guest to be asked")
    began = time.monotonic()
    cloud.delete(server_id)
    cloud.gone(server_id)
    assert time.monotonic() - began < 30
    assert cloud.hosts["h1"].is_empty()
    assert cloud.unexplained() == []


def test_a_delete_before_a_host_was_found(cloud: Cloud) -> None:
    cloud.bus.lost["build_instances"] = 1
    server_id = cloud.create(cloud.make_network())
    cloud.delete(server_id)
    cloud.gone(server_id)
    cloud.sweep()
    assert cloud.unexplained() == []
    assert cloud.hosts["h1"].is_empty()


def test_a_late_word_of_a_build_does_not_stop_the_delete(cloud: Cloud) -> None:
    """The message of the build arrives a second time, while the delete is under way."""
    driver = cloud.hosts["h1"].driver
    works: list[object] = []
    send = cloud.bus.cast

    def note(topic: str, method: str, request: object) -> None:
        if method == "build_and_run_instance":
            works.append(request)
        send(topic, method, request)  # type: ignore[arg-type]

    cloud.bus.cast = note  # type: ignore[method-assign, assignment]
    server_id = cloud.active(cloud.make_network())
    gate = driver.gate("destroy")
    cloud.delete(server_id)
    gate.wait_until_reached()
    send("build.compute.h1", "build_and_run_instance", works[0])  # type: ignore[arg-type]
    until(cloud.bus.all_taken, PATIENCE, "the second message to be read")
    gate.open()
    cloud.gone(server_id)
    assert cloud.hosts["h1"].is_empty()
    assert cloud.unexplained() == []


@pytest.mark.parametrize(
    ("action", "value"), [("os-stop", None), ("pause", None), ("reboot", {"type": "HARD"})]
)
def test_nothing_else_while_a_server_is_built(cloud: Cloud, action: str, value: object) -> None:
    gate = cloud.hosts["h1"].driver.gate("ensure_disks")
    server_id = cloud.create()
    gate.wait_until_reached()
    assert cloud.act(server_id, action, value) == 409
    gate.open()
    assert cloud.settled(server_id)["status"] == "ACTIVE"


def test_nothing_else_while_an_action_is_under_way(cloud: Cloud) -> None:
    server_id = cloud.active()
    gate = cloud.hosts["h1"].driver.gate("power_off")
    assert cloud.act(server_id, "os-stop") == 202
    gate.wait_until_reached()
    assert cloud.act(server_id, "pause") == 409
    gate.open()
    assert cloud.settled(server_id)["status"] == "SHUTOFF"


def test_a_delete_that_fails_on_its_host_is_tried_again_soon(cloud: Cloud) -> None:
    server_id = cloud.active(cloud.make_network())
    driver = cloud.hosts["h1"].driver
    driver.failures["destroy"] = [BuildFailed("QEMU does not die")]
    cloud.delete(server_id)
    until(lambda: not driver.failures["destroy"], PATIENCE, "the first try")
    until(lambda: cloud.open_operation(server_id).message, PATIENCE, "its end")
    work = cloud.open_operation(server_id)
    assert work.message == "destroy failed: QEMU does not die"
    assert work.owner is None
    assert work.lease_until < work.updated_at + cloud.config.operations.lease / 2
    cloud.leases_run_out()
    cloud.sweep()
    cloud.gone(server_id)
    assert cloud.hosts["h1"].is_empty()
    assert cloud.unexplained() == []


def test_a_delete_that_never_works_ends_in_error_and_can_be_asked_again(cloud: Cloud) -> None:
    """A guest that cannot be removed from a host that lives keeps its place, its ports and its quota."""
    server_id = cloud.active(cloud.make_network())
    driver = cloud.hosts["h1"].driver
    driver.failures["destroy"] = [BuildFailed("QEMU does not die")]
    cloud.delete(server_id)
    until(lambda: cloud.open_operation(server_id).message, PATIENCE, "the first try's end")
    cloud.deadlines_pass()
    cloud.sweep()
    server = cloud.settled(server_id)
    assert server["status"] == "ERROR"
    assert "destroy failed: QEMU does not die" in server["fault"]["message"]
    assert cloud.unexplained() == []
    cloud.delete(server_id)
    cloud.gone(server_id)
    assert cloud.hosts["h1"].is_empty()
    assert cloud.unexplained() == []


def test_a_held_back_event_does_not_outlive_work_whose_end_was_not_told(cloud: Cloud) -> None:
    """The guest stops during an action whose end gets lost; later it is started: it stays ACTIVE."""
    server_id = cloud.active()
    host = cloud.hosts["h1"]
    gate = host.driver.gate("reboot")
    cloud.bus.broken["finished"] = 1
    assert cloud.act(server_id, "reboot", {"type": "HARD"}) == 202
    gate.wait_until_reached()
    host.driver.guest_stops(server_id)
    gate.open()
    until(lambda: not host.agent._running.busy(server_id), PATIENCE, "the work to end")
    cloud.leases_run_out()
    cloud.sweep()
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert host.agent._power._held_back == set()


def test_a_build_left_after_its_commit_is_not_shown_as_paused(cloud: Cloud) -> None:
    """The guest waits to be let run by the next comparison; reports go on meanwhile."""
    host = cloud.hosts["h1"]
    host.driver.failures["resume_build"] = [BuildFailed("never mind")]
    cloud.bus.broken["finished"] = 1
    server_id = cloud.create()
    until(lambda: not cloud.bus.broken["finished"], PATIENCE, "the end not to be told")
    until(lambda: not host.agent._running.busy(server_id), PATIENCE, "the work to end")
    host.reports.tick()
    host.repairs.tick()
    until(lambda: cloud.server(server_id)["OS-EXT-STS:power_state"] == 1, PATIENCE, "it to run")
    assert cloud.server(server_id)["status"] == "ACTIVE"


def test_what_has_no_host_can_only_be_deleted(cloud: Cloud) -> None:
    cloud.hosts["h1"].driver.failures["ensure_disks"] = [BuildAborted("no")]
    server_id = cloud.create(cloud.make_network())
    assert cloud.settled(server_id)["status"] == "ERROR"
    for action, value in (("os-stop", None), ("reboot", {"type": "HARD"}), ("os-start", None)):
        assert cloud.act(server_id, action, value) == 409
    cloud.delete(server_id)
    cloud.gone(server_id)
    assert cloud.unexplained() == []


def test_a_delete_whose_host_was_forgotten_meanwhile(cloud: Cloud) -> None:
    server_id = cloud.active(cloud.make_network())
    cloud.hosts["h1"].goes_silent()
    cloud.delete(server_id)
    until(lambda: cloud.open_operation(server_id).owner == "compute.h1", PATIENCE, "the hand-over")
    cloud.sql("DELETE FROM hosts")
    cloud.sql("DELETE FROM services")
    cloud.leases_run_out()
    cloud.sweep()
    cloud.gone(server_id)
    assert cloud.unexplained() == []
