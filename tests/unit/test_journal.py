"""The journal of one piece of work: what is told and when, what is undone and in which order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
from tests.unit.test_running import work

from kilonova.compute.journal import Journal
from kilonova.compute.parts import Parts
from kilonova.config import Config, Faults
from kilonova.domain.clock import now
from kilonova.domain.errors import BuildFailed, KilonovaError, StaleEpoch, Unavailable
from kilonova.domain.messages import Nothing, Progress, StepRecord
from kilonova.domain.servers import TaskState
from kilonova.engine.faults import FaultPoints


class Conductor:
    """Writes down what it is told; says what the test wants."""

    def __init__(self) -> None:
        self.told: list[Progress] = []
        self.errors: list[Exception] = []

    def call(self, _topic: str, method: str, message: Any, _reply: Any, timeout: float = 60.0) -> Any:
        assert method == "progress"
        self.told.append(message)
        if self.errors:
            raise self.errors.pop(0)
        return Nothing()


@pytest.fixture
def conductor() -> Conductor:
    return Conductor()


@pytest.fixture
def cancel() -> threading.Event:
    return threading.Event()


@pytest.fixture
def journal(conductor: Conductor, cancel: threading.Event) -> Journal:
    parts = Parts(
        host="h1",
        config=Config(),
        bus=cast(Any, conductor),
        driver=cast(Any, None),
        network=cast(Any, None),
        faults=FaultPoints(Faults()),
    )
    from msgspec import structs

    return Journal(parts, structs.replace(work(), deadline=now() + 60), cancel)


def fails(error: Exception) -> Callable[[], None]:
    def undo() -> None:
        raise error

    return undo


def run_and_fail(journal: Journal, name: str, error: Exception, **more: Any) -> None:
    with pytest.raises(type(error)), journal.step(name, **more):
        raise error


def shape(steps: list[StepRecord]) -> list[tuple[str, str | None]]:
    return [(step.name, step.result) for step in steps]


@pytest.fixture(autouse=True)
def lasting_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of the conductor counts for longer than any test takes."""
    monkeypatch.setattr("kilonova.compute.journal._FRESH", 3600.0)


@pytest.fixture
def old_answers(monkeypatch: pytest.MonkeyPatch, lasting_answers: None) -> None:
    """Every answer of the conductor is too old to count at the next step."""
    monkeypatch.setattr("kilonova.compute.journal._FRESH", 0.0)


@pytest.mark.usefixtures("old_answers")
def test_each_boundary_is_told_once(journal: Journal, conductor: Conductor) -> None:
    with journal.step("fetch_image", shows=TaskState.SPAWNING):
        pass
    with journal.step("create_disks"):
        pass
    first, second = conductor.told
    assert (first.host, first.operation_id, first.epoch) == ("h1", "o", 1)
    assert (first.task_state, second.task_state) == (TaskState.SPAWNING, None)
    assert shape(first.steps) == [("fetch_image", None)]
    assert shape(second.steps) == [("fetch_image", "Success"), ("create_disks", None)]
    assert shape(journal.untold()) == [("create_disks", "Success")]
    assert journal.untold() == []


def test_short_steps_are_told_together(journal: Journal, conductor: Conductor) -> None:
    for name in ("fetch_image", "create_disks", "create_domain"):
        with journal.step(name):
            pass
    (only,) = conductor.told
    assert shape(only.steps) == [("fetch_image", None)]
    told = [("fetch_image", "Success"), ("create_disks", "Success"), ("create_domain", "Success")]
    assert shape(journal.untold()) == told


def test_what_the_user_shall_see_is_told_at_once(journal: Journal, conductor: Conductor) -> None:
    with journal.step("allocate_networks"):
        pass
    with journal.step("fetch_image", shows=TaskState.SPAWNING):
        pass
    assert [told.task_state for told in conductor.told] == [None, TaskState.SPAWNING]


def test_a_step_that_takes_long_is_told_while_it_runs(journal: Journal, conductor: Conductor) -> None:
    with journal.step("fetch_image"):
        assert journal.look()
        assert len(conductor.told) == 1  # it knows of it
    with journal.step("create_disks"):
        assert journal.look()
        assert journal.look()
    _, late = conductor.told
    assert shape(late.steps) == [("fetch_image", "Success"), ("create_disks", None)]
    assert shape(journal.untold()) == [("create_disks", "Success")]


def test_who_looks_hears_that_the_work_moved_on(
    journal: Journal, conductor: Conductor, cancel: threading.Event
) -> None:
    with journal.step("fetch_image"):
        pass
    conductor.errors = [StaleEpoch("moved on")]
    with journal.step("create_disks"):
        assert journal.look()
    assert cancel.is_set()


def test_what_could_not_be_told_by_a_look_is_told_by_the_next(journal: Journal, conductor: Conductor) -> None:
    with journal.step("fetch_image"):
        pass
    conductor.errors = [Unavailable("away")]
    with journal.step("create_disks"):
        assert journal.look()
        assert journal.look()
    assert conductor.told[-1] == conductor.told[-2]


