"""A volume manager's operations: cut off, taken up again, overtaken, late."""

from __future__ import annotations

import io
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.running import until
from tests.volume_store import MemoryBackend, Volumes

from kilonova.cancel import Cancel
from kilonova.conductor import sweeper
from kilonova.conductor import volumes as conductor_volumes
from kilonova.conductor.parts import Parts as ConductorParts
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Conflict, NotFound, StaleEpoch, Unavailable
from kilonova.domain.images import ImageStatus
from kilonova.domain.messages import Connected, ConnectVolume, PerformOperation
from kilonova.domain.volumes import Connector
from kilonova.engine import lease
from kilonova.store import images, operations, purge, volume_backends, volume_snapshots, volumes
from kilonova.store.database import Database, Row
from kilonova.store.schema.operations import operations as operations_table
from kilonova.store.schema.volumes import volume_messages
from kilonova.volume.base import Backend, NewVolume
from kilonova.volume.builtin import volumes as rules
from kilonova.volume_manager import kinds
from kilonova.volume_manager.running import Running
from kilonova.volume_manager.service import Manager
from kilonova.volume_manager.task import Task

ALICE = RequestContext(request_id="r", user_id="u", project_id="alice", roles=frozenset({"member"}))


@pytest.fixture
def cloud(new_database: Callable[[], Database], tmp_path: Path) -> Iterator[Volumes]:
    made = Volumes(new_database(), tmp_path / "images").start()
    yield made
    made.close()


def begin(cloud: Volumes) -> str:
    wanted = NewVolume(id=str(uuid.uuid4()), size_gb=1)
    cloud.service.create(ALICE, [wanted])
    return wanted.id


def volume(cloud: Volumes, volume_id: str) -> Row:
    with cloud.db.read() as conn:
        found = volumes.get(conn, volume_id)
    assert found is not None
    return found


def operation(cloud: Volumes, volume_id: str) -> Row:
    with cloud.db.read() as conn:
        found = operations.open_of_server(conn, volume_id)
    assert found is not None
    return found


def available(cloud: Volumes, volume_id: str) -> None:
    until(lambda: volume(cloud, volume_id).status == "available", 60, "a volume that is there")


def test_who_starts_takes_up_what_the_one_before_left(cloud: Volumes) -> None:
    cloud.backend.hold = "ensure_volume"
    made = begin(cloud)
    assert cloud.backend.held.wait(30)
    assert cloud.manager is not None
    cloud.manager.close()
    assert volume(cloud, made).status == "creating"
    assert operation(cloud, made).owner == cloud.parts.owner
    cloud.backend.hold = ""
    cloud.manager = Manager(cloud.parts)
    cloud.manager.start()
    available(cloud, made)
    assert cloud.backend.made == {made: (1, "zeros")}


def test_what_is_past_its_deadline_ends_in_error_and_leaves_nothing(cloud: Volumes) -> None:
    cloud.backend.hold = "ensure_volume"
    made = begin(cloud)
    assert cloud.backend.held.wait(30)
    cloud.backend.made[made] = (1, "half")
    with cloud.db.write() as conn:
        operations.expire_lease(conn, operation(cloud, made).id)
    work = lease.take(cloud.db, operation(cloud, made).id, "conductor", 30.0)
    assert work is not None
    parts = cast(ConductorParts, cloud.parts)  # it has the database, which is all that is asked for
    conductor_volumes.end_in_error(parts, work, "It did not end.")
    shown = volume(cloud, made)
    assert (shown.status, shown.message) == ("error", "It did not end.")
    assert cloud.manager is not None
    cloud.manager._running.renew(cloud.db, cloud.parts.owner, 30.0)
    until(lambda: not cloud.backend.made, 60, "nothing left")
    assert volume(cloud, made).status == "error"
    with cloud.db.read() as conn:
        told = conn.execute(volume_messages.select()).all()
    assert [one.text for one in told] == ["It did not end."]


def test_a_store_that_is_away_is_waited_for(cloud: Volumes) -> None:
    cloud.backend.away = True
    made = begin(cloud)
    until(lambda: operation(cloud, made).message, 60, "an operation that says why it waits")
    assert operation(cloud, made).message == "the store does not answer"
    assert operation(cloud, made).owner is None
    cloud.backend.away = False
    with cloud.db.write() as conn:
        operations.expire_lease(conn, operation(cloud, made).id)
    message = PerformOperation(operation_id=operation(cloud, made).id)
    cloud.bus.cast("volume.box", "perform", message)
    cloud.bus.cast("volume.box", "perform", message)
    available(cloud, made)


def test_the_sweeper_gives_them_to_their_managers(cloud: Volumes) -> None:
    cloud.backend.away = True
    made = begin(cloud)
    until(lambda: operation(cloud, made).message, 60, "an operation that waits")
    told: list[tuple[Any, ...]] = []

    class Bus:
        def cast(self, *said: Any) -> None:
            told.append(said)

    class Parts:
        bus = Bus()

    work = operation(cloud, made)
    sweeper._give_again(cast(ConductorParts, Parts()), work)
    assert told == [("volume.box", "perform", PerformOperation(operation_id=work.id))]


