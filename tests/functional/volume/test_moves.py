"""Volumes on their way to another backend: by a new type, by an admin. None is lost, nothing is left."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.functional.volume.conftest import ALICE, Caller
from tests.running import until
from tests.volume_store import MemoryBackend, Volumes

from kilonova.conductor import volumes as conductor_volumes
from kilonova.domain.messages import PerformOperation
from kilonova.domain.volumes import VolumeWork
from kilonova.store import operations, orphans, volumes
from kilonova.store.schema.operations import operations as operations_table
from kilonova.volume.builtin import copies
from kilonova.volume_manager.service import Manager


class Two:
    """A manager with two backends, and a type for each: ``plain`` and ``fast``."""

    def __init__(self, cloud: Volumes, admin: Caller) -> None:
        self.cloud = cloud
        self.plain, self.fast = cloud.backend, MemoryBackend(free=500.0)
        self.start({"memory": self.plain, "fast": self.fast})
        for name, backend in (("plain", "memory"), ("fast", "fast")):
            specs = {"volume_backend_name": backend}
            admin.done("POST", "/types", {"volume_type": {"name": name, "extra_specs": specs}}, 200)

    def start(self, backends: dict[str, MemoryBackend]) -> None:
        assert self.cloud.manager is not None
        self.cloud.manager.close()
        self.cloud.parts = self.cloud.parts_of("box", backends)
        self.cloud.manager = Manager(self.cloud.parts)
        self.cloud.manager.start()

    def volume(self, alice: Caller, **said: Any) -> str:
        made = alice.create(volume_type="plain", **said)
        self.plain.made[made] = (self.plain.made[made][0], "data")
        return made

    def cleared(self) -> None:
        """Nothing waits to be cleared away."""
        until(lambda: self.clearing() == 0, 60, "all to be cleared away")

    def clearing(self) -> int:
        query = operations_table.select().where(
            operations_table.c.kind == VolumeWork.CLEAR, operations_table.c.state == operations.OPEN
        )
        with self.cloud.db.read() as conn:
            return len(conn.execute(query).all())


@pytest.fixture
def two(cloud: Volumes, admin: Caller) -> Two:
    return Two(cloud, admin)


def fast(alice: Caller, volume: str, **said: Any) -> None:
    alice.act(f"/volumes/{volume}", "os-retype", new_type="fast", migration_policy="on-demand", **said)


def test_a_new_type_takes_the_volume_to_its_backend(alice: Caller, admin: Caller, two: Two) -> None:
    volume = two.volume(alice, size=2)
    fast(alice, volume)
    alice.settled(volume, "available")
    shown = admin.volume(volume)
    assert (shown["volume_type"], shown["os-vol-host-attr:host"]) == ("fast", "box@fast#fast")
    assert shown["migration_status"] == shown["os-vol-mig-status-attr:migstat"] == "success"
    assert two.fast.made == {volume: (2, "data")}
    two.cleared()
    assert two.plain.made == {}
    alice.done("DELETE", f"/volumes/{volume}")
    alice.gone(f"/volumes/{volume}")
    assert two.fast.made == {}


def test_a_spec_may_have_its_scope(alice: Caller, admin: Caller, two: Two) -> None:
    """Cinder's ``capabilities:``."""
    specs = {"capabilities:volume_backend_name": "fast"}
    admin.done("POST", "/types", {"volume_type": {"name": "scoped", "extra_specs": specs}}, 200)
    made = alice.create(volume_type="scoped")
    assert set(two.fast.made) == {made}


def test_it_is_not_copied_unless_that_is_asked_for(alice: Caller, two: Two) -> None:
    volume = two.volume(alice)
    for said in ({}, {"migration_policy": "never"}):
        action = {"os-retype": {"new_type": "fast", **said}}
        status, why = alice.refused("POST", f"/volumes/{volume}/action", action)
        assert (status, why.startswith("No valid backend was found. Current host not valid")) == (400, True)
    action = {"os-retype": {"new_type": "fast", "migration_policy": "perhaps"}}
    assert alice.refused("POST", f"/volumes/{volume}/action", action)[0] == 400
    assert alice.volume(volume)["status"] == "available"


