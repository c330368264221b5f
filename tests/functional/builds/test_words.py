"""What a compute may say to the conductor (invariant 8): only of what it owns, while it owns it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs
from tests.functional.builds.cloud import PATIENCE, Cloud
from tests.running import until

from kilonova.bus.base import NOT_YET
from kilonova.conductor import service
from kilonova.domain.clock import now
from kilonova.domain.errors import BadRequest, BuildAborted, NotFound, StaleEpoch
from kilonova.domain.messages import (
    Activate,
    Finished,
    OperationRef,
    PerformOperation,
    PowerStates,
    Progress,
    ServerQuery,
    StepRecord,
    Work,
)
from kilonova.domain.servers import PowerState

Word = Callable[[Work], tuple[str, Any]]


def ref(work: Work, **more: Any) -> dict[str, Any]:
    return {"host": "h1", "operation_id": work.operation_id, "epoch": work.epoch} | more


def step() -> StepRecord:
    return StepRecord(name="create_disks", started_at=now())


WORDS: dict[str, Word] = {
    "progress": lambda work: ("progress", Progress(**ref(work), steps=[step()], task_state="spawning")),
    "allocate_networks": lambda work: ("allocate_networks", OperationRef(**ref(work))),
    "activate": lambda work: ("activate", Activate(**ref(work), steps=[step()])),
    "finished well": lambda work: ("finished", Finished(**ref(work), kind=work.kind)),
    "finished badly": lambda work: ("finished", Finished(**ref(work), kind=work.kind, error="no")),
    "finished, again": lambda work: (
        "finished",
        Finished(**ref(work), kind=work.kind, error="no", retry=True),
    ),
}


class Build:
    """A build that waits on h1: its message, and all that the records say."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        works: list[Work] = []
        send = cloud.bus.cast

        def note(topic: str, method: str, request: Any) -> None:
            if isinstance(request, Work):
                works.append(request)
            send(topic, method, request)

        cloud.bus.cast = note  # type: ignore[method-assign]
        self.gate = cloud.hosts["h1"].driver.gate("ensure_disks")
        self.server_id = cloud.create(cloud.make_network())
        self.gate.wait_until_reached()
        self.work = works[0]

    def says(self, method: str, message: Any) -> Any:
        return service.MESSAGES[method](self.cloud.conductor, message)

    def records(self) -> list[Any]:
        tables = ("servers", "operations", "steps", "claims", "ports", "hosts", "project_usage")
        return [self.cloud.sql(f"SELECT * FROM {table} ORDER BY 1") for table in tables]

    def refused(self, method: str, message: Any) -> None:
        """The word is refused, alone and among others, and nothing has changed."""
        before = self.records()
        if method in service.TOGETHER:
            words = [message, structs.replace(message, operation_id="no-such")]
            assert service.TOGETHER[method](self.cloud.conductor, words) == [NOT_YET, NOT_YET]
        with pytest.raises(StaleEpoch):
            self.says(method, message)
        assert self.records() == before


@pytest.fixture
def build(two: Cloud) -> Build:
    """h2 takes no builds, so that the one host is known."""
    two.sql("UPDATE services SET disabled = TRUE WHERE host = 'h2'")
    return Build(two)


@pytest.mark.parametrize("word", WORDS)
def test_another_host_is_refused(build: Build, word: str) -> None:
    method, message = WORDS[word](build.work)
    build.refused(method, structs.replace(message, host="h2"))


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("epoch", [-1, 1])
def test_another_epoch_is_refused(build: Build, word: str, epoch: int) -> None:
    method, message = WORDS[word](build.work)
    build.refused(method, structs.replace(message, epoch=message.epoch + epoch))


@pytest.mark.parametrize("word", WORDS)
def test_an_operation_that_is_none_is_refused(build: Build, word: str) -> None:
    method, message = WORDS[word](build.work)
    build.refused(method, structs.replace(message, operation_id="no-such"))


@pytest.mark.parametrize("word", WORDS)
def test_nothing_is_obeyed_after_a_delete(build: Build, word: str) -> None:
    build.cloud.hosts["h1"].goes_silent()  # the delete waits
    build.cloud.delete(build.server_id)
    until(lambda: build.cloud.open_operation(build.server_id).host, PATIENCE, "the hand-over of the delete")
    until(lambda: build.cloud.open_operation(build.server_id).owner == "compute.h1", PATIENCE, "its end")
    build.refused(*WORDS[word](build.work))


@pytest.mark.parametrize("word", WORDS)
def test_nothing_is_obeyed_after_the_build_was_given_up(build: Build, word: str) -> None:
    build.says("finished", Finished(**ref(build.work), kind="build", error="no"))
    assert build.cloud.server(build.server_id)["status"] == "ERROR"
    build.refused(*WORDS[word](build.work))


@pytest.mark.parametrize("word", ["progress", "allocate_networks", "activate"])
def test_nothing_is_obeyed_of_a_host_that_has_given_its_work_back(build: Build, word: str) -> None:
    build.cloud.bus.lost["build_instances"] = 1
    build.says("finished", Finished(**ref(build.work), kind="build", error="no", retry=True))
    build.refused(*WORDS[word](build.work))


def test_given_back_twice_is_given_back_once(build: Build) -> None:
    build.cloud.bus.lost["build_instances"] = 1
    message = Finished(**ref(build.work), kind="build", error="no", retry=True)
    build.says("finished", message)
    build.refused("finished", message)
    assert build.cloud.sql("SELECT failed_builds FROM hosts WHERE host = 'h1'") == [(1,)]


