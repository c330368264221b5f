"""Reports of many hosts as one transaction: everything is written, and little is done for what is not new."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import pytest
import sqlalchemy as sa
from msgspec import structs
from tests.running import until

from kilonova.conductor import proxy
from kilonova.conductor.gather import Reports
from kilonova.conductor.parts import Parts
from kilonova.config import Config
from kilonova.domain.clock import now
from kilonova.domain.errors import BadRequest, RolledBack, Unavailable
from kilonova.domain.hosts import Capacity, HostReport
from kilonova.domain.messages import PowerStates, Report
from kilonova.domain.servers import PowerState
from kilonova.engine.faults import NO_FAULTS
from kilonova.store import host_lists, hosts, servers
from kilonova.store.database import Database, Row
from kilonova.store.schema.hosts import services


class Flaky:
    """A database that is away as long as it is told to be."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.away = False
        self.refused = 0

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        if self.away:
            self.refused += 1
            raise Unavailable("away")
        with self._db.write() as conn:
            yield conn

    def read(self) -> AbstractContextManager[sa.Connection]:
        return self._db.read()


@pytest.fixture
def db(new_database: Callable[..., Database]) -> Database:
    return new_database()


@pytest.fixture
def flaky(db: Database) -> Flaky:
    return Flaky(db)


class Moves:
    """A network service that is only told which hosts take tunnels elsewhere than before."""

    def __init__(self) -> None:
        self.hosts: list[str] = []

    def host_moved(self, host: str) -> None:
        self.hosts.append(host)


@pytest.fixture
def moves() -> Moves:
    return Moves()


@pytest.fixture
def reports(flaky: Flaky, moves: Moves) -> Iterator[Reports]:
    db, nothing, network = cast(Database, flaky), cast(Any, None), cast(Any, moves)
    parts = Parts("c", Config(), db, bus=nothing, network=network, volumes=nothing, faults=NO_FAULTS)
    made = Reports(parts)
    yield made
    made.close()


def told(host: str, vcpus: int = 4) -> HostReport:
    return HostReport(
        hypervisor_hostname=host,
        hypervisor_type="QEMU",
        hypervisor_version=1,
        host_ip="192.0.2.1",
        total=Capacity(vcpus=vcpus, memory_mb=4096, disk_gb=100),
        cpu_info={"model": "x"},
    )


def known(db: Database) -> dict[str, Row]:
    with db.read() as conn:
        return {row.host: row for row in hosts.with_services(conn)}


@contextmanager
def statements(db: Database) -> Iterator[list[str]]:
    said: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        said.append(statement)

    sa.event.listen(db.engine, "before_cursor_execute", note)
    yield said
    sa.event.remove(db.engine, "before_cursor_execute", note)


def test_what_came_is_written_at_the_latest_at_the_end(db: Database, reports: Reports) -> None:
    began = now()
    for number in range(20):
        reports.report(Report(host=f"h{number}", report=told(f"h{number}")))
    reports.close()
    assert {f"h{number}" for number in range(20)} == known(db).keys()
    assert all(row.last_seen >= began for row in known(db).values())


def test_it_is_written_by_itself(db: Database, reports: Reports) -> None:
    for vcpus in (4, 8):  # and goes on
        reports.report(Report(host="h", report=told("h", vcpus)))
        until(lambda vcpus=vcpus: "h" in known(db) and known(db)["h"].vcpus_limit == vcpus * 4, 60, "it")


def test_the_newest_of_a_host_counts(db: Database, reports: Reports) -> None:
    for vcpus in (4, 6, 5):
        reports.report(Report(host="h", report=told("h", vcpus)))
    reports.close()
    assert known(db)["h"].vcpus_limit == 20


def test_who_begins_finds_it_written(db: Database, reports: Reports) -> None:
    reports.report(Report(host="h", report=told("h"), starting=True))
    assert "h" in known(db)


def test_nothing_new_costs_two_statements_and_changes_no_host(db: Database) -> None:
    many = {f"h{number}": told(f"h{number}") for number in range(50)}
    with db.write() as conn:
        hosts.report_all(conn, many, "nova", Config().compute)
    before = known(db)
    with statements(db) as said, db.write() as conn:
        hosts.report_all(conn, many, "nova", Config().compute)
    assert len([one for one in said if one.split()[0] in ("SELECT", "UPDATE", "INSERT")]) == 2
    for host, row in known(db).items():
        assert row.last_seen > before[host].last_seen
        assert (row.generation, row.updated_at) == (before[host].generation, before[host].updated_at)


def test_what_changed_is_a_new_generation(db: Database) -> None:
    many = {"a": told("a"), "b": told("b")}
    with db.write() as conn:
        hosts.report_all(conn, many, "nova", Config().compute)
    before = known(db)
    with db.write() as conn:
        hosts.report_all(conn, {"a": told("a"), "b": told("b", vcpus=8)}, "nova", Config().compute)
    assert known(db)["a"].generation == before["a"].generation
    assert known(db)["b"].generation > before["b"].generation
    assert known(db)["b"].vcpus_limit == 32


def test_who_was_forgotten_is_known_again(db: Database) -> None:
    one = told("h")
    with db.write() as conn:
        hosts.report_all(conn, {"h": one}, "nova", Config().compute)
        (service,) = host_lists.all_services(conn)
        host_lists.delete_service(conn, service.id)
    assert known(db) == {}
    with db.write() as conn:
        hosts.report_all(conn, {"h": one, "g": told("g")}, "nova", Config().compute)
    assert known(db).keys() == {"g", "h"}


