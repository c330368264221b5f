"""What every kind of database does alike, alone and with many at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec import structs

from kilonova.config import Compute
from kilonova.domain.clock import now
from kilonova.domain.errors import BadRequest, Conflict, KilonovaError, QuotaExceeded
from kilonova.domain.hosts import Capacity, HostReport
from kilonova.domain.images import Image, ImageViewer
from kilonova.domain.messages import StepRecord
from kilonova.domain.servers import Flavor
from kilonova.store import (
    claims,
    dialect,
    flavors,
    hosts,
    images,
    keypairs,
    operation_lists,
    operations,
    regexp,
    tokens,
    usage,
)
from kilonova.store.database import Database
from kilonova.store.repeat import repeat
from kilonova.store.schema.flavors import flavors as flavors_table
from kilonova.store.schema.servers import project_usage

TINY = Flavor(id="1", name="tiny", vcpus=1, memory_mb=512, root_gb=1)
NO_LIMIT = {"instances": -1, "cores": -1, "ram": -1}


@pytest.fixture
def db(new_database: Callable[..., Database]) -> Database:
    return new_database()


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What each of them answered or raised; all begin together."""
    begin = threading.Barrier(count)

    def run(number: int) -> Any:
        begin.wait()
        try:
            return repeat(work, number)
        except KilonovaError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def make_flavor(db: Database, name: str, **more: Any) -> None:
    with db.write() as conn:
        flavors.create(conn, Flavor(id=name, name=name, vcpus=1, memory_mb=1, root_gb=1, **more))


def names(db: Database, **asked: Any) -> list[str]:
    with db.read() as conn:
        return [flavor.name for flavor in flavors.listed(conn, project_id=None, **asked)]


class TestTransactions:
    def test_a_write_is_seen_when_it_ended(self, db: Database) -> None:
        with db.write() as conn:
            flavors.seed(conn)
            with ThreadPoolExecutor(1) as other:
                assert other.submit(names, db).result() == []
        assert "m1.tiny" in names(db)

    def test_a_write_that_raises_leaves_nothing(self, db: Database) -> None:
        def fail() -> None:
            with db.write() as conn:
                flavors.seed(conn)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert names(db) == []
        make_flavor(db, "a")
        assert names(db) == ["a"]

    def test_a_read_sees_one_moment(self, db: Database) -> None:
        with db.read() as conn:
            assert flavors.listed(conn, project_id=None) == []
            with ThreadPoolExecutor(1) as other:
                other.submit(make_flavor, db, "new").result()
            assert flavors.listed(conn, project_id=None) == []
        assert names(db) == ["new"]

    def test_what_is_nested_joins(self, db: Database) -> None:
        def fail() -> None:
            with db.write() as conn:
                with db.write() as inner:
                    assert inner is conn
                    flavors.seed(inner)
                assert "m1.tiny" in names(db), "a read inside a write sees what it wrote"
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert names(db) == []

    def test_a_read_cannot_become_a_write(self, db: Database) -> None:
        with db.read(), pytest.raises(AssertionError), db.write():
            pass
        make_flavor(db, "a")

    def test_durable_or_not(self, db: Database) -> None:
        for durable in (True, False, True):
            with db.write(durable=durable) as conn:
                tokens.bump(conn)
        with db.read() as conn:
            assert tokens.generation(conn) == 3


