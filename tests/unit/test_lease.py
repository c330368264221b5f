"""Who may act on an operation, and how it changes hands."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.domain.clock import now
from kilonova.domain.errors import StaleEpoch
from kilonova.domain.messages import StepRecord
from kilonova.engine import lease
from kilonova.store import operations
from kilonova.store.database import Database, Row


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'k.db'}")
    database.create()
    yield database
    database.close()


def add(db: Database, **more: Any) -> str:
    """An open operation that nobody owns: its id."""
    row = {
        "id": str(uuid.uuid4()),
        "kind": "build",
        "record": "create",
        "server_id": str(uuid.uuid4()),
        "project_id": "p",
        "user_id": "u",
        "request_id": "r",
        "state": operations.OPEN,
        "owner": None,
        "lease_until": 0.0,
        "epoch": 0,
        "attempt": 0,
        "host": None,
        "tried_hosts": [],
        "alternates": [],
        "payload": {"admin_password": "secret"},
        "deadline": now() + 60,
        "created_at": now(),
        "updated_at": now(),
    }
    with db.write() as conn:
        operations.insert(conn, [row | more])
    return str(row["id"])


def got(db: Database, operation_id: str) -> Row:
    with db.read() as conn:
        row = operations.get(conn, operation_id)
    assert row is not None
    return row


def take(db: Database, operation_id: str, owner: str = "c1", seconds: float = 30) -> Row:
    row = lease.take(db, operation_id, owner, seconds)
    assert row is not None
    return row


def test_only_one_takes_it(db: Database) -> None:
    operation = add(db)
    assert take(db, operation, "c1").epoch == 1
    assert lease.take(db, operation, "c2", 30) is None
    assert lease.take(db, operation, "c1", 30) is None


def test_the_next_owner_has_a_higher_epoch(db: Database) -> None:
    operation = add(db)
    first = take(db, operation, "c1", seconds=-1)
    second = take(db, operation, "c2")
    assert (first.epoch, second.epoch) == (1, 2)
    with db.write() as conn, pytest.raises(StaleEpoch):
        lease.kept(conn, first, message="too late")
    assert got(db, operation).message is None
    with db.write() as conn:
        lease.kept(conn, second, message="in time")
    assert got(db, operation).message == "in time"


def test_an_epoch_that_was_given_twice_is_the_last_owners(db: Database) -> None:
    """A database that crashed has forgotten the first taking, which was not synced to its disk yet."""
    operation = add(db)
    forgotten = take(db, operation, "c1")
    with db.write() as conn:
        conn.exec_driver_sql("UPDATE operations SET epoch = 0, owner = NULL, lease_until = 0")
    again = take(db, operation, "c2")
    assert again.epoch == forgotten.epoch
    with db.write() as conn, pytest.raises(StaleEpoch):
        lease.hand_to_host(conn, forgotten, "h1", 30)
    with db.write() as conn:
        assert lease.hand_to_host(conn, again, "h2", 30).host == "h2"


def test_an_owner_may_act_after_its_lease_until_another_took_it(db: Database) -> None:
    """The epoch keeps owners apart, not the clock."""
    operation = add(db)
    work = take(db, operation, seconds=-1)
    with db.write() as conn:
        lease.kept(conn, work, message="slow but alone")
    assert got(db, operation).message == "slow but alone"


def test_the_host_that_gets_it_owns_it_in_the_same_epoch(db: Database) -> None:
    operation = add(db)
    work = take(db, operation)
    with db.write() as conn:
        handed = lease.hand_to_host(conn, work, "h1", 30, attempt=1)
    assert (handed.owner, handed.host, handed.epoch) == ("compute.h1", "h1", 1)
    assert got(db, operation).attempt == 1


def test_given_back_it_can_be_taken_at_once(db: Database) -> None:
    operation = add(db)
    with db.write() as conn:
        lease.give_back(conn, take(db, operation), message="no room")
    again = take(db, operation, "c2")
    assert (again.epoch, again.message) == (2, "no room")


def test_postponed_it_rests_for_a_moment(db: Database) -> None:
    operation = add(db)
    with db.write() as conn:
        lease.postpone(conn, take(db, operation), "the scheduler is away")
    row = got(db, operation)
    assert row.owner is None
    assert now() < row.lease_until <= now() + lease.PAUSE
    assert lease.take(db, operation, "c2", 30) is None


@pytest.mark.parametrize("state", [operations.DONE, operations.FAILED])
def test_what_has_ended_is_nobodys_and_has_no_secrets(db: Database, state: str) -> None:
    operation = add(db)
    work = take(db, operation)
    with db.write() as conn:
        lease.close(conn, work, state, "the end")
    row = got(db, operation)
    assert (row.state, row.payload, row.message) == (state, {}, "the end")
    assert row.finished_at is not None
    assert lease.take(db, operation, "c2", 30) is None
    with db.write() as conn, pytest.raises(StaleEpoch):
        lease.kept(conn, work)


def test_what_is_done_has_no_step_without_an_end(db: Database) -> None:
    """The host told of the end, and the database crashed before that was on its disk."""
    operation = add(db)
    work = take(db, operation)
    with db.write() as conn:
        operations.put_steps(conn, operation, work.epoch, "h1", [StepRecord(name="destroy", started_at=1.0)])
    with db.write() as conn:
        lease.close(conn, work, operations.DONE)
    with db.read() as conn:
        (step,) = operations.steps_of(conn, [operation])
    assert step.result == "Success"
    assert step.finished_at is not None


def test_a_refused_owner_changes_nothing_of_its_transaction(db: Database) -> None:
    operation, other = add(db), add(db)
    stale = take(db, operation, seconds=-1)
    take(db, operation, "c2")

    def writes_two() -> None:
        with db.write() as conn:
            lease.kept(conn, take(db, other), message="written first")
            lease.kept(conn, stale)

    with pytest.raises(StaleEpoch):
        writes_two()
    assert got(db, other).message is None


def test_superseding_ends_what_is_open_and_its_steps(db: Database) -> None:
    operation = add(db)
    work = take(db, operation)
    with db.write() as conn:
        operations.put_steps(
            conn, work.id, work.epoch, "h1", [StepRecord(name="create_disks", started_at=1.0)]
        )
        assert operations.supersede(conn, work.server_id, "being deleted")
        assert not operations.supersede(conn, work.server_id, "twice")
        (step,) = operations.steps_of(conn, [operation])
    assert (step.result, step.message) == ("Error", "being deleted")
    assert step.finished_at is not None
    row = got(db, operation)
    assert (row.state, row.payload) == (operations.SUPERSEDED, {})


def test_a_new_owner_ends_the_steps_that_were_cut_off(db: Database) -> None:
    operation = add(db)
    work = take(db, operation, seconds=-1)
    with db.write() as conn:
        operations.put_steps(
            conn, work.id, work.epoch, "h1", [StepRecord(name="create_disks", started_at=1.0)]
        )
    take(db, operation, "c2")
    with db.read() as conn:
        (step,) = operations.steps_of(conn, [operation])
    assert step.result == "Error"
    assert step.message.startswith("cut off")


# --- renewals


def test_a_renewal_keeps_only_what_the_host_holds_in_that_epoch(db: Database) -> None:
    mine, others, newer, done = add(db), add(db), add(db), add(db)
    for operation in (mine, newer, done):
        with db.write() as conn:
            lease.hand_to_host(conn, take(db, operation), "h1", 30)
    with db.write() as conn:
        lease.hand_to_host(conn, take(db, others), "h2", 30)
        operations.expire_lease(conn, newer)
        lease.hand_to_host(conn, take(db, newer, "c2"), "h1", 30)
        lease.close(conn, got(db, done), operations.DONE)
        before = got(db, newer).lease_until
        held = dict.fromkeys([mine, others, newer, done, str(uuid.uuid4())], 1)
        kept = operations.renew(conn, held, operations.agent("h1"), now() + 1000)
    assert kept == {mine}
    assert got(db, mine).lease_until > now() + 900
    assert got(db, newer).lease_until == before, "another epoch's heartbeat keeps nothing alive"
    with db.write() as conn:
        assert operations.renew(conn, {}, operations.agent("h1"), 0) == set()


def test_an_agent_that_begins_frees_what_it_had_and_nothing_else(db: Database) -> None:
    mine, working, others = add(db), add(db), add(db)
    for operation, host in ((mine, "h1"), (working, "h1"), (others, "h2")):
        with db.write() as conn:
            lease.hand_to_host(conn, take(db, operation), host, 30)
    with db.write() as conn:
        assert operations.expire_leases(conn, "h1", but=[working]) == [mine]
    assert take(db, mine, "c2").epoch == 2
    assert lease.take(db, working, "c2", 30) is None
    assert lease.take(db, others, "c2", 30) is None


def test_who_is_overdue_is_found_though_its_lease_is_kept(db: Database) -> None:
    late, busy = add(db, deadline=now() - 1), add(db)
    idle = add(db)
    take(db, late)
    take(db, busy)
    with db.read() as conn:
        assert {row.id for row in operations.overdue(conn)} == {late}
        assert {row.id for row in operations.expired(conn)} == {idle}


def test_what_was_accepted_a_moment_ago_may_wait_in_the_queue(db: Database) -> None:
    """A thousand of those, whose leases count as the oldest, do not keep the lost ones from being found."""
    young, lost, given_back = add(db), add(db, created_at=now() - 6), add(db)
    with db.write() as conn:
        lease.give_back(conn, take(db, given_back))
        assert {row.id for row in operations.expired(conn, young=5.0)} == {lost, given_back}
        assert {row.id for row in operations.expired(conn, young=0.0)} == {young, lost, given_back}


def test_a_server_has_one_open_operation(db: Database) -> None:
    from sqlite3 import IntegrityError

    server = str(uuid.uuid4())
    first = add(db, server_id=server)
    with pytest.raises(IntegrityError):
        add(db, server_id=server)
    with db.write() as conn:
        lease.close(conn, take(db, first), operations.DONE)
    add(db, server_id=server)


# --- the journal


def test_steps_told_twice_are_written_once(db: Database) -> None:
    operation = add(db)
    begun = StepRecord(name="create_disks", started_at=1.0)
    ended = StepRecord(name="create_disks", started_at=1.0, finished_at=2.0, result="Success")
    whole = StepRecord(name="undo create_disks", started_at=3.0, finished_at=4.0, result="Success")
    for told in ([begun], [begun], [ended, whole], [ended, whole]):
        with db.write() as conn:
            operations.put_steps(conn, operation, 1, "h1", told)
    with db.read() as conn:
        steps = operations.steps_of(conn, [operation])
    assert [(step.name, step.finished_at) for step in steps] == [
        ("create_disks", 2.0),
        ("undo create_disks", 4.0),
    ]


def test_the_end_of_a_step_does_not_touch_another_epochs(db: Database) -> None:
    operation = add(db)
    with db.write() as conn:
        for epoch in (1, 2):
            begun = StepRecord(name="create_disks", started_at=float(epoch))
            operations.put_steps(conn, operation, epoch, "h1", [begun])
        ended = StepRecord(name="create_disks", started_at=2.0, finished_at=5.0, result="Error")
        operations.put_steps(conn, operation, 2, "h1", [ended])
        steps = operations.steps_of(conn, [operation])
    assert [step.finished_at for step in steps] == [None, 5.0]


def test_when_a_host_last_did_something_to_a_server(db: Database) -> None:
    server = str(uuid.uuid4())
    operation = add(db, server_id=server)
    with db.write() as conn:
        assert operations.last_step_end(conn, server, "h1") == 0.0
        for host, end in (("h1", 7.0), ("h2", 9.0), ("h1", 3.0)):
            step = StepRecord(name="stop", started_at=end - 1, finished_at=end, result="Success")
            operations.put_steps(conn, operation, 1, host, [step])
        assert operations.last_step_end(conn, server, "h1") == 7.0