def test_activated_twice_is_activated_once(build: Build) -> None:
    message = Activate(**ref(build.work), steps=[])
    build.says("activate", message)
    before = build.records()
    build.says("activate", message)
    assert build.records() == before
    build.refused("activate", structs.replace(message, host="h2"))
    build.refused("activate", structs.replace(message, epoch=0))


def test_finished_twice_after_the_commit_is_written_once(build: Build) -> None:
    build.says("activate", Activate(**ref(build.work), steps=[]))
    boot = StepRecord(name="wait_for_boot", started_at=1.0, finished_at=2.0, result="Success")
    message = Finished(**ref(build.work), kind="build", steps=[boot], power_state=PowerState.RUNNING)
    build.says("finished", message)
    steps = build.cloud.sql("SELECT * FROM steps")
    build.says("finished", message)
    assert build.cloud.sql("SELECT * FROM steps") == steps
    assert build.cloud.server(build.server_id)["OS-EXT-STS:power_state"] == 1
    build.refused("finished", structs.replace(message, host="h2"))


def test_a_late_end_of_a_build_does_not_touch_what_happened_since(build: Build) -> None:
    """The user has stopped the server; then the build's own end arrives a second time."""
    build.says("activate", Activate(**ref(build.work), steps=[]))
    build.cloud.sql("UPDATE servers SET vm_state = 'stopped', power_state = 4")
    late = Finished(**ref(build.work), kind="build", error="the guest did not start")
    build.says("finished", late)
    server = build.cloud.server(build.server_id)
    assert (server["status"], server["OS-EXT-STS:power_state"]) == ("SHUTOFF", 4)


def test_a_host_cannot_tell_of_the_guests_of_another(build: Build) -> None:
    build.says("activate", Activate(**ref(build.work), steps=[]))
    states = {build.server_id: PowerState.SHUTDOWN}
    build.says("power_states", PowerStates(host="h2", states=states, observed_at=now()))
    assert build.cloud.server(build.server_id)["status"] == "ACTIVE"
    build.says("power_states", PowerStates(host="h1", states=states, observed_at=now()))
    assert build.cloud.server(build.server_id)["status"] == "SHUTOFF"


def test_a_host_learns_nothing_of_the_servers_of_another(build: Build) -> None:
    query = ServerQuery(host="h2", server_id=build.server_id)
    with pytest.raises(NotFound):
        build.says("guest_metadata", query)
    told = build.says("guest_metadata", structs.replace(query, host="h1"))
    assert (told.server_id, told.security_groups) == (build.server_id, ["default"])


def test_a_password_is_in_no_record_once_the_build_has_ended(cloud: Cloud) -> None:
    server_id = cloud.active(adminPass="s3cret-words")
    for table in ("servers", "operations", "steps"):
        assert "s3cret-words" not in str(cloud.sql(f"SELECT * FROM {table}"))
    assert cloud.server(server_id)["status"] == "ACTIVE"


# --- ports that belong to nobody


def test_no_ports_are_made_for_a_server_that_was_deleted_meanwhile(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host is taken for dead and its server is deleted, just before its ports are made."""
    cloud = build.cloud

    def slow(point: str) -> None:
        if point == "build.set_vifs.before":
            cloud.hosts["h1"].vanish()
            cloud.delete(build.server_id)
            cloud.gone(build.server_id)

    monkeypatch.setattr(cloud.faults, "reach", slow)
    with pytest.raises(StaleEpoch):
        build.says("allocate_networks", OperationRef(**ref(build.work)))
    assert cloud.unexplained() == []


def test_a_conductor_that_dies_while_it_ends_a_build_leaves_it_open(cloud: Cloud) -> None:
    """Its ports are free, and it is not ERROR yet: the host tries once more."""
    host = cloud.hosts["h1"]
    host.driver.failures["ensure_disks"] = [BuildAborted("the image is broken")]
    cloud.faults.deadly = "build.deallocate_networks.after"
    server_id = cloud.create(cloud.make_network())
    assert cloud.faults.died.wait(PATIENCE)
    until(lambda: not host.agent._running.busy(server_id), PATIENCE, "the work to end")
    assert cloud.server(server_id)["status"] == "BUILD"
    cloud.leases_run_out()
    cloud.sweep()
    assert cloud.settled(server_id)["status"] == "ACTIVE"
    assert cloud.unexplained() == []
    assert len(host.network.plugged()) == 1


# --- words of an operation of another kind


@pytest.mark.parametrize("error", [None, "no"])
@pytest.mark.parametrize("kind", ["delete", "stop"])
def test_a_build_cannot_end_as_something_else(build: Build, kind: str, error: str | None) -> None:
    with pytest.raises(BadRequest):
        build.says("finished", Finished(**ref(build.work), kind=kind, error=error))
    server = build.cloud.server(build.server_id)
    assert server["status"] == "BUILD"
    assert build.cloud.open_operation(build.server_id).state == "open"


def test_only_a_build_gets_ports_and_is_activated(cloud: Cloud) -> None:
    server_id = cloud.active(cloud.make_network())
    cloud.bus.lost["perform_action"] = 1
    cloud.act(server_id, "os-stop")
    until(lambda: not cloud.bus.lost["perform_action"], PATIENCE, "the loss")
    cloud.bus.lost["perform_action"] = 1
    taken = PerformOperation(operation_id=cloud.open_operation(server_id).id)
    cloud.conductor_hears("perform_action", taken)
    work = cloud.open_operation(server_id)
    words = {"host": "h1", "operation_id": work.id, "epoch": work.epoch}
    with pytest.raises(BadRequest):
        cloud.conductor_hears("allocate_networks", OperationRef(**words))
    with pytest.raises(BadRequest):
        cloud.conductor_hears("activate", Activate(**words, steps=[]))
    assert cloud.open_operation(server_id).epoch == work.epoch