def test_a_database_that_is_away_costs_only_what_came_meanwhile(
    db: Database, flaky: Flaky, reports: Reports
) -> None:
    flaky.away = True
    reports.report(Report(host="h", report=told("h")))
    until(lambda: flaky.refused, 60, "the attempt")
    flaky.away = False
    reports.report(Report(host="g", report=told("g")))
    reports.close()
    assert known(db).keys() == {"g"}


@pytest.mark.parametrize("error", [BadRequest, RolledBack, ValueError])
def test_a_report_that_cannot_be_written_costs_only_itself(
    db: Database, reports: Reports, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    values = hosts._values

    def cannot_be_kept(one: HostReport, *rules: Any) -> dict[str, object]:
        if one.hypervisor_hostname == "b":
            raise error("a value that cannot be kept")
        return values(one, *rules)

    monkeypatch.setattr(hosts, "_values", cannot_be_kept)
    for host in ("a", "b", "c"):
        reports.report(Report(host=host, report=told(host)))
    reports.close()
    assert known(db).keys() == {"a", "c"}


def test_a_number_that_the_database_cannot_keep_costs_only_itself(db: Database, reports: Reports) -> None:
    """As the database itself says it; the bus lets none pass (test_host_words.py)."""
    for host in ("a", "b", "c"):
        strange = {"hypervisor_version": 2**70} if host == "b" else {}
        reports.report(Report(host=host, report=structs.replace(told(host), **strange)))
    reports.close()
    assert known(db).keys() == {"a", "c"}


def test_a_database_that_is_away_is_asked_once_for_all(db: Database, flaky: Flaky, reports: Reports) -> None:
    """Each attempt may take seconds; the hosts say it again."""
    flaky.away = True
    for number in range(9):
        reports.report(Report(host=f"h{number}", report=told(f"h{number}")))
    reports.close()
    assert flaky.refused <= 2  # they may have come in two parts
    assert known(db) == {}


def test_power_states_that_cannot_be_written_cost_only_those_of_their_host(
    reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[str] = []

    def follow(_parts: Any, message: PowerStates) -> None:
        if message.host == "b":
            raise BadRequest("a value that cannot be kept")
        followed.append(message.host)

    hosts_told = ("a", "b", "c")
    records = {(host, "s"): int(PowerState.RUNNING) for host in hosts_told}
    monkeypatch.setattr(servers, "power_states", lambda *_, **__: records)
    monkeypatch.setattr(proxy, "power_states", follow)
    for host in hosts_told:
        reports.power_states(PowerStates(host=host, states={"s": PowerState.SHUTDOWN}, observed_at=now()))
    reports.report(Report(host="a", report=told("a")))
    reports.close()
    assert followed == ["a", "c"]


def tunnel_of(db: Database, host: str) -> str | None:
    with db.read() as conn:
        return hosts.tunnel_address(conn, host)


@pytest.mark.parametrize(
    "wrong", ["", "x", "2001:db8::1", "127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "10.0.0.1/8"]
)
def test_what_is_no_address_for_tunnels_is_none(db: Database, reports: Reports, wrong: str) -> None:
    """It goes to all other hosts, and none of them could use it."""
    good = structs.replace(told("good"), tunnel_address="192.0.2.1")
    bad = structs.replace(told("bad"), tunnel_address=wrong)
    for one in (good, bad):
        reports.report(Report(host=one.hypervisor_hostname, report=one))
    reports.close()
    assert tunnel_of(db, "good") == "192.0.2.1"
    assert tunnel_of(db, "bad") is None


def test_an_address_for_tunnels_is_of_one_host(db: Database, reports: Reports, moves: Moves) -> None:
    """Of that which had it, until that is silent. Then the hosts of its networks hear of it."""
    same = {host: structs.replace(told(host), tunnel_address="192.0.2.1") for host in ("a", "b")}
    reports.report(Report(host="b", report=same["b"]))
    reports.write()
    for _ in range(2):
        for host, one in same.items():
            reports.report(Report(host=host, report=one))
        reports.write()
        assert (tunnel_of(db, "a"), tunnel_of(db, "b")) == (None, "192.0.2.1")
    with db.write() as conn:
        conn.execute(sa.update(services).where(services.c.host == "b").values(last_seen=1.0))
    assert moves.hosts == ["b"]
    reports.report(Report(host="a", report=same["a"]))
    reports.close()
    assert tunnel_of(db, "a") == "192.0.2.1"
    assert moves.hosts == ["b", "a"]


@pytest.mark.parametrize("address", [None, "192.0.2.1"])
def test_who_begins_again_as_it_was_costs_no_read_more(
    db: Database, reports: Reports, moves: Moves, address: str | None
) -> None:
    """Its service, its row, and that what it did is free."""
    begins = Report(host="h", report=structs.replace(told("h"), tunnel_address=address), starting=True)
    reports.report(begins)
    moves.hosts.clear()
    with statements(db) as said:
        reports.report(begins)
    assert [one.split()[0] for one in said if one.split()[0] in ("SELECT", "UPDATE")] == [
        "UPDATE",
        "SELECT",
        "UPDATE",
    ]
    assert moves.hosts == []
