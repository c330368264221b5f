"""Lost, doubled and late messages, agents that pause, hosts that die and come back, deadlines."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest
from msgspec import structs
from tests.functional.builds.cloud import PATIENCE, Cloud
from tests.functional.builds.conftest import MakeCloud
from tests.running import until

from kilonova.conductor import sweeper
from kilonova.config import Config, Operations
from kilonova.domain.clock import now
from kilonova.domain.errors import BuildFailed, KilonovaError, RolledBack, Timeout, Unavailable
from kilonova.store import operations

BUILD_CASTS = ["build_instances", "build_and_run_instance"]


@pytest.mark.parametrize("method", BUILD_CASTS)
def test_a_lost_word_of_a_build_costs_time_only(cloud: Cloud, method: str) -> None:
    cloud.bus.lost[method] = 1
    server_id = cloud.create(cloud.make_network())
    until(lambda: not cloud.bus.lost[method], PATIENCE, "the loss")
    until(lambda: method != BUILD_CASTS[1] or cloud.open_operation(server_id).host, PATIENCE, "the host")
    cloud.leases_run_out()
    cloud.sweep()
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert cloud.unexplained() == []


def test_what_nobody_works_on_is_taken_up_as_its_lease_ends(make_cloud: MakeCloud) -> None:
    """However far away the next regular round is."""
    cloud = make_cloud(config=Config(operations=Operations(lease=2.0, sweep_interval=3600.0)))
    cloud.bus.lost["build_instances"] = 1
    server_id = cloud.create()
    cloud.keep_sweeping()
    assert cloud.settled(server_id)["status"] == "ACTIVE"


@pytest.mark.parametrize("method", ["perform_action", "delete_instance"])
@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_word_of_an_action_costs_time_only(cloud: Cloud, method: str, lost: int) -> None:
    """The same name goes to the conductor and then to the host."""
    server_id = cloud.active(cloud.make_network())
    cloud.bus.lost[method] = lost
    if method == "delete_instance":
        cloud.delete(server_id)
    else:
        assert cloud.act(server_id, "os-stop") == 202
    settle(cloud, server_id)
    assert not cloud.bus.lost[method]
    server = cloud.server(server_id)
    assert server is None if method == "delete_instance" else server["status"] == "SHUTOFF"
    assert cloud.unexplained() == []


def test_every_message_doubled_changes_nothing(two: Cloud) -> None:
    two.bus.doubled = {"build_instances", "build_and_run_instance", "perform_action", "delete_instance"}
    two.bus.doubled |= {"power_states"}
    network = two.make_network()
    server_id = two.active(network)
    assert two.act(server_id, "os-stop") == 202
    assert two.settled(server_id)["status"] == "SHUTOFF"
    assert two.unexplained() == []
    for action in two.actions(server_id):
        names = [event["event"] for event in action["events"]]
        assert len(names) == len(set(names))
    two.delete(server_id)
    two.gone(server_id)
    until(lambda: all(host.is_empty() for host in two.hosts.values()), PATIENCE, "empty hosts")
    assert two.unexplained() == []


@pytest.mark.parametrize("method", ["progress", "allocate_networks", "activate", "finished"])
def test_an_answer_that_is_lost_ends_well(cloud: Cloud, method: str) -> None:
    """The conductor did it, and the host does not know: the host asks again, or the sweeper sees to it."""
    cloud.bus.unanswered[method] = 1
    network = cloud.make_network()
    server_id = cloud.create(network)
    until(lambda: not cloud.bus.unanswered[method], PATIENCE, "the loss")
    settle(cloud, server_id)
    assert cloud.server(server_id)["status"] == "ACTIVE"
    until(lambda: cloud.hosts["h1"].driver.guest(server_id).power_state == 1, PATIENCE, "it to run")
    until(lambda: not cloud.hosts["h1"].agent._running.busy(server_id), PATIENCE, "the work to end")
    assert cloud.unexplained() == []
    names = [(event["event"], event["start_time"]) for event in cloud.actions(server_id)[0]["events"]]
    assert len(names) == len(set(names))


def settle(cloud: Cloud, server_id: str) -> None:
    """Let time pass until nothing is done to the server."""

    def quiet() -> bool:
        if cloud.open_operation(server_id) is None:
            return True
        cloud.leases_run_out()
        cloud.sweep()
        return False

    until(quiet, PATIENCE, f"{server_id} to settle")


def test_a_server_whose_end_could_not_be_told_still_runs(cloud: Cloud) -> None:
    """It was ACTIVE by the records when the conductor could not be told more: nothing may be undone."""
    cloud.bus.broken["finished"] = 1
    server_id = cloud.create(cloud.make_network())
    until(lambda: not cloud.bus.broken["finished"], PATIENCE, "the host to tell of the end")
    until(lambda: not cloud.hosts["h1"].agent._running.busy(server_id), PATIENCE, "the work to end")
    guest = cloud.hosts["h1"].driver.guest(server_id)
    assert guest is not None
    assert guest.power_state == 1
    assert cloud.hosts["h1"].network.plugged()
    cloud.hosts["h1"].reports.tick()
    until(lambda: cloud.server(server_id)["OS-EXT-STS:power_state"] == 1, PATIENCE, "the power state")
    assert cloud.server(server_id)["status"] == "ACTIVE"


def test_a_stop_whose_end_could_not_be_told_is_no_failure(cloud: Cloud) -> None:
    server_id = cloud.active()
    cloud.bus.broken["finished"] = 1
    assert cloud.act(server_id, "os-stop") == 202
    until(lambda: not cloud.bus.broken["finished"], PATIENCE, "the host to tell of the end")
    until(lambda: not cloud.hosts["h1"].agent._running.busy(server_id), PATIENCE, "the work to end")
    settle(cloud, server_id)
    assert cloud.server(server_id)["status"] == "SHUTOFF"


# --- agents that pause


def test_an_agent_that_wakes_after_its_lease_is_refused_and_cleans_up(two: Cloud) -> None:
    network = two.make_network()
    gates = {name: host.driver.gate("ensure_paused") for name, host in two.hosts.items()}
    server_id = two.create(network)
    until(lambda: two.server(server_id)["OS-EXT-SRV-ATTR:host"], PATIENCE, "a host")
    paused = two.where(server_id)
    gates[paused.name].wait_until_reached()
    paused.vanish()
    two.leases_run_out()
    (other,) = [host for host in two.hosts.values() if host is not paused]
    gates[other.name].open()
    two.conductor_forgets_liveness()
    two.sweep()
    assert two.settled(server_id)["status"] == "ACTIVE"
    assert two.where(server_id) is other
    gates[paused.name].open()
    until(paused.is_empty, PATIENCE, "the paused host to clean up")
    assert other.driver.guest(server_id) is not None
    assert two.unexplained() == []


def test_a_paused_agent_may_not_let_its_guest_run(cloud: Cloud) -> None:
    """It sleeps between the domain and the commit; meanwhile the deadline ends the build."""
    gate = cloud.hosts["h1"].driver.gate("ensure_paused")
    server_id = cloud.create(cloud.make_network())
    gate.wait_until_reached()
    cloud.deadlines_pass()
    cloud.sweep()
    assert cloud.settled(server_id)["status"] == "ERROR"
    gate.open()
    until(cloud.hosts["h1"].is_empty, PATIENCE, "the host to be empty")
    assert "resume_build" not in cloud.hosts["h1"].driver.steps
    assert cloud.unexplained() == []


def test_the_same_host_may_get_its_work_again(cloud: Cloud) -> None:
    """The lease ran out though the host lives: it goes on where it was, by a newer epoch."""
    gate = cloud.hosts["h1"].driver.gate("ensure_disks")
    server_id = cloud.create(cloud.make_network())
    gate.wait_until_reached()
    cloud.leases_run_out()
    cloud.sweep()
    until(lambda: cloud.open_operation(server_id).epoch == 2, PATIENCE, "the second epoch")
    gate.open()
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert cloud.unexplained() == []
    (create,) = cloud.actions(server_id)
    assert all(event["finish_time"] for event in create["events"]), "a step without an end"


def test_renewals_keep_the_work(make_cloud: MakeCloud) -> None:
    config = structs.replace(Config(), operations=Operations(lease=0.5))
    cloud = make_cloud(config=config)
    gate = cloud.hosts["h1"].driver.gate("ensure_disks")
    server_id = cloud.create()
    gate.wait_until_reached()
    before = cloud.open_operation(server_id).lease_until
    cloud.hosts["h1"].leases.tick()
    assert cloud.open_operation(server_id).lease_until > before
    gate.open()
    assert cloud.settled(server_id)["status"] == "ACTIVE"


def test_leases_are_renewed_as_conductors_say(make_cloud: MakeCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the file of the host says of leases."""
    cloud = make_cloud(config=structs.replace(Config(), operations=Operations(lease=9.0)))
    host = cloud.hosts["h1"]
    monkeypatch.setattr(host.agent, "_parts", dataclasses.replace(host.agent._parts, config=Config()))
    pauses: list[float] = []
    after = host.leases.after

    def watched(seconds: float, function: Any) -> None:
        pauses.append(seconds)
        after(seconds, function)

    monkeypatch.setattr(host.leases, "after", watched)
    gate = host.driver.gate("ensure_disks")
    server_id = cloud.create()
    gate.wait_until_reached()
    assert pauses.count(3.0) == 1
    host.leases.tick()
    assert pauses.count(3.0) == 2, "the next renewal"
    gate.open()
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    until(lambda: not host.agent._running.busy(server_id), PATIENCE, "the work to end")
    host.leases.tick()
    assert pauses.count(3.0) == 2, "a renewal without work"


