"""Builds that fail: tried elsewhere, given up with a fault that says why, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs
from tests.functional.builds.cloud import PATIENCE, Cloud, Host
from tests.functional.builds.conftest import MakeCloud
from tests.running import until

from kilonova.config import Config, Fake, Operations
from kilonova.domain.clock import now
from kilonova.domain.errors import BuildAborted, BuildFailed, Unavailable

STEPS = {
    "ensure_base_image": "fetch_image",
    "ensure_disks": "create_disks",
    "ensure_config_drive": "create_config_drive",
    "ensure_paused": "create_domain",
}


def fail_once(cloud: Cloud, step: str, error: Exception) -> None:
    """The next host that comes to ``step`` fails it."""
    failures = [error]
    for host in cloud.hosts.values():
        host.driver.failures[step] = failures


def free(cloud: Cloud) -> list[Any]:
    return [tuple(row) for row in cloud.sql("SELECT vcpus_used, memory_mb_used, servers FROM hosts")]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_is_tried_on_another_host(two: Cloud, step: str) -> None:
    network = two.make_network()
    fail_once(two, step, BuildFailed("the disk is full"))
    server_id = two.active(network, config_drive=True)

    (create,) = two.actions(server_id)
    events = [(event["event"], event["result"]) for event in create["events"]]
    assert events.count(("select_destinations", "Success")) == 2
    assert (STEPS[step], "Error") in events
    (failed,) = [event for event in create["events"] if event["result"] == "Error"]
    assert failed["details"] == "the disk is full"
    assert "BuildFailed" in failed["traceback"]
    there = two.where(server_id)
    assert failed["host"] != there.name
    (other,) = [host for host in two.hosts.values() if host is not there]
    assert other.is_empty()
    assert len(two.sql("SELECT 1 FROM ports WHERE device_id = ?", server_id)) == 1
    assert two.unexplained() == []


def test_the_fault_names_the_step_and_the_reason(cloud: Cloud) -> None:
    cloud.hosts["h1"].driver.failures["ensure_disks"] = [BuildAborted("the image is broken")]
    server_id = cloud.create(cloud.make_network())
    server = cloud.settled(server_id)
    assert server["status"] == "ERROR"
    assert server["fault"]["code"] == 500
    assert server["fault"]["message"] == "create_disks failed: the image is broken"


def test_only_the_admin_sees_the_faults_details(cloud: Cloud) -> None:
    cloud.hosts["h1"].driver.failures["ensure_disks"] = [BuildAborted("the image is broken")]
    server_id = cloud.create()
    assert "Traceback" in cloud.settled(server_id)["fault"]["details"]
    assert "details" not in cloud.server(server_id, caller="member")["fault"]


def test_an_error_of_no_kind_of_ours_is_told_by_its_name(cloud: Cloud) -> None:
    cloud.hosts["h1"].driver.failures["ensure_disks"] = [OSError(28, "No space left on device")]
    server_id = cloud.create()
    fault = cloud.settled(server_id)["fault"]["message"]
    assert "create_disks failed: " in fault
    assert "No space left on device" in fault


def test_what_no_host_can_do_is_not_tried_elsewhere(two: Cloud) -> None:
    fail_once(two, "ensure_base_image", BuildAborted("the image lies about its format"))
    server_id = two.create(two.make_network())
    assert two.settled(server_id)["status"] == "ERROR"
    (create,) = two.actions(server_id)
    assert [event["event"] for event in create["events"]].count("select_destinations") == 1
    assert two.unexplained() == []
    assert free(two) == [(0, 0, 0), (0, 0, 0)]
    assert all(host.is_empty() for host in two.hosts.values())


def test_the_last_attempt_ends_in_error(make_cloud: MakeCloud) -> None:
    config = structs.replace(Config(), fake=Fake(step_failures={"ensure_disks": 1.0}))
    cloud = make_cloud(hosts=5, config=config)
    server_id = cloud.create(cloud.make_network())
    server = cloud.settled(server_id)
    assert server["status"] == "ERROR"
    assert "create_disks failed" in server["fault"]["message"]
    (create,) = cloud.actions(server_id)
    tried = {event["host"] for event in create["events"] if event["result"] == "Error"}
    assert len(tried) == Config().operations.max_attempts
    assert cloud.unexplained() == []
    assert set(free(cloud)) == {(0, 0, 0)}


def test_one_attempt_may_be_all(make_cloud: MakeCloud) -> None:
    config = structs.replace(
        Config(), fake=Fake(step_failures={"ensure_disks": 1.0}), operations=Operations(max_attempts=1)
    )
    cloud = make_cloud(hosts=2, config=config)
    server_id = cloud.create()
    assert cloud.settled(server_id)["status"] == "ERROR"
    (create,) = cloud.actions(server_id)
    assert [event["event"] for event in create["events"]].count("select_destinations") == 1


def test_no_host_left_to_try_says_why_the_last_one_failed(two: Cloud) -> None:
    for host in two.hosts.values():
        host.driver.failures["ensure_disks"] = [BuildFailed("the disk is full")]
    fault = two.settled(two.create())["fault"]["message"]
    assert "No valid host was found" in fault
    assert "RetryFilter turned away 2" in fault
    assert "create_disks failed: the disk is full" in fault
    assert "h1" not in fault
    assert "h2" not in fault


def test_no_valid_host_counts_for_the_owner_and_names_for_the_admin(two: Cloud) -> None:
    status, answer = two.ask(
        "POST",
        "/compute/v2.1/flavors",
        {"flavor": {"name": "huge", "id": "huge", "ram": 512, "vcpus": 1000, "disk": 1}},
        "admin",
    )
    assert status == 200, answer
    set_quota(two, cores=-1)
    server_id = two.create(flavorRef="huge")
    server = two.settled(server_id)
    fault = server["fault"]["message"]
    assert fault.startswith("No valid host was found. Of 2 hosts: CoreFilter turned away 2")
    assert "1000 vCPUs" in fault
    assert "256 vCPUs" in fault  # 64, times the allocation ratio
    assert "h1" not in fault
    assert '"hosts":["h1","h2"]' in server["fault"]["details"]
    assert "details" not in two.server(server_id, caller="member")["fault"]
    (create,) = two.actions(server_id)
    assert [(event["event"], event["result"]) for event in create["events"]] == [
        ("select_destinations", "Error")
    ]


def set_quota(cloud: Cloud, **quota: int) -> None:
    project = "a" * 32
    body = {"quota_set": quota}
    assert cloud.ask("PUT", f"/compute/v2.1/os-quota-sets/{project}", body, "admin")[0] == 200


def test_undo_goes_backwards_though_one_undo_fails(two: Cloud) -> None:
    """create_domain fails, the undo of plug_vifs fails too: the disks are removed all the same."""
    network = two.make_network()
    fail_once(two, "ensure_paused", BuildFailed("QEMU does not start"))
    fail_once(two, "destroy", BuildFailed("libvirt is away"))
    server_id = two.active(network)
    (create,) = two.actions(server_id)
    undone = [event for event in create["events"] if event["event"].startswith("undo")]
    assert [event["event"] for event in undone] == [
        "undo create_domain",
        "undo plug_vifs",
        "undo create_disks",
    ]
    assert [event["result"] for event in undone] == ["Error", "Success", "Success"]
    assert all(event["finish_time"] for event in create["events"])
    there = two.where(server_id)
    assert all(host is there or host.is_empty() for host in two.hosts.values())


def test_what_undo_could_not_remove_is_removed_at_the_next_comparison(two: Cloud) -> None:
    fail_once(two, "ensure_paused", BuildFailed("QEMU does not start"))
    for host in two.hosts.values():
        host.driver.failures["destroy"] = [BuildFailed("libvirt is away")] * 3
    server_id = two.active(two.make_network())
    (other,) = [host for host in two.hosts.values() if host is not two.where(server_id)]
    assert not other.is_empty()
    other.driver.failures.clear()
    other.repairs.tick()
    assert other.is_empty()
    assert two.server(server_id)["status"] == "ACTIVE"
    assert two.where(server_id).driver.guest(server_id) is not None


def test_quota_comes_back_when_a_failed_server_is_deleted(cloud: Cloud) -> None:
    cloud.hosts["h1"].driver.failures["ensure_disks"] = [BuildAborted("no")]
    server_id = cloud.create(cloud.make_network())
    assert cloud.settled(server_id)["status"] == "ERROR"
    assert used(cloud) == (1, 1)
    cloud.delete(server_id)
    cloud.gone(server_id)
    assert used(cloud) == (0, 0)
    assert cloud.unexplained() == []


def used(cloud: Cloud) -> tuple[int, int]:
    _, answer = cloud.ask("GET", "/compute/v2.1/limits")
    absolute = answer["limits"]["absolute"]
    return absolute["totalInstancesUsed"], absolute["totalCoresUsed"]


def away_once(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The network service is away the first time it should free ports; the servers it was asked for."""
    free_ports = cloud.network.deallocate_for_instance
    asked: list[str] = []

    def deallocate(server_id: str) -> None:
        asked.append(server_id)
        if len(asked) == 1:
            raise Unavailable("Neutron does not answer")
        free_ports(server_id)

    monkeypatch.setattr(cloud.network, "deallocate_for_instance", deallocate)
    return asked


