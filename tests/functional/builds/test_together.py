"""What waits together is done together (conductor/builds.py, words.py): each with its own outcome."""

from __future__ import annotations

from typing import Any

import pytest
from tests.functional.builds.cloud import PATIENCE, Cloud
from tests.functional.builds.conftest import MakeCloud
from tests.running import until

from kilonova.bus.base import NOT_YET
from kilonova.conductor import build, builds, words
from kilonova.domain.clock import now
from kilonova.domain.errors import RolledBack
from kilonova.domain.messages import Activate, Finished, Nothing, PerformOperation, Progress, StepRecord, Work
from kilonova.domain.servers import PowerState
from kilonova.engine import lease
from kilonova.store import operation_sets


@pytest.fixture
def three(make_cloud: MakeCloud) -> Cloud:
    return make_cloud(hosts=3)


def waiting(cloud: Cloud, count: int) -> tuple[list[str], list[PerformOperation]]:
    """Servers whose builds no conductor has heard of, and what it would hear."""
    cloud.bus.lost["build_instances"] = count
    servers = [cloud.create() for _ in range(count)]
    return servers, [PerformOperation(operation_id=cloud.open_operation(one).id) for one in servers]


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("this one was to be done with the others")


def test_builds_are_placed_together(three: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    servers, messages = waiting(three, 7)
    monkeypatch.setattr(build, "go_on", never)
    assert builds.build_instances(three.conductor, [*messages, messages[0]]) == [None] * 8
    for server in servers:
        assert three.settled(server)["status"] == "ACTIVE"
        events = [event["event"] for event in three.actions(server)[0]["events"]]
        assert events[0] == "select_destinations"
        assert {"fetch_image", "create_disks", "create_domain"} <= set(events)
    until(lambda: three.unexplained() == [], PATIENCE, "all to be told")
    assert {three.where(server).name for server in servers} == {"h1", "h2", "h3"}
    assert three.sql("SELECT count(*) FROM claims") == [(7,)]
    assert three.sql("SELECT sum(vcpus_used), sum(servers) FROM hosts") == [(7, 7)]


def test_what_is_not_new_is_left(three: Cloud) -> None:
    servers, messages = waiting(three, 4)
    taken = lease.take(three.db, messages[0].operation_id, "conductor.2", 30.0)
    assert taken is not None
    three.delete(servers[1])
    unknown = PerformOperation(operation_id="no-such")
    outcomes = builds.build_instances(three.conductor, [*messages, unknown])
    assert outcomes == [NOT_YET, NOT_YET, None, None, NOT_YET]
    assert three.open_operation(servers[0]).owner == "conductor.2"
    three.gone(servers[1])
    assert [three.settled(server)["status"] for server in servers[2:]] == ["ACTIVE", "ACTIVE"]


def test_no_host_is_overcommitted(three: Cloud) -> None:
    """Five where there is room for two: the rest are told why."""
    three.sql("UPDATE hosts SET vcpus_limit = 1 WHERE host <> 'h3'")
    three.sql("UPDATE hosts SET vcpus_limit = 0 WHERE host = 'h3'")
    three.conductor_forgets_liveness()
    servers, messages = waiting(three, 5)
    builds.build_instances(three.conductor, messages)
    found = [three.settled(server) for server in servers]
    assert sorted(one["status"] for one in found) == ["ACTIVE"] * 2 + ["ERROR"] * 3
    assert all("CoreFilter" in one["fault"]["message"] for one in found if one["status"] == "ERROR")
    assert three.sql("SELECT max(vcpus_used) FROM hosts") == [(1,)]
    until(lambda: three.unexplained() == [], PATIENCE, "all to be told")


def test_what_memory_does_not_know_is_refused(three: Cloud) -> None:
    """The scheduler thinks that there is room; another one took it meanwhile."""
    three.active()
    three.sql("UPDATE hosts SET vcpus_limit = 0, updated_at = 0 WHERE host <> 'h2'")
    three.scheduler._hosts._fresh = 60.0
    servers, messages = waiting(three, 6)
    builds.build_instances(three.conductor, messages)
    for server in servers:
        assert three.settled(server)["status"] == "ACTIVE"
        assert three.where(server).name == "h2"
    used = three.sql("SELECT sum(vcpus_used) FROM hosts")[0][0]
    assert used == 7


@pytest.mark.parametrize("broken", ["select_for_many", "hand_over"])
def test_if_it_cannot_be_done_together_each_is_done_alone(
    three: Cloud, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    servers, messages = waiting(three, 3)
    if broken == "hand_over":
        monkeypatch.setattr(operation_sets, "hand_over", _rolled_back)
    else:
        three.bus.broken["select_for_many"] = 1
    assert builds.build_instances(three.conductor, messages) == [None] * 3
    assert [three.settled(server)["status"] for server in servers] == ["ACTIVE"] * 3
    until(lambda: three.unexplained() == [], PATIENCE, "all to be told")
    assert three.sql("SELECT count(*) FROM claims") == [(3,)]


def test_a_scheduler_that_is_away_is_asked_once_for_all(
    three: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers, messages = waiting(three, 3)
    three.bus.refused["select_for_many"] = 1
    monkeypatch.setattr(build, "go_on", never)
    assert builds.build_instances(three.conductor, messages) == [None] * 3
    works = [three.open_operation(server) for server in servers]
    assert {(work.owner, work.message) for work in works} == {(None, "select_for_many did not arrive")}


def _rolled_back(*_: Any) -> None:
    raise RolledBack("another one was in the way")


class Builds:
    """Builds that wait on their hosts, all of their words still to be said."""

    def __init__(self, cloud: Cloud, count: int) -> None:
        self.cloud = cloud
        self.works: list[tuple[str, Work]] = []
        send = cloud.bus.cast

        def note(topic: str, method: str, request: Any) -> None:
            if isinstance(request, Work):
                self.works.append((topic.rpartition(".")[2], request))
            send(topic, method, request)

        cloud.bus.cast = note  # type: ignore[method-assign]
        gates = [host.driver.gate("ensure_disks") for host in cloud.hosts.values()]
        servers = [cloud.create() for _ in range(count)]
        reached = "SELECT count(*) FROM steps WHERE name = 'fetch_image'"
        until(lambda: cloud.sql(reached) == [(count,)], PATIENCE, "all to build")
        self.open = lambda: [gate.open() for gate in gates]
        self.servers = servers

    def ref(self, number: int, **more: Any) -> dict[str, Any]:
        host, work = self.works[number]
        return {"host": host, "operation_id": work.operation_id, "epoch": work.epoch} | more

    def show(self, column: str) -> list[Any]:
        """Of the servers, in the order of ``works``."""
        query = f"SELECT {column} FROM servers WHERE id = ?"
        return [self.cloud.sql(query, work.server_id)[0][0] for _, work in self.works]


def step(name: str = "looked") -> StepRecord:
    return StepRecord(name=name, started_at=now(), finished_at=now(), result="Success")


def test_steps_are_told_together(three: Cloud) -> None:
    waiting_builds = Builds(three, 3)
    told = [
        Progress(**waiting_builds.ref(0), steps=[step(), step("again")], task_state="block_device_mapping"),
        Progress(**waiting_builds.ref(1), steps=[step()], task_state="spawning"),
        Progress(**waiting_builds.ref(2, epoch=9), steps=[step()], task_state="networking"),
        Progress(**waiting_builds.ref(0), steps=[step("third")]),
    ]
    three.sql("UPDATE operations SET lease_until = 5")
    outcomes = words.progress(three.conductor, told)
    assert outcomes == [Nothing(), Nothing(), NOT_YET, NOT_YET]
    assert waiting_builds.show("task_state") == ["block_device_mapping", "spawning", "spawning"]
    left = {row[0] for row in three.sql("SELECT id FROM operations WHERE lease_until = 5")}
    assert left == {waiting_builds.works[2][1].operation_id}
    rows = three.sql("SELECT operation_id, host, name FROM steps WHERE name IN ('looked', 'again', 'third')")
    (first, one), (second, two), _ = waiting_builds.works
    assert sorted(rows) == sorted(
        [
            (one.operation_id, first, "looked"),
            (one.operation_id, first, "again"),
            (two.operation_id, second, "looked"),
        ]
    )
    waiting_builds.open()


def test_who_holds_one_row_keeps_the_others_not_waiting(three: Cloud) -> None:
    """A conductor that is frozen in the middle of a transaction."""
    if three.db.engine.name != "postgresql":
        pytest.skip("SQLite has one writer, and no rows that are locked")
    waiting_builds = Builds(three, 3)
    told = [Progress(**waiting_builds.ref(number), steps=[step()]) for number in range(3)]
    held, other = waiting_builds.works[1][1], waiting_builds.works[2][1]
    with three.db.engine.connect() as frozen:
        frozen.exec_driver_sql("BEGIN")
        frozen.exec_driver_sql("SELECT 1 FROM operations WHERE id = %s FOR UPDATE", (held.operation_id,))
        assert words.progress(three.conductor, told) == [Nothing(), NOT_YET, Nothing()]
        frozen.exec_driver_sql("SELECT 1 FROM servers WHERE id = %s FOR UPDATE", (other.server_id,))
        said = [Activate(**waiting_builds.ref(number), steps=[step()]) for number in (0, 2)]
        with pytest.raises(RolledBack):
            words.activate(three.conductor, said)
        frozen.exec_driver_sql("ROLLBACK")
    assert words.progress(three.conductor, told[1:]) == [Nothing(), Nothing()]
    waiting_builds.open()
    assert {three.settled(server)["status"] for server in waiting_builds.servers} == {"ACTIVE"}


def test_builds_are_committed_together(three: Cloud) -> None:
    waiting_builds = Builds(three, 4)
    three.sql("UPDATE hosts SET failed_builds = 2")
    said = [
        Activate(**waiting_builds.ref(0), steps=[step()]),
        Activate(**waiting_builds.ref(1), steps=[step()]),
        Activate(**waiting_builds.ref(2, host="h9"), steps=[step()]),
        Activate(**waiting_builds.ref(3, epoch=0), steps=[step()]),
    ]
    assert words.activate(three.conductor, said) == [Nothing(), Nothing(), NOT_YET, NOT_YET]
    assert waiting_builds.show("vm_state") == ["active", "active", "building", "building"]
    assert [name for name in waiting_builds.show("task_state") if name] == ["spawning", "spawning"]
    states = dict(three.sql("SELECT id, state FROM operations"))
    assert [states[work.operation_id] for _, work in waiting_builds.works] == ["done", "done", "open", "open"]
    assert words.activate(three.conductor, said[:2]) == [NOT_YET, NOT_YET], "alone they are told yes again"
    good = {host for host, _ in waiting_builds.works[:2]}
    failed = dict(three.sql("SELECT host, failed_builds FROM hosts"))
    assert failed == {host: 0 if host in good else 2 for host in ("h1", "h2", "h3")}
    waiting_builds.open()
    for server in waiting_builds.servers:
        assert three.settled(server)["status"] == "ACTIVE"
    until(lambda: three.unexplained() == [], PATIENCE, "all to be told")


def test_ends_are_told_together(three: Cloud) -> None:
    waiting_builds = Builds(three, 3)
    waiting_builds.open()
    until(lambda: waiting_builds.show("power_state") == [1, 1, 1], PATIENCE, "all to run")
    three.sql("UPDATE servers SET power_state = 0")
    ended = {"kind": "build", "power_state": PowerState.RUNNING}
    said = [
        Finished(**waiting_builds.ref(0), **ended, steps=[step("waited")]),
        Finished(**waiting_builds.ref(1), **ended, error="it does not run"),
        Finished(**waiting_builds.ref(2), **ended | {"kind": "delete"}),
        Finished(**waiting_builds.ref(2), **ended),
    ]
    assert words.finished(three.conductor, said) == [Nothing(), NOT_YET, NOT_YET, Nothing()]
    assert waiting_builds.show("power_state") == [1, 0, 1]
    assert three.sql("SELECT count(*) FROM steps WHERE name = 'waited'") == [(1,)]