def test_closed_there_is_nothing_to_look_at(journal: Journal, conductor: Conductor) -> None:
    with journal.step("fetch_image"):
        pass
    with journal.step("create_disks"):
        journal.close()
        assert not journal.look()
    assert len(conductor.told) == 1


def test_times_do_not_go_backwards(journal: Journal) -> None:
    with journal.step("create_disks"):
        pass
    (step,) = journal.untold()
    assert step.finished_at is not None
    assert step.started_at <= step.finished_at


def test_a_step_that_fails_is_told_with_its_reason_and_where(journal: Journal) -> None:
    run_and_fail(journal, "create_disks", BuildFailed("the disk is full"))
    (step,) = journal.untold()
    assert (step.name, step.result, step.message) == ("create_disks", "Error", "the disk is full")
    assert "BuildFailed: the disk is full" in (step.details or "")
    assert journal.failure(BuildFailed("the disk is full")) == "create_disks failed: the disk is full"
    assert journal.trace == step.details


def test_a_failure_outside_of_every_step_is_told_as_it_is(journal: Journal) -> None:
    assert journal.failure(BuildFailed("no guest")) == "no guest"
    assert journal.trace is None


def test_an_error_of_no_kind_of_ours_is_told_by_its_name(journal: Journal) -> None:
    assert journal.failure(ValueError("secret 7")) == "unexpected ValueError"


def test_a_step_after_the_commit_is_not_told_before_the_end(journal: Journal, conductor: Conductor) -> None:
    with journal.after_commit("wait_for_boot"):
        pass
    assert conductor.told == []
    assert shape(journal.untold()) == [("wait_for_boot", "Success")]


# --- no longer ours


def test_a_step_does_not_begin_when_the_work_was_cut_off(
    journal: Journal, conductor: Conductor, cancel: threading.Event
) -> None:
    cancel.set()
    ran = False
    with pytest.raises(StaleEpoch), journal.step("create_disks"):
        ran = True
    assert not ran
    assert conductor.told == []


def test_a_step_does_not_begin_when_the_conductor_says_it_moved_on(
    journal: Journal, conductor: Conductor
) -> None:
    conductor.errors = [StaleEpoch("moved on")]
    ran = False
    with pytest.raises(StaleEpoch), journal.step("create_disks"):
        ran = True
    assert not ran


def test_what_is_asked_again_is_told_again(journal: Journal, conductor: Conductor) -> None:
    """The answer was lost: the same words, the same times, so that the conductor knows them again."""
    conductor.errors = [Unavailable("no answer")]
    with journal.step("create_disks"):
        pass
    first, second = conductor.told
    assert first.steps == second.steps


@pytest.mark.usefixtures("old_answers")
def test_what_was_not_heard_stays_to_be_told(journal: Journal, conductor: Conductor) -> None:
    with journal.step("create_disks"):
        pass
    conductor.errors = [KilonovaError("it met an unexpected error")]
    with pytest.raises(KilonovaError), journal.step("plug_vifs"):
        pass
    assert ("create_disks", "Success") in shape(journal.untold())


# --- undo


def test_undo_goes_backwards(journal: Journal) -> None:
    order: list[str] = []
    for name in ("create_disks", "plug_vifs", "create_domain"):
        with journal.step(name, undo=lambda name=name: order.append(name)):  # type: ignore[misc]
            pass
    journal.untold()
    assert journal.undo()
    assert order == ["create_domain", "plug_vifs", "create_disks"]
    assert shape(journal.untold()) == [
        ("undo create_domain", "Success"),
        ("undo plug_vifs", "Success"),
        ("undo create_disks", "Success"),
    ]


def test_an_undo_that_fails_does_not_stop_the_others(journal: Journal) -> None:
    order: list[str] = []
    with journal.step("create_disks", undo=lambda: order.append("create_disks")):
        pass
    with journal.step("plug_vifs", undo=fails(OSError("no such device"))):
        pass
    with journal.step("create_domain", undo=lambda: order.append("create_domain")):
        pass
    journal.untold()
    assert not journal.undo()
    assert order == ["create_domain", "create_disks"]
    results = [(step.name, step.result) for step in journal.untold()]
    assert results[1] == ("undo plug_vifs", "Error")


def test_half_a_step_is_undone_too(journal: Journal) -> None:
    undone: list[bool] = []
    run_and_fail(journal, "create_disks", BuildFailed("no"), undo=lambda: undone.append(True))
    assert journal.undo()
    assert undone == [True]


def test_undo_happens_once(journal: Journal) -> None:
    undone: list[bool] = []
    with journal.step("create_disks", undo=lambda: undone.append(True)):
        pass
    journal.undo()
    assert journal.undo()
    assert undone == [True]


def test_an_undo_that_fails_is_not_the_failure_of_the_work(journal: Journal) -> None:
    run_and_fail(journal, "create_disks", BuildFailed("full"), undo=fails(BuildFailed("libvirt is away")))
    journal.undo()
    assert journal.failure(BuildFailed("full")) == "create_disks failed: full"