def test_a_state_that_nothing_explains_is_repaired(cloud: Volumes) -> None:
    made = begin(cloud)
    available(cloud, made)
    with cloud.db.write() as conn:
        volumes.change(conn, made, status="extending", new_size=5, updated_at=1.0)
    conductor_volumes.repair(cast(ConductorParts, cloud.parts), 2.0)
    shown = volume(cloud, made)
    assert (shown.status, shown.new_size) == ("error", None)
    conductor_volumes.repair(cast(ConductorParts, cloud.parts), 2.0)


def test_another_managers_work_is_left_alone(cloud: Volumes) -> None:
    made = begin(cloud)
    available(cloud, made)
    with cloud.db.write() as conn:
        volumes.change(conn, made, host="other@memory#memory")
        rules.delete(conn, cloud.service.parts, ALICE, made)
    work = operation(cloud, made)
    cloud.bus.cast("volume.box", "perform", PerformOperation(operation_id=work.id))
    other = cloud.parts_of("other", {"memory": cloud.backend})
    manager = Manager(other)
    manager.start()
    try:
        until(lambda: made in cloud.service.ready([made]).failed, 60, "a volume that is gone")
    finally:
        manager.close()


def test_what_a_manager_does_not_know_any_more_takes_no_new_volume(cloud: Volumes) -> None:
    """It was reported a moment ago, by the manager that had the configuration before."""
    assert cloud.manager is not None
    with cloud.db.write() as conn:
        (mine,) = volume_backends.every(conn)
        for host in ("box@old", "box2@another"):
            more = {"host": host, "pool": "p", "volume_backend_name": "b"}
            row = {
                name: getattr(mine, name) for name in ("driver", "availability_zone", "multiattach", "shared")
            }
            volume_backends.report(conn, {**row, **more, "total_gb": None, "free_gb": None, "problem": None})
    cloud.manager.close()
    cloud.start()
    with cloud.db.read() as conn:
        up = {one.host for one in volume_backends.every(conn) if one.reported_at > 0}
    assert up == {mine.host, "box2@another"}


def test_ended_operations_are_forgotten_in_time(cloud: Volumes) -> None:
    made = begin(cloud)
    available(cloud, made)
    assert purge.forget_volume_work(cloud.db, 1.0) == 0
    assert purge.forget_volume_work(cloud.db, now() + 1) == 1
    assert purge.forget_volume_work(cloud.db, now() + 1) == 0
    assert volume(cloud, made).status == "available"


def test_a_host_that_lost_its_volume_gets_no_way_there_however_late(cloud: Volumes) -> None:
    """Its conductor was slow to ask: the attachment is gone by then, and nobody would take the way away."""
    made = begin(cloud)
    available(cloud, made)
    request = ConnectVolume(volume_id=made, host=volume(cloud, made).host, connector=Connector(host="h1"))
    with pytest.raises(NotFound, match="no attachment"):
        cloud.bus.call("volume.box", "connect", request, Connected)
    assert cloud.backend.ways == set()


def test_a_host_that_lost_a_volume_to_another_has_no_way_there(cloud: Volumes) -> None:
    """As when a build goes elsewhere."""
    made, attachment = begin(cloud), str(uuid.uuid4())
    available(cloud, made)
    cloud.service.reserve(ALICE, made, str(uuid.uuid4()), attachment)
    for host in ("h1", "h2", "h2", "h1"):
        cloud.service.connect(attachment, Connector(host=host))
        until(lambda host=host: cloud.backend.ways == {(made, host)}, 60, "one way")
    cloud.service.release(attachment)
    until(lambda: cloud.backend.ways == set(), 60, "no way")


def test_who_starts_tells_what_the_one_before_did_not(cloud: Volumes) -> None:
    """It died when a volume had grown: the guest that has it must see that."""
    made = begin(cloud)
    available(cloud, made)
    with cloud.db.write() as conn:
        rules.extend(conn, cloud.service.parts, ALICE, made, 2, online=False)
    until(lambda: volume(cloud, made).size == 2, 60, "a larger volume")
    assert cloud.manager is not None
    cloud.manager.close()
    cloud.told.clear()
    cloud.manager = Manager(cloud.parts)
    cloud.manager.start()
    assert [(one.id, one.kind) for one in cloud.told] == [(made, "volume_extend")]


@pytest.mark.parametrize(("status", "ends"), [("creating", "error"), ("deleting", "error_deleting")])
def test_a_snapshot_that_nothing_explains_is_repaired(cloud: Volumes, status: str, ends: str) -> None:
    made, snapshot = begin(cloud), str(uuid.uuid4())
    available(cloud, made)
    cloud.service.create_snapshot(ALICE, made, snapshot, "s")
    until(lambda: not cloud.service.snapshots_ready([snapshot]).pending, 60, "a snapshot")
    with cloud.db.write() as conn:
        volume_snapshots.change(conn, snapshot, status=status, updated_at=1.0)
    conductor_volumes.repair(cast(ConductorParts, cloud.parts), 2.0)
    with cloud.db.read() as conn:
        shown = volume_snapshots.get(conn, snapshot)
    assert shown is not None
    assert shown.status == ends
    assert "no operation explains" in shown.message