def test_what_cannot_be_copied_now(alice: Caller, admin: Caller, two: Two, cloud: Volumes) -> None:
    snapshotted, used, read = two.volume(alice), two.volume(alice), two.volume(alice)
    alice.snapshot(snapshotted)
    attachment = {"volume_uuid": used, "instance_uuid": "3bdd1b0c-6f8a-4a25-93f5-7a8a1a7b6a01"}
    connector = {"host": "h", "ip": "10.0.0.1", "initiator": "iqn.1993-08.org.debian:01:x"}
    body = {"attachment": attachment | {"connector": connector}}
    held = alice.done("POST", "/attachments", body, 200)["attachment"]["id"]
    alice.done("POST", f"/attachments/{held}/action", {"os-complete": {}}, 204)
    two.plain.hold = "ensure_volume"
    alice.done("POST", "/volumes", {"volume": {"size": 1, "source_volid": read}})
    asked = {"os-retype": {"new_type": "fast", "migration_policy": "on-demand"}}
    for volume in (snapshotted, used, read):
        path = f"/volumes/{volume}/action"
        status, why = alice.refused("POST", path, asked)
        assert (status, why.startswith("Invalid volume: Volume ")) == (400, True)
        assert admin.refused("POST", path, {"os-migrate_volume": {"host": "box@fast#fast"}})[0] == 400
    assert "in-use" in alice.refused("POST", f"/volumes/{used}/action", asked)[1]
    two.plain.go.set()
    assert two.fast.made == {}


def test_where_no_backend_takes_it_it_stays(alice: Caller, admin: Caller, two: Two) -> None:
    """None has room; or the only one is another manager's, which cannot read it."""
    other = MemoryBackend()
    manager = Manager(two.cloud.parts_of("elsewhere", {"far": other}))
    manager.start()
    try:
        specs = {"volume_backend_name": "far"}
        admin.done("POST", "/types", {"volume_type": {"name": "far", "extra_specs": specs}}, 200)
        volume = two.volume(alice, size=3)
        two.fast.free = 2.0
        assert two.cloud.manager is not None
        two.cloud.manager.report()
        for name in ("far", "fast"):
            action = {"os-retype": {"new_type": name, "migration_policy": "on-demand"}}
            status, why = alice.refused("POST", f"/volumes/{volume}/action", action)
            assert (status, why.startswith("No valid backend was found.")) == (400, True)
        refused = admin.refused(
            "POST", f"/volumes/{volume}/action", {"os-migrate_volume": {"host": "elsewhere@far#far"}}
        )
        assert (refused[0], "No valid backend" in refused[1]) == (400, True)
    finally:
        manager.close()


def test_on_its_way_it_counts_in_both_types_and_on_both_backends(
    alice: Caller, admin: Caller, two: Two
) -> None:
    volume = two.volume(alice, size=2)
    quota = f"/os-quota-sets/{ALICE}"
    admin.done("PUT", quota, {"quota_set": {"gigabytes_fast": 1}}, 200)
    action = {"os-retype": {"new_type": "fast", "migration_policy": "on-demand"}}
    status, why = alice.refused("POST", f"/volumes/{volume}/action", action)
    assert (status, "gigabytes_fast" in why) == (413, True)
    admin.done("PUT", quota, {"quota_set": {"gigabytes_fast": 2}}, 200)
    two.fast.hold = "take_over"
    fast(alice, volume)
    assert two.fast.held.wait(30)
    used = alice.get(quota, usage="true")["quota_set"]
    assert [used[name]["in_use"] for name in ("gigabytes", "gigabytes_plain", "gigabytes_fast")] == [2, 2, 2]
    assert alice.refused("POST", "/volumes", {"volume": {"size": 1, "volume_type": "fast"}})[0] == 413
    pools = admin.get("/scheduler-stats/get_pools", detail="true")["pools"]
    assert {one["name"]: one["capabilities"]["allocated_capacity_gb"] for one in pools} == {
        "box@memory#memory": 2,
        "box@fast#fast": 2,
    }
    assert admin.refused("DELETE", f"/types/{_type(admin, 'fast')}")[0] == 400
    shown = alice.volume(volume)
    assert (shown["status"], shown["migration_status"], shown["volume_type"]) == (
        "retyping",
        "migrating",
        "plain",
    )
    two.fast.go.set()
    alice.settled(volume, "available")
    used = alice.get(quota, usage="true")["quota_set"]
    assert [used[name]["in_use"] for name in ("gigabytes", "gigabytes_plain", "gigabytes_fast")] == [2, 0, 2]