def test_renewals_do_not_wait_for_what_is_told_of_steps(cloud: Cloud) -> None:
    host = cloud.hosts["h1"]
    gate = host.driver.gate("ensure_disks")
    server_id = cloud.create()
    gate.wait_until_reached()
    cloud.bus.refused["progress"] = 1
    host.leases.tick()
    assert cloud.bus.refused["progress"] == 1, "a renewal told of a step"
    host.looks.tick()
    assert cloud.bus.refused["progress"] == 0
    gate.open()
    assert cloud.settled(server_id)["status"] == "ACTIVE"


def test_renewals_learn_that_work_moved_on(cloud: Cloud) -> None:
    """A long download stops as soon as the host hears that the build was given up."""
    gate = cloud.hosts["h1"].driver.gate("ensure_base_image")
    cloud.create()
    gate.wait_until_reached()
    cloud.deadlines_pass()
    cloud.sweep()
    cloud.hosts["h1"].leases.tick()
    gate.open()
    until(cloud.hosts["h1"].is_empty, PATIENCE, "the host to be empty")
    assert "ensure_disks" not in cloud.hosts["h1"].driver.steps


# --- hosts that die


def test_a_build_on_a_host_that_dies_goes_elsewhere(two: Cloud) -> None:
    gates = [host.driver.gate("ensure_paused") for host in two.hosts.values()]
    server_id = two.create(two.make_network())
    until(lambda: two.server(server_id)["OS-EXT-SRV-ATTR:host"], PATIENCE, "a host")
    dead = two.where(server_id)
    dead.driver.gate("ensure_paused").wait_until_reached()
    dead.vanish()
    two.conductor_forgets_liveness()
    two.leases_run_out()
    two.sweep()
    until(lambda: two.server(server_id)["OS-EXT-SRV-ATTR:host"] not in (None, dead.name), PATIENCE, "another")
    for gate in gates:
        gate.open()
    assert two.settled(server_id)["status"] == "ACTIVE"
    assert two.unexplained() == []