class TestMany:
    """None of many at once takes what another has."""

    def test_no_count_is_lost(self, db: Database) -> None:
        def bump(_number: int) -> None:
            for _ in range(10):
                with db.write() as conn:
                    tokens.bump(conn)

        at_once(8, bump)
        with db.read() as conn:
            assert tokens.generation(conn) == 80

    def test_no_quota_is_exceeded(self, db: Database) -> None:
        """Also by those that are the first of their project together."""

        def claim(_number: int) -> None:
            with db.write(durable=True) as conn:
                usage.claim(conn, "p", [TINY], NO_LIMIT | {"instances": 5})

        answers = at_once(12, claim)
        assert answers.count(None) == 5
        assert sum(isinstance(answer, QuotaExceeded) for answer in answers) == 7
        with db.read() as conn:
            assert usage.used(conn, "p") == {"instances": 5, "cores": 5, "ram": 5 * 512}

    def test_no_host_is_overcommitted(self, db: Database) -> None:
        told = HostReport(
            hypervisor_hostname="h",
            hypervisor_type="QEMU",
            hypervisor_version=1,
            host_ip="192.0.2.1",
            total=Capacity(vcpus=2, memory_mb=4096, disk_gb=100),
            cpu_info={},
        )
        with db.write() as conn:
            hosts.report(conn, hosts.seen(conn, "nova-compute", "h", "nova"), "h", told, Compute())
        need = Capacity(vcpus=1, memory_mb=512, disk_gb=1)

        def claim(number: int) -> bool:
            with db.write() as conn:
                return claims.claim(conn, f"server-{number}", "h", need) is not None

        assert at_once(12, claim).count(True) == 7  # memory, less what is reserved

        def release(number: int) -> None:
            with db.write() as conn:
                claims.release(conn, f"server-{number}")

        at_once(12, release)
        with db.read() as conn:
            (row,) = hosts.with_services(conn)
        assert (row.vcpus_used, row.memory_mb_used, row.disk_gb_used, row.servers) == (0, 0, 0, 0)

    def test_a_service_begins_once(self, db: Database) -> None:
        def seen(_number: int) -> str:
            with db.write() as conn:
                return hosts.seen(conn, "nova-conductor", "h", "internal")

        assert len(set(at_once(8, seen))) == 1

    def test_an_operation_has_one_owner(self, db: Database) -> None:
        with db.write() as conn:
            operations.insert(conn, [operation("o", "s")])

        def take(number: int) -> Any:
            with db.write() as conn:
                return operations.take(conn, "o", f"conductor-{number}", lease=30.0)

        owners = [row for row in at_once(8, take) if row is not None]
        assert [row.epoch for row in owners] == [1]

    def test_a_server_has_one_open_operation(self, db: Database) -> None:
        def begin(number: int) -> None:
            with db.write() as conn:
                if operations.open_of_server(conn, "s") is not None:
                    raise Conflict("busy")
                operations.insert(conn, [operation(str(number), "s")])

        answers = at_once(6, begin)
        assert answers.count(None) == 1
        assert sum(isinstance(answer, Conflict) for answer in answers) == 5

    def test_a_name_is_given_once(self, db: Database) -> None:
        def create(number: int) -> None:
            with db.write() as conn:
                flavor = Flavor(id=str(number), name="same", vcpus=1, memory_mb=1, root_gb=1)
                flavors.create(conn, flavor)

        answers = at_once(6, create)
        assert answers.count(None) == 1
        said = {str(answer) for answer in answers if answer is not None}
        assert said == {"Flavor with name same already exists."}

    def test_the_last_key_pair_is_kept_once(self, db: Database) -> None:
        def create(number: int) -> None:
            with db.write() as conn:
                key = {"public_key": "k", "fingerprint": "f"}
                keypairs.create(conn, user_id="u", name=str(number), limit=3, **key)

        assert at_once(8, create).count(None) == 3

    def test_no_change_of_an_image_is_lost(self, db: Database) -> None:
        admin = ImageViewer(project_id=None, is_admin=True)
        image = Image(id="i", created_at=now(), updated_at=now(), owner="p")
        with db.write() as conn:
            assert images.insert(conn, image)

        def tag(number: int) -> None:
            with db.write() as conn:
                before = images.get(conn, admin, "i", for_update=True)
                assert before is not None
                images.update(conn, before, structs.replace(before, tags=[*before.tags, str(number)]))

        at_once(8, tag)
        with db.read() as conn:
            found = images.get(conn, admin, "i")
        assert found is not None
        assert sorted(found.tags) == [str(number) for number in range(8)]

    def test_a_lock_of_a_name_is_held_by_one(self, db: Database) -> None:
        inside = []

        def alone(_number: int) -> int:
            with db.write() as conn:
                dialect.lock(conn, "the", "door")
                inside.append(1)
                most = len(inside)
                time.sleep(0.005)  # what others would need to come in too
                inside.pop()
            return most

        assert at_once(6, alone) == [1] * 6