def _type(admin: Caller, name: str) -> str:
    return next(one["id"] for one in admin.get("/types")["volume_types"] if one["name"] == name)


def test_a_copy_that_fails_leaves_the_volume_as_it_was(alice: Caller, two: Two) -> None:
    volume = two.volume(alice)
    two.fast.made[volume] = (1, "what an older move left")
    two.fast.refuses = "take_over"
    fast(alice, volume)
    alice.settled(volume, "available")
    shown = alice.volume(volume)
    assert (shown["volume_type"], shown["migration_status"]) == ("plain", "error")
    (told,) = alice.get("/messages")["messages"]
    assert "take_over: no" in told["user_message"]
    two.cleared()
    assert (two.plain.made, two.fast.made) == ({volume: (1, "data")}, {})
    two.fast.refuses = ""
    fast(alice, volume)
    alice.settled(volume, "available")
    assert two.fast.made == {volume: (1, "data")}


def test_what_an_older_move_left_is_never_taken_for_the_volume(alice: Caller, two: Two) -> None:
    volume = two.volume(alice)
    two.fast.made[volume] = (1, "what an older move left")
    fast(alice, volume)
    alice.settled(volume, "available")
    assert two.fast.made == {volume: (1, "data")}


def test_it_does_not_go_where_something_of_it_waits_to_be_cleared_away(
    alice: Caller, admin: Caller, two: Two
) -> None:
    """What clears it away would take the volume itself."""
    volume, take_over = two.volume(alice), two.fast.take_over

    def then_away(*asked: Any) -> None:
        take_over(*asked)
        two.plain.away = True

    two.fast.take_over = then_away  # type: ignore[method-assign]
    fast(alice, volume)
    alice.settled(volume, "available")
    assert two.clearing() == 1
    path = f"/volumes/{volume}/action"
    back = {"os-retype": {"new_type": "plain", "migration_policy": "on-demand"}}
    for caller, said in ((alice, back), (admin, {"os-migrate_volume": {"host": "box@memory"}})):
        status, why = caller.refused("POST", path, said)
        assert (status, why.startswith("No valid backend was found")) == (400, True)
    two.plain.away = False
    with two.cloud.db.write() as conn:
        operations.expire_leases(conn)
        of = operations.open_of_server(conn, copies.copy_id(volume, "box@memory#memory"))
    assert of is not None
    two.cloud.bus.cast("volume.box", "perform", PerformOperation(operation_id=of.id))
    two.cleared()
    assert two.plain.made == {}
    alice.done("POST", path, back)
    alice.settled(volume, "available")
    assert two.plain.made == {volume: (1, "data")}


@pytest.mark.parametrize("how", ["deleted", "reset"])
def test_a_move_that_is_overtaken_leaves_no_copy(alice: Caller, admin: Caller, two: Two, how: str) -> None:
    volume = two.volume(alice)
    two.fast.hold = "take_over"
    fast(alice, volume)
    assert two.fast.held.wait(30)
    two.fast.made[volume] = (1, "half")
    with two.cloud.db.read() as conn:
        there = orphans.known_volumes(conn, "fast", {volume})
    assert there == {volume}, "somebody's, as long as it is on its way"
    if how == "deleted":
        admin.act(f"/volumes/{volume}", "os-force_delete")
        alice.gone(f"/volumes/{volume}")
    else:
        admin.done("POST", f"/volumes/{volume}/action", {"os-reset_status": {"status": "available"}})
        assert alice.volume(volume)["migration_status"] == "error"
    two.fast.go.set()
    two.cleared()
    until(lambda: two.fast.made == {}, 60, "no copy")
    assert two.plain.made == ({} if how == "deleted" else {volume: (1, "data")})