def test_who_could_not_be_heard_is_not_taken_for_dead(two: Cloud) -> None:
    """After a while without a broker, a database or a conductor every host is silent, and lives."""
    two.bus.lost["build_and_run_instance"] = 1
    server_id = two.create(two.make_network())
    until(lambda: two.open_operation(server_id).host, PATIENCE, "a host")
    first = two.where(server_id)
    nobody_is_heard(two)
    two.leases_run_out()
    two.sweep()
    assert two.settled(server_id)["status"] == "ACTIVE"
    assert two.where(server_id) is first
    assert two.unexplained() == []


def test_a_build_waits_for_hosts_that_could_not_be_heard(two: Cloud) -> None:
    nobody_is_heard(two)
    server_id = two.create(two.make_network())
    until(lambda: two.open_operation(server_id).message, PATIENCE, "the postponement")
    assert two.server(server_id)["status"] == "BUILD"
    for host in two.hosts.values():
        host.reports.tick()
    two.conductor_forgets_liveness()
    until(lambda: two.sql("SELECT min(last_seen) FROM services")[0][0] > 0, PATIENCE, "the reports")
    two.leases_run_out()
    two.sweep()
    assert two.settled(server_id)["status"] == "ACTIVE"
    assert two.unexplained() == []


def test_a_build_waits_also_if_they_are_heard_just_after_the_decision(
    two: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the scheduler's no and the conductor's look at who is silent: none is by then."""
    nobody_is_heard(two)
    call = two.bus.call

    def and_then_all_are_heard(topic: str, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return call(topic, method, *args, **kwargs)
        finally:
            if method == "select_destinations":
                two.sql("UPDATE services SET last_seen = ?", now())

    monkeypatch.setattr(two.bus, "call", and_then_all_are_heard)
    server_id = two.create(two.make_network())
    until(lambda: two.open_operation(server_id).message, PATIENCE, "the postponement")
    two.leases_run_out()
    two.sweep()
    assert two.settled(server_id)["status"] == "ACTIVE"
    assert two.unexplained() == []


def test_what_is_too_large_for_all_waits_for_nobody(two: Cloud) -> None:
    """Also just after a break: no host was turned away for its silence."""
    two.hearing.after_break = True
    two.sql("UPDATE hosts SET vcpus_limit = 0")
    two.conductor_forgets_liveness()
    assert two.settled(two.create())["status"] == "ERROR"


def test_a_delete_on_a_host_that_could_not_be_heard_is_its_to_do(two: Cloud) -> None:
    server_id = two.active(two.make_network())
    host = two.where(server_id)
    nobody_is_heard(two)
    two.delete(server_id)
    two.gone(server_id)
    assert host.is_empty()


@pytest.mark.parametrize("silent", [True, False])
def test_who_stays_silent_is_taken_for_dead(two: Cloud, silent: bool) -> None:
    """What no host can build fails at once, if there is none that may yet be heard."""
    nobody_is_heard(two)
    if silent:
        two.hearing.after_break = False
    else:
        two.sql("UPDATE services SET disabled = true")
    server_id = two.create(two.make_network())
    assert two.settled(server_id)["status"] == "ERROR"


def nobody_is_heard(cloud: Cloud) -> None:
    cloud.hearing.after_break = True
    cloud.sql("UPDATE services SET last_seen = 0")
    cloud.conductor_forgets_liveness()


def test_a_host_that_comes_back_removes_what_is_not_its_any_more(two: Cloud) -> None:
    server_id = two.active(two.make_network())
    host = two.where(server_id)
    host.vanish()
    two.delete(server_id)
    two.gone(server_id)
    assert two.unexplained() == []
    assert not host.is_empty()
    host.start()
    assert host.is_empty()


@pytest.mark.parametrize("why", ["it slept", "its link was cut"])
def test_a_host_that_was_away_tidies_up_before_it_says_that_it_lives(two: Cloud, why: str) -> None:
    """Its agent runs on, and takes work as soon as it is heard."""
    server_id = two.active(two.make_network())
    host = two.where(server_id)
    host.vanish()
    two.delete(server_id)
    two.gone(server_id)
    if why == "it slept":
        host.agent._reported -= 61
    else:
        two.bus.up_since = now()
    cast_, tidy = two.bus.cast, []

    def watched(topic: str, method: str, request: Any) -> None:
        if method == "report":
            tidy.append(host.is_empty())
        cast_(topic, method, request)

    two.bus.cast = watched  # type: ignore[method-assign]
    two.bus.refused["host_servers"] = 1
    with pytest.raises(Unavailable):
        host.reports.tick()
    host.reports.tick()
    host.reports.tick()
    assert tidy == [True, True]


@pytest.mark.parametrize("error", [BuildFailed("nft refuses"), Unavailable("the switch does not answer")])
def test_a_host_whose_network_is_refused_is_heard_all_the_same(
    two: Cloud, monkeypatch: pytest.MonkeyPatch, error: KilonovaError
) -> None:
    """After a while without the broker it looks at everything before it reports."""
    two.active(two.make_network())
    host = next(iter(two.hosts.values()))
    two.bus.up_since = now()

    def refuse() -> None:
        raise error

    monkeypatch.setattr(host.agent._refresher, "compare", refuse)
    host.reports.tick()
    assert not host.agent._was_away(), "it has reported"


def test_a_place_that_is_left_is_left_at_once(two: Cloud) -> None:
    """The conductor dies after it claimed elsewhere: the first host, alive again, may not build unclaimed."""
    two.bus.lost["build_and_run_instance"] = 1
    server_id = two.create(two.make_network())
    until(lambda: two.open_operation(server_id).host, PATIENCE, "a host")
    first = two.where(server_id)
    two.sql("UPDATE services SET last_seen = 0 WHERE host = ?", first.name)
    two.conductor_forgets_liveness()
    two.faults.deadly = "build.select_destinations.after"
    two.leases_run_out()
    two.sweep()
    assert two.faults.died.wait(PATIENCE)
    first.reports.tick()  # it was only slow
    two.leases_run_out()
    two.sweep()
    assert two.settled(server_id)["status"] == "ACTIVE"
    assert two.unexplained() == []


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), Timeout("Somebody has locked it."), RolledBack("Somebody changed it.")]
)
def test_what_cannot_be_swept_keeps_nothing_else_from_it(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    gate = cloud.hosts["h1"].driver.gate("ensure_paused")
    poison, other = cloud.create(), cloud.create()
    gate.wait_until_reached()
    poisoned, expires = cloud.open_operation(poison).id, operations.expire_lease

    def expire(conn: Any, operation_id: str) -> None:
        if operation_id == poisoned:
            raise error
        expires(conn, operation_id)

    with monkeypatch.context() as patch:
        patch.setattr(operations, "expire_lease", expire)
        cloud.deadlines_pass()
        cloud.sql("UPDATE operations SET deadline = 0 WHERE id = ?", poisoned)  # its turn is first
        cloud.sweep()
        assert cloud.settled(other)["status"] == "ERROR"
    assert cloud.server(poison)["status"] == "BUILD"
    cloud.sweep()
    assert cloud.settled(poison)["status"] == "ERROR"
    gate.open()
    until(cloud.hosts["h1"].is_empty, PATIENCE, "the host to be empty")
    assert cloud.unexplained() == []


def test_an_action_on_a_host_that_is_down_ends_by_its_deadline(two: Cloud) -> None:
    server_id = two.active()
    host = two.where(server_id)
    host.vanish()
    assert two.act(server_id, "os-stop") == 202
    until(lambda: two.open_operation(server_id).owner, PATIENCE, "the hand-over")
    two.deadlines_pass()
    two.sweep()
    server = two.settled(server_id)
    assert server["status"] == "ERROR"
    assert "host does not answer" in server["fault"]["message"]
    assert host.name not in server["fault"]["message"]
    assert two.unexplained() == []


def test_an_action_waits_for_its_host_to_come_back(two: Cloud) -> None:
    server_id = two.active()
    host = two.where(server_id)
    host.vanish()
    assert two.act(server_id, "os-stop") == 202
    until(lambda: two.open_operation(server_id).owner == f"compute.{host.name}", PATIENCE, "the hand-over")
    host.start()
    assert two.settled(server_id)["status"] == "SHUTOFF"
    assert two.unexplained() == []


def test_an_action_handed_over_while_its_host_starts_is_not_left_to_wait(two: Cloud) -> None:
    """The sweeper hands it over after the agent freed its leases, before it listens: `ready` rings again."""
    server_id = two.active()
    host = two.where(server_id)
    host.vanish()
    assert two.act(server_id, "os-stop") == 202
    until(lambda: two.open_operation(server_id).owner == f"compute.{host.name}", PATIENCE, "the hand-over")
    call = two.bus.call

    def sweep_meanwhile(topic: str, method: str, *rest: Any, **more: Any) -> Any:
        answer = call(topic, method, *rest, **more)
        if method == "host_servers":
            epoch = two.open_operation(server_id).epoch
            two.sweep()
            until(lambda: two.open_operation(server_id).epoch > epoch, PATIENCE, "the sweeper's hand-over")
            until(lambda: two.open_operation(server_id).owner == f"compute.{host.name}", PATIENCE, "…")
        return answer

    two.bus.call = sweep_meanwhile  # type: ignore[method-assign]
    host.start()
    two.bus.call = call  # type: ignore[method-assign]
    assert two.settled(server_id)["status"] == "SHUTOFF"


@pytest.mark.parametrize(
    ("action", "value", "step", "status"),
    [
        ("os-stop", None, "power_off", "SHUTOFF"),
        ("reboot", {"type": "HARD"}, "reboot", "ACTIVE"),
        ("reboot", {"type": "SOFT"}, "reboot", "ACTIVE"),
        ("suspend", None, "suspend", "SUSPENDED"),
    ],
)
def test_an_agent_restarted_in_the_midst_of_an_action(
    cloud: Cloud, action: str, value: Any, step: str, status: str
) -> None:
    """The new agent does it again: observing, where it can, what is done already."""
    server_id = cloud.active(cloud.make_network())
    host = cloud.hosts["h1"]
    gate = host.driver.gate(step)
    assert cloud.act(server_id, action, value) == 202
    gate.wait_until_reached()
    cloud.hosts["h1"].goes_silent()  # it dies
    host.driver.gates.clear()
    host.start()
    assert cloud.settled(server_id)["status"] == status
    gate.open()
    assert cloud.unexplained() == []
    assert cloud.server(server_id)["status"] == status


# --- deadlines and states that nothing explains


def test_a_build_that_outlives_its_deadline_names_its_step(make_cloud: MakeCloud) -> None:
    config = structs.replace(Config(), operations=Operations(build_timeout=40.0, sweep_interval=0.05))
    cloud = make_cloud(config=config)
    gate = cloud.hosts["h1"].driver.gate("ensure_disks")
    server_id = cloud.create(cloud.make_network())
    gate.wait_until_reached()
    cloud.hosts["h1"].looks.tick()  # the step is told once it has run for a while
    cloud.sql("UPDATE operations SET created_at = created_at - 200, deadline = deadline - 200")
    cloud.keep_sweeping()
    server = cloud.settled(server_id)
    assert server["status"] == "ERROR"
    assert "create_disks" in server["fault"]["message"]
    assert "40 seconds" in server["fault"]["message"]
    gate.open()
    until(cloud.hosts["h1"].is_empty, PATIENCE, "the host to be empty")
    assert cloud.unexplained() == []


def test_a_deadline_ends_a_build_though_the_network_service_is_away(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.bus.lost["build_instances"] = 1
    server_id = cloud.create(cloud.make_network())

    def away(_server_id: str) -> None:
        raise Unavailable("Neutron does not answer")

    monkeypatch.setattr(cloud.network, "deallocate_for_instance", away)
    cloud.deadlines_pass()
    cloud.sweep()
    assert cloud.settled(server_id)["status"] == "ERROR"


def test_a_scheduler_that_is_away_is_waited_for(cloud: Cloud) -> None:
    cloud.bus.refused["select_destinations"] = 1
    server_id = cloud.create(cloud.make_network())
    until(lambda: not cloud.bus.refused["select_destinations"], PATIENCE, "the refusal")
    settle(cloud, server_id)
    assert cloud.server(server_id)["status"] == "ACTIVE"
    assert cloud.unexplained() == []


def test_limbo_is_repaired(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "_LIMBO_AGE", -1.0)
    server_id = cloud.active(cloud.make_network())
    cloud.sql("UPDATE servers SET task_state = 'pausing' WHERE id = ?", server_id)
    cloud.sweep()
    server = cloud.server(server_id)
    assert (server["status"], server["OS-EXT-STS:task_state"]) == ("ERROR", None)
    assert "transitional state" in server["fault"]["message"]
    assert cloud.unexplained() == []


def test_limbo_of_a_build_gives_its_place_back(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "_LIMBO_AGE", -1.0)
    server_id = cloud.active(cloud.make_network())
    cloud.sql("UPDATE servers SET vm_state = 'building', task_state = 'spawning' WHERE id = ?", server_id)
    cloud.sweep()
    assert cloud.server(server_id)["status"] == "ERROR"
    assert cloud.unexplained() == []
    cloud.hosts["h1"].repairs.tick()
    assert cloud.hosts["h1"].is_empty()
    assert cloud.sql("SELECT count(*) FROM claims")[0][0] == 0
    assert cloud.sql("SELECT count(*) FROM ports WHERE device_id = ?", server_id)[0][0] == 0


def test_what_was_limbo_a_moment_ago_is_left_alone(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "_LIMBO_AGE", -1.0)
    server_id = cloud.active()
    monkeypatch.setattr(sweeper.servers, "in_limbo", _first_time([server_id], sweeper.servers.in_limbo))
    cloud.sweep()
    assert cloud.server(server_id)["status"] == "ACTIVE"


def _first_time(answer: Any, then: Any) -> Any:
    """A function that answers ``answer`` once, then what ``then`` does."""
    answers = [answer]
    return lambda *args, **kwargs: answers.pop() if answers else then(*args, **kwargs)


# --- the comparison of a host with the records


def test_a_comparison_does_not_remove_what_was_handed_over_meanwhile(cloud: Cloud) -> None:
    """Between the look at the records and the removal the same server is placed here again, and built."""

    server_id = cloud.active(cloud.make_network())
    host = cloud.hosts["h1"]
    agent = host.agent
    ask = agent._parts.bus.call

    def old_records(topic: str, method: str, request: Any, reply: Any, timeout: float = 60.0) -> Any:
        answer = ask(topic, method, request, reply, timeout)
        if method == "host_servers":
            answer.servers.pop(server_id)
        return answer

    cloud.bus.call = old_records  # type: ignore[method-assign]
    agent._compare()
    assert host.driver.guest(server_id) is not None
    assert host.network.plugged()


def test_a_guest_that_awaits_its_start_is_let_run_by_the_next_agent(cloud: Cloud) -> None:
    """The agent died between the commit and the resume."""
    host = cloud.hosts["h1"]
    host.driver.failures["resume_build"] = [BuildFailed("never mind")]
    cloud.bus.broken["finished"] = 1
    server_id = cloud.create()
    until(lambda: not cloud.bus.broken["finished"], PATIENCE, "the host to tell of the end")
    until(lambda: not host.agent._running.busy(server_id), PATIENCE, "the work to end")
    assert cloud.server(server_id)["status"] == "ACTIVE"
    cloud.hosts["h1"].goes_silent()
    host.start()
    guest = host.driver.guest(server_id)
    assert guest is not None
    assert guest.power_state == 1
    until(lambda: cloud.server(server_id)["OS-EXT-STS:power_state"] == 1, PATIENCE, "the power state")


def test_an_agent_that_is_stopped_leaves_its_work_for_the_next(cloud: Cloud) -> None:
    """Ctrl-C in the midst of a build: no fault, no undo that fails; the next start goes on."""
    host = cloud.hosts["h1"]
    gate = host.driver.gate("ensure_disks")
    server_id = cloud.create(cloud.make_network())
    gate.wait_until_reached()
    host.driver.failures["ensure_disks"] = [Unavailable("the driver was stopped")]
    stopping = threading.Thread(target=host.agent.stop)
    stopping.start()
    until(host.agent._stopping.is_set, PATIENCE, "the stop to begin")
    gate.open()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    until(lambda: not host.agent._running.busy(server_id), PATIENCE, "the work to end")
    assert cloud.server(server_id)["status"] == "BUILD"
    host.driver.gates.clear()
    host.start()
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert cloud.unexplained() == []
