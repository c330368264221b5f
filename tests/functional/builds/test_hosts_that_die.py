"""Hosts that go down while they build: the build goes elsewhere, and if it ends badly its fault says so."""

from __future__ import annotations

import pytest
from msgspec import structs
from tests.functional.builds.cloud import PATIENCE, Cloud, Host
from tests.functional.builds.conftest import MakeCloud
from tests.running import until

from kilonova.config import Config, Operations
from kilonova.domain.errors import BuildFailed

STEP = "ensure_paused"


def few(attempts: int) -> Config:
    return structs.replace(Config(), operations=Operations(max_attempts=attempts))


def builds(cloud: Cloud, server_id: str) -> Host:
    """The host that builds it, in the midst of it."""
    until(lambda: cloud.server(server_id)["OS-EXT-SRV-ATTR:host"], PATIENCE, "a host")
    host = cloud.where(server_id)
    host.driver.gate(STEP).wait_until_reached()
    return host


def dies(cloud: Cloud, host: Host) -> None:
    """It is declared down, and its build looks for another."""
    host.vanish()
    cloud.conductor_forgets_liveness()
    cloud.leases_run_out()
    cloud.sweep()
    query = "SELECT count(*) FROM operations WHERE state = 'open' AND host = ?"
    until(lambda: not cloud.sql(query, host.name)[0][0], PATIENCE, "the build to leave")


def comes_back(cloud: Cloud, host: Host) -> None:
    """Its agent starts anew, and finds nothing of its own."""
    gate = host.driver.gates.pop(STEP)
    host.agent._running.cancel_all()
    gate.open()
    until(lambda: not host.agent._running.held(), PATIENCE, "the old agent to end")
    host.start()
    cloud.conductor_forgets_liveness()


def test_a_host_that_died_is_no_attempt(make_cloud: MakeCloud) -> None:
    """Of two, one is used up by a host that fails; the one that died left both."""
    cloud = make_cloud(hosts=3, config=few(attempts=2))
    for host in cloud.hosts.values():
        host.driver.gate(STEP)
    server_id = cloud.create(cloud.make_network())
    dead = builds(cloud, server_id)
    once = [BuildFailed("the disk is full")]
    for host in cloud.hosts.values():
        if host is not dead:
            host.driver.failures["ensure_disks"] = once
            host.driver.gate(STEP).open()
    dies(cloud, dead)
    server = cloud.settled(server_id)
    assert server["status"] == "ACTIVE", server
    assert once == []
    assert cloud.unexplained() == []


def test_hosts_that_die_one_after_the_other_and_come_back(make_cloud: MakeCloud) -> None:
    """More often than there are hosts: one that died is good again when it is back."""
    cloud = make_cloud(hosts=2, config=few(attempts=1))
    for host in cloud.hosts.values():
        host.driver.gate(STEP)
    server_id = cloud.create(cloud.make_network())
    for _ in range(3):
        dead = builds(cloud, server_id)
        dies(cloud, dead)
        comes_back(cloud, dead)
        dead.driver.gate(STEP)
    for host in cloud.hosts.values():
        host.driver.gates.pop(STEP).open()
    server = cloud.settled(server_id)
    assert server["status"] == "ACTIVE", server
    assert cloud.unexplained() == []


def test_the_fault_says_which_hosts_went_down(two: Cloud) -> None:
    """To the admin by their names, to the owner that it was so."""
    for host in two.hosts.values():
        host.driver.gate(STEP)
    server_id = two.create()
    dead = []
    for _ in range(2):
        dead.append(builds(two, server_id))
        dies(two, dead[-1])
    two.settled(server_id)
    for caller in ("member", "admin"):
        fault = two.server(server_id, caller)["fault"]
        assert "No valid host was found" in fault["message"]
        assert "Twice a host went down during the build." in fault["message"]
        assert not any(host.name in fault["message"] for host in dead)
    assert "details" not in two.server(server_id, "member")["fault"]
    details = two.server(server_id, "admin")["fault"]["details"]
    assert f'"went_down":["{dead[0].name}","{dead[1].name}"]' in details
    (create,) = two.actions(server_id)
    down = [event for event in create["events"] if event["event"] == "host_down"]
    assert [event["host"] for event in down] == [host.name for host in dead]
    assert {event["result"] for event in down} == {"Error"}
    assert two.unexplained() == []


@pytest.mark.parametrize("end", ["it fails", "its time is over"])
def test_a_build_that_ends_otherwise_after_a_host_died(make_cloud: MakeCloud, end: str) -> None:
    cloud = make_cloud(hosts=2, config=few(attempts=1))
    for host in cloud.hosts.values():
        host.driver.gate(STEP)
    server_id = cloud.create()
    dead = builds(cloud, server_id)
    (other,) = [host for host in cloud.hosts.values() if host is not dead]
    if end == "it fails":
        other.driver.failures[STEP] = [BuildFailed("QEMU does not start")]
    dies(cloud, dead)
    assert builds(cloud, server_id) is other
    if end == "it fails":
        other.driver.gate(STEP).open()
        expected, names = "create_domain failed: QEMU does not start", [dead.name]
    else:
        other.vanish()
        cloud.deadlines_pass()
        cloud.sweep()
        expected, names = "its host does not answer", [dead.name, other.name]
    server = cloud.settled(server_id)
    assert server["status"] == "ERROR"
    message = server["fault"]["message"]
    assert expected in message
    assert "A host went down during the build." in message
    assert not any(name in message for name in cloud.hosts)
    assert all(name in server["fault"]["details"] for name in names)


def test_who_lets_go_of_a_build_before_its_server_left_looks_again(two: Cloud) -> None:
    """A conductor takes the build first, and takes the server from the host a moment later."""
    for host in two.hosts.values():
        host.driver.gate(STEP)
    server_id = two.create()
    host = builds(two, server_id)
    two.sql("UPDATE operations SET epoch = epoch + 1, owner = 'conductor.2', lease_until = 9e9")
    host.driver.gates.pop(STEP).open()
    until(lambda: not host.agent._running.held(), PATIENCE, "the host to let go of it")
    assert host.driver.leftovers() == {server_id}
    two.sql("UPDATE servers SET host = NULL")
    host.agent._tidy()
    assert host.is_empty()