def test_what_a_late_copier_brings_is_cleared_away(alice: Caller, two: Two) -> None:
    """It learns that it moved on when all that was there had been cleared away."""
    volume = two.volume(alice)
    copier, copied = two.fast.take_over, threading.Event()

    def late(volume_id: str, *asked: Any) -> None:
        with two.cloud.db.write() as conn:
            found = volumes.get(conn, volume_id)
            assert found is not None
            operations.supersede(conn, volume_id, "an admin's word")
            left = copies.stayed(conn, two.cloud.service.parts, found)
            volumes.change(conn, volume_id, **left, status="available")
        two.cleared()
        copier(volume_id, *asked)
        copied.set()

    two.fast.take_over = late  # type: ignore[method-assign]
    fast(alice, volume)
    assert copied.wait(30)
    until(lambda: two.fast.made == {}, 60, "no copy")
    assert (two.plain.made, two.fast.made) == ({volume: (1, "data")}, {})


def test_a_move_past_its_deadline_leaves_the_volume_where_it_was(alice: Caller, two: Two) -> None:
    volume = two.volume(alice)
    assert two.cloud.manager is not None
    two.cloud.manager.close()
    fast(alice, volume)
    two.fast.made[volume] = (1, "half")
    with two.cloud.db.write() as conn:
        work = operations.open_of_server(conn, volume)
        assert work is not None
        taken = operations.take(conn, work.id, "conductor", 30.0)
    assert taken is not None
    conductor_volumes.end_in_error(two.cloud.parts, taken, "It did not end.")  # type: ignore[arg-type]
    shown = alice.volume(volume)
    assert (shown["status"], shown["volume_type"], shown["migration_status"]) == (
        "available",
        "plain",
        "error",
    )
    two.start({"memory": two.plain, "fast": two.fast})
    two.cleared()
    assert (two.plain.made, two.fast.made) == ({volume: (1, "data")}, {})


def test_a_move_that_nothing_explains_is_repaired(alice: Caller, admin: Caller, two: Two) -> None:
    volume = two.volume(alice)
    two.fast.made[volume] = (1, "half")
    with two.cloud.db.write() as conn:
        lost = {"status": "maintenance", "migration_status": "migrating", "new_host": "box@fast#fast"}
        volumes.change(conn, volume, **lost, updated_at=1.0)
    conductor_volumes.repair(two.cloud.parts, 2.0)  # type: ignore[arg-type]
    assert alice.volume(volume)["status"] == "error"
    two.cleared()
    assert two.fast.made == {}
    admin.done("POST", f"/volumes/{volume}/action", {"os-reset_status": {"migration_status": "none"}})
    assert alice.volume(volume)["migration_status"] is None


def test_two_names_of_one_place(alice: Caller, two: Two) -> None:
    """Nothing is copied, and above all nothing is cleared away."""
    two.start({"memory": two.plain, "fast": two.plain})
    volume = two.volume(alice)
    fast(alice, volume)
    alice.settled(volume, "available")
    assert alice.volume(volume)["volume_type"] == "fast"
    two.cleared()
    assert two.plain.made == {volume: (1, "data")}


def test_an_admin_moves_a_volume(alice: Caller, admin: Caller, two: Two) -> None:
    volume = alice.create()
    away = {"box@memory#memory": "box@fast#fast", "box@fast#fast": "box@memory"}
    for _ in range(2):
        before = admin.volume(volume)["os-vol-host-attr:host"]
        path = f"/volumes/{volume}/action"
        said = {"host": away[before], "force_host_copy": True, "lock_volume": True}
        assert alice.refused("POST", path, {"os-migrate_volume": said})[0] == 403
        admin.done("POST", path, {"os-migrate_volume": said})
        alice.settled(volume, "available")
        assert admin.volume(volume)["os-vol-host-attr:host"].startswith(away[before])
        two.cleared()
    host = admin.volume(volume)["os-vol-host-attr:host"]
    assert len(admin.get("/volumes", all_tenants="1", migration_status="success")["volumes"]) == 1
    for wrong in (host, "box@none#none", "", None, 5):
        status, why = admin.refused("POST", path, {"os-migrate_volume": {"host": wrong}})
        assert (status, bool(why)) == (400, True)
    assert admin.refused("POST", path, {"os-migrate_volume": {"host": host, "cluster": "c"}})[0] == 400
    plain = two.volume(alice)
    status, why = admin.refused(
        "POST", f"/volumes/{plain}/action", {"os-migrate_volume": {"host": "box@fast#fast"}}
    )
    assert (status, why) == (400, f"No valid backend was found. Cannot place volume {plain} on box@fast#fast")