class TestValues:
    ODD = ("A", "B", "a", "b", "z", "Ä", "ä", "ß", "Ω", "中", "😀", "_", "-", " x", "a b", "a\u0301")

    def test_text_sorts_by_its_characters_numbers(self, db: Database) -> None:
        for name in self.ODD:
            make_flavor(db, name)
        assert names(db, sort_key="name") == sorted(self.ODD)
        assert names(db, sort_key="name", descending=True, limit=3) == sorted(self.ODD, reverse=True)[:3]
        assert names(db, sort_key="name", marker="a", limit=2) == ["a b", "a\u0301"]

    def test_large_and_small_letters_are_different(self, db: Database) -> None:
        make_flavor(db, "a")
        make_flavor(db, "A")
        with db.read() as conn:
            assert flavors.get(conn, "A").name == "A"

    @pytest.mark.parametrize(
        ("pattern", "found"),
        [
            ("a.c", ["abc", "xabcx"]),
            ("^abc$", ["abc"]),
            ("(?i)^ABC", ["abc"]),
            (r"\d+", ["n1", "n22"]),
            (r"^n\d{2}$", ["n22"]),
            ("abc|n1", ["abc", "n1", "xabcx"]),
            (r"\bx", ["xabcx"]),
            (r"\pL{5}", ["xabcx"]),
            ("[[:digit:]]{2}", ["n22"]),
            ("nothing", []),
            ("(a*)*b", ["abc", "xabcx"]),
        ],
    )
    def test_patterns(self, db: Database, pattern: str, found: list[str]) -> None:
        for name in ("abc", "xabcx", "n1", "n22"):
            make_flavor(db, name)
        assert names(db, name=pattern, sort_key="name") == found
        assert names(db, name=pattern, sort_key="name", limit=1) == found[:1]

    def test_no_pattern_keeps_the_database_busy(self, db: Database) -> None:
        make_flavor(db, "a" * 255)
        began = time.perf_counter()
        assert names(db, name="(a+)+(a+)+(a+)+$|^((a|b)*c){9}x") == ["a" * 255]
        assert not regexp.valid("^(((a{1,9}){1,9}){1,9}){1,9}x$")
        assert time.perf_counter() - began < 60

    def test_what_a_sum_may_become(self, db: Database) -> None:
        huge = Flavor(id="1", name="huge", vcpus=2**31 - 1, memory_mb=2**31 - 1, root_gb=1)
        with db.write() as conn:
            for _ in range(4):
                usage.claim(conn, "p", [huge], NO_LIMIT)
            assert usage.used(conn, "p")["ram"] == 4 * (2**31 - 1)

    def test_times_and_truth(self, db: Database) -> None:
        made = now()
        make_flavor(db, "a", is_public=False, rxtx_factor=1.25)
        with db.read() as conn:
            row = conn.execute(sa.select(flavors_table)).one()
        assert row.is_public is False
        assert row.rxtx_factor == 1.25
        assert made <= row.created_at <= now()

    def test_nul_is_refused_or_kept_as_it_is(self, db: Database) -> None:
        """PostgreSQL keeps none; the API lets none through where it matters."""
        try:
            make_flavor(db, "a\0b")
        except BadRequest:
            assert db.engine.name == "postgresql"
            assert names(db) == []
        else:
            assert names(db) == ["a\0b"]

    def test_a_failed_statement_fails_its_block(self, db: Database) -> None:
        """Even if the block does not look: a write that returned was committed, all of it."""
        row = {"project_id": "p", "instances": 0, "cores": 0, "ram": 0}
        with db.write() as conn:
            conn.execute(project_usage.insert(), row)

        def careless() -> None:
            with db.write() as conn:
                tokens.bump(conn)
                with suppress(sa.exc.IntegrityError):
                    conn.execute(project_usage.insert(), row)

        if db.engine.name == "postgresql":
            with pytest.raises(AssertionError):
                careless()
        else:
            careless()
        with db.read() as conn:
            assert tokens.generation(conn) == (0 if db.engine.name == "postgresql" else 1)


def operation(operation_id: str, server_id: str) -> dict[str, Any]:
    return {
        "id": operation_id,
        "kind": "build",
        "record": "create",
        "server_id": server_id,
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
        "payload": {},
        "deadline": now() + 600,
        "created_at": now(),
        "updated_at": now(),
    }


def test_a_step_that_is_twice_in_what_is_told_is_one(db: Database) -> None:
    """As if each were told after the other: an end ends what began, and is the last that counts."""
    begun = StepRecord(name="create_disks", started_at=1.0)
    other = StepRecord(name="create_disks", started_at=9.0)
    ended = StepRecord(name="create_disks", started_at=1.0, finished_at=2.0, result="Success")
    again = StepRecord(name="create_disks", started_at=1.0, finished_at=3.0, result="Error")
    with db.write() as conn:
        operations.put_steps(conn, "one", 1, "h1", [begun, other, begun])
        operations.put_steps(conn, "two", 1, "h1", [begun, ended, again, other, begun])
        steps = operations.steps_of(conn, ["one", "two"])
    ends = {(step.operation_id, step.started_at): step.finished_at for step in steps}
    assert ends == {("one", 1.0): None, ("one", 9.0): None, ("two", 1.0): 2.0, ("two", 9.0): None}
    assert len(steps) == 4


def test_what_is_going_on_is_told_with_its_newest_step(db: Database) -> None:
    with db.write() as conn:
        rows = [
            operation("late", "s1"),
            operation("early", "s2"),
            operation("new", "s3"),
            operation("over", "s4"),
        ]
        for row, begun in zip(rows, (2.0, 1.0, 9.0, 1.0), strict=True):
            row["created_at"] = begun
        rows[3]["state"] = operations.DONE
        operations.insert(conn, rows)
        fetch, plug = (StepRecord(name=name, started_at=1.0) for name in ("fetch_image", "plug_vifs"))
        operations.put_steps(conn, "early", 1, "h1", [fetch, plug])
        told = operation_lists.going_on(conn, since=5.0, limit=10)
        assert [(row.created_at, row.record, row.step) for row in told] == [
            (1.0, "create", "plug_vifs"),
            (2.0, "create", None),
        ]
        assert len(operation_lists.going_on(conn, since=5.0, limit=1)) == 1