class Waiting(threading.Thread):
    """Something that begins, and goes on until it is told that it moved on. ``entered``: its turn came."""

    def __init__(self, running: Running, work_id: str, of: str = "volume") -> None:
        super().__init__(daemon=True)
        self._running = running
        self._work: Any = SimpleNamespace(id=work_id, epoch=1, server_id=of)
        self.entered, self.leaves = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with suppress(StaleEpoch), self._running.begin(self._work):
            self.entered.set()
            assert self.leaves.wait(30)


def test_of_those_that_wait_for_a_volume_the_newest_stays() -> None:
    """Each of them has a thread of the manager's."""
    running = Running()
    first = Waiting(running, "first")
    assert first.entered.wait(30)
    second = Waiting(running, "second")
    until(lambda: running.known() == {"first", "second"}, 60, "who waits")
    third = Waiting(running, "third")
    second.join(30)
    assert not second.is_alive()
    assert not second.entered.is_set()
    assert running.known() == {"first", "third"}
    first.leaves.set()
    assert third.entered.wait(30)
    third.leaves.set()
    third.join(30)
    assert running.known() == set()


def test_who_waits_for_a_volume_keeps_its_operation(cloud: Volumes) -> None:
    """Else it would be given to this manager again and again, and each time would take one more thread."""
    made = begin(cloud)
    available(cloud, made)
    assert cloud.manager is not None
    running = cloud.manager._running
    first = Waiting(running, "first", made)
    assert first.entered.wait(30)
    with cloud.db.write() as conn:
        rules.delete(conn, cloud.service.parts, ALICE, made)
    deleting = operation(cloud, made).id
    until(lambda: deleting in running.known(), 60, "who waits")
    with cloud.db.write() as conn:
        conn.execute(operations_table.update().values(lease_until=1.0))
    running.renew(cloud.db, cloud.parts.owner, 30.0)
    assert operation(cloud, made).lease_until > now()
    first.leaves.set()
    until(lambda: made in cloud.service.ready([made]).failed, 60, "a volume that is gone")


def test_an_upload_that_was_cut_off_is_tried_again_when_its_store_lets_go_of_it(
    cloud: Volumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ceph keeps what a killed process wrote for half a minute."""
    image = cloud.images.create(ALICE, {"name": "i", "disk_format": "raw", "container_format": "bare"})
    with cloud.db.write() as conn:
        images.change_status(conn, image.id, [ImageStatus.QUEUED], ImageStatus.SAVING)

    def kept(_image_id: str) -> None:
        raise Conflict("somebody has it open")

    with monkeypatch.context() as patch:
        patch.setattr(cloud.images.stores, "delete", kept)
        with pytest.raises(Unavailable):
            cloud.parts.uploads.upload(image.id, io.BytesIO(b"x" * 4096), 4096, Cancel())
    cloud.parts.uploads.upload(image.id, io.BytesIO(b"x" * 4096), 4096, Cancel())
    assert cloud.images.show(ALICE, image.id).status == "active"


def test_who_wakes_late_removes_nothing_that_another_has_made(cloud: Volumes) -> None:
    """The volume is in an error of later: what is in it is somebody's."""
    made = begin(cloud)
    available(cloud, made)
    with cloud.db.write() as conn:
        work = conn.execute(operations_table.select().where(operations_table.c.server_id == made)).one()
        volumes.change(conn, made, status="error", message="a revert failed")
    late = Task(cloud.parts, work, cast(Backend, cloud.backend), Cancel())
    assert not kinds.is_nobodys(late)
    with cloud.db.write() as conn:
        conn.execute(operations_table.update().where(operations_table.c.id == work.id).values(state="failed"))
    assert kinds.is_nobodys(late)


def test_a_backend_that_hangs_does_not_hold_up_the_others_words(cloud: Volumes) -> None:
    slow = MemoryBackend()
    hangs, goes_on = threading.Event(), threading.Event()

    def check() -> None:
        hangs.set()
        assert goes_on.wait(30)

    slow.check = check  # type: ignore[method-assign]
    parts = cloud.parts_of("two", {"a-slow": slow, "quick": MemoryBackend()})
    starting = threading.Thread(target=Manager(parts).report)
    starting.start()
    try:
        assert hangs.wait(30)
        until(lambda: _hosts(cloud) == {"box@memory", "two@quick"}, 60, "the quick one's word")
    finally:
        goes_on.set()
        starting.join()
    assert "two@a-slow" in _hosts(cloud)


def _hosts(cloud: Volumes) -> set[str]:
    with cloud.db.read() as conn:
        return {row.host for row in volume_backends.every(conn)}