def test_a_build_does_not_end_before_its_ports_are_free(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.hosts["h1"].driver.failures["ensure_disks"] = [BuildAborted("no"), BuildAborted("no")]
    asked = away_once(cloud, monkeypatch)
    server_id = cloud.create(cloud.make_network())
    tried_again_soon(cloud, server_id)
    assert cloud.settled(server_id)["status"] == "ERROR"
    assert asked == [server_id] * 2
    assert cloud.unexplained() == []


def test_a_build_without_a_host_does_not_end_before_its_ports_are_free(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.sql("UPDATE services SET disabled = TRUE")
    away_once(cloud, monkeypatch)
    server_id = cloud.create(cloud.make_network())
    tried_again_soon(cloud, server_id)
    server = cloud.settled(server_id)
    assert server["status"] == "ERROR"
    assert server["fault"]["message"].startswith("No valid host was found")
    assert cloud.unexplained() == []


def test_a_delete_does_not_end_before_the_ports_are_free(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_id = cloud.active(cloud.make_network())
    cloud.hosts["h1"].vanish()
    away_once(cloud, monkeypatch)
    cloud.delete(server_id)
    tried_again_soon(cloud, server_id)
    cloud.gone(server_id)
    assert cloud.unexplained() == []


def tried_again_soon(cloud: Cloud, server_id: str) -> None:
    """It is nobody's, and its lease ends in seconds; then the sweeper finds it."""

    def rests() -> bool:
        work = cloud.open_operation(server_id)
        return work.epoch > 0 and work.owner is None and work.lease_until > 0

    until(rests, PATIENCE, "the operation to be put aside")
    assert cloud.open_operation(server_id).lease_until < now() + cloud.config.operations.lease / 2
    cloud.leases_run_out()
    cloud.sweep()


def test_a_good_build_forgives_a_host_its_failures(two: Cloud) -> None:
    fail_once(two, "ensure_disks", BuildFailed("no"))
    server_id = two.active()
    (failed,) = [host for host in two.hosts.values() if host is not two.where(server_id)]
    assert failures_of(two, failed) == 1
    two.sql("UPDATE services SET disabled = TRUE WHERE host != ?", failed.name)
    two.sql("UPDATE hosts SET updated_at = updated_at + 1")
    two.active()
    assert failures_of(two, failed) == 0


def failures_of(cloud: Cloud, host: Host) -> int:
    return int(cloud.sql("SELECT failed_builds FROM hosts WHERE host = ?", host.name)[0][0])


def test_a_guest_that_does_not_start_after_the_commit_is_an_error_and_stays(cloud: Cloud) -> None:
    """The server was ACTIVE by the records: nothing is undone, the owner is told."""
    cloud.hosts["h1"].driver.failures["resume_build"] = [BuildFailed("QEMU died")]
    server_id = cloud.create(cloud.make_network())
    until(lambda: cloud.server(server_id)["status"] == "ERROR", PATIENCE, "ERROR")
    server = cloud.server(server_id)
    assert server["fault"]["message"] == "wait_for_boot failed: QEMU died"
    assert cloud.hosts["h1"].driver.guest(server_id) is not None
    assert cloud.unexplained() == []
    cloud.delete(server_id)
    cloud.gone(server_id)
    assert cloud.hosts["h1"].is_empty()
    assert cloud.unexplained() == []


def test_many_at_once_share_the_hosts(two: Cloud) -> None:
    server_id = two.create(two.make_network(), min_count=6, max_count=6)
    assert two.settled(server_id)
    _, listed = two.ask("GET", "/compute/v2.1/servers/detail")
    ids = [server["id"] for server in listed["servers"]]
    assert len(ids) == 6
    assert [two.settled(one)["status"] for one in ids] == ["ACTIVE"] * 6
    assert {two.where(one).name for one in ids} == {"h1", "h2"}
    assert len({server["OS-EXT-SRV-ATTR:reservation_id"] for server in map(two.server, ids)}) == 1
    assert two.unexplained() == []
