"""The scheduler as a service: claims that are never past the limits, and a memory that is kept current."""

from __future__ import annotations

import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from tests.statements import sent

from kilonova.config import Compute, Config
from kilonova.config import Scheduler as SchedulerConfig
from kilonova.domain.clock import now
from kilonova.domain.errors import BadRequest, NoValidHost, StaleEpoch
from kilonova.domain.hosts import Capacity, HostReport
from kilonova.domain.messages import SelectDestinations, SelectForMany, Selection
from kilonova.domain.servers import BuildSpec, Flavor
from kilonova.engine import lease
from kilonova.scheduler import hosts as scheduler_hosts
from kilonova.scheduler.service import Scheduler
from kilonova.store import claims, host_lists, hosts, operations
from kilonova.store.database import Database

FLAVOR = Flavor(id="1", name="m1", vcpus=1, memory_mb=512, root_gb=1)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'k.db'}")
    database.create()
    yield database
    database.close()


def add_host(db: Database, name: str, vcpus: int = 4, **more: Any) -> str:
    """A host of that many vCPUs that may be claimed; the id of its service."""
    told = HostReport(
        hypervisor_hostname=name,
        hypervisor_type="fake",
        hypervisor_version=1,
        host_ip="127.0.0.1",
        total=Capacity(vcpus=vcpus, memory_mb=1 << 20, disk_gb=1 << 10),
    )
    rules = Compute(cpu_allocation_ratio=1.0, **more)
    with db.write() as conn:
        service = hosts.seen(conn, "nova-compute", name, "nova")
        hosts.report(conn, service, name, told, rules)
    return service


def request(db: Database, exclude: list[str] | None = None, **more: Any) -> SelectDestinations:
    """A build that a conductor has just taken."""
    server, operation = str(uuid.uuid4()), str(uuid.uuid4())
    row = {
        "id": operation,
        "kind": "build",
        "record": "create",
        "server_id": server,
        "project_id": "p",
        "user_id": "u",
        "request_id": "r",
        "state": operations.OPEN,
        "lease_until": 0.0,
        "epoch": 0,
        "attempt": 0,
        "tried_hosts": [],
        "alternates": [],
        "payload": {},
        "deadline": now() + 60,
        "created_at": now(),
        "updated_at": now(),
    }
    with db.write() as conn:
        operations.insert(conn, [row])
    lease.take(db, operation, "c1", 30)
    spec = BuildSpec(
        server_id=server, name="vm", hostname="vm", project_id="p", user_id="u", flavor=FLAVOR, image=None
    )
    spec = structs.replace(spec, **more)
    return SelectDestinations(operation_id=operation, epoch=1, spec=spec, exclude=exclude or [])


def used(db: Database) -> dict[str, tuple[int, int]]:
    with db.read() as conn:
        rows = hosts.with_services(conn)
    return {row.host: (row.vcpus_used, row.servers) for row in rows}


def vcpus(count: int) -> Flavor:
    return structs.replace(FLAVOR, vcpus=count)


# --- the claim


def test_who_is_chosen_holds_a_claim(db: Database) -> None:
    add_host(db, "h1")
    asked = request(db, flavor=vcpus(3))
    answer = Scheduler(db, Config()).select_destinations(asked)
    assert answer == Selection(host="h1", alternates=[], availability_zone="nova")
    assert used(db) == {"h1": (3, 1)}
    with db.read() as conn:
        assert claims.is_on(conn, asked.spec.server_id, "h1")


def test_a_full_host_is_no_host(db: Database) -> None:
    add_host(db, "h1")
    scheduler = Scheduler(db, Config())
    scheduler.select_destinations(request(db, flavor=vcpus(3)))
    with pytest.raises(NoValidHost, match="needed 2 vCPUs, found at most 1 vCPUs free"):
        scheduler.select_destinations(request(db, flavor=vcpus(2)))
    assert used(db) == {"h1": (3, 1)}


def test_nothing_is_claimed_for_an_operation_that_moved_on(db: Database) -> None:
    add_host(db, "h1")
    asked = request(db)
    with db.write() as conn:
        operations.expire_lease(conn, asked.operation_id)
    lease.take(db, asked.operation_id, "c2", 30)
    with pytest.raises(StaleEpoch):
        Scheduler(db, Config()).select_destinations(asked)
    assert used(db) == {"h1": (0, 0)}


def test_of_several_choices_of_a_host_only_those_that_are_claimed_count(db: Database) -> None:
    """What is remembered of the host, until it is looked at again."""
    add_host(db, "h1", vcpus=8)
    gone, there = request(db, flavor=vcpus(2)), request(db, flavor=vcpus(3))
    gone = structs.replace(gone, epoch=2)
    scheduler = Scheduler(db, Config())
    selected = scheduler.select_for_many(SelectForMany(asked=[gone, there])).selected
    assert [one and one.host for one in selected] == [None, "h1"]
    assert used(db) == {"h1": (3, 1)}
    (known,) = scheduler._hosts._by_name.values()
    assert (known.free_vcpus, known.servers, known.io_ops) == (5, 1, 1)


def test_nothing_is_moved_for_an_operation_that_has_its_host(db: Database) -> None:
    """The same call comes again when the build is under way."""
    add_host(db, "h1")
    asked = request(db)
    scheduler = Scheduler(db, Config())
    scheduler.select_destinations(asked)
    with db.write() as conn:
        lease.held(conn, asked.operation_id, 1, "c1", host="h1")
    with pytest.raises(StaleEpoch):
        scheduler.select_destinations(asked)
    assert used(db) == {"h1": (1, 1)}


def test_a_server_holds_one_place_however_often_it_is_asked_for(db: Database) -> None:
    for name in ("h1", "h2"):
        add_host(db, name)
    scheduler = Scheduler(db, Config())
    asked = request(db)
    for _ in range(5):
        scheduler.select_destinations(asked)
    assert sum(servers for _, servers in used(db).values()) == 1
    with db.read() as conn:
        assert len(conn.exec_driver_sql("SELECT * FROM claims").all()) == 1


def test_tried_hosts_are_not_chosen_again(db: Database) -> None:
    for name in ("h1", "h2"):
        add_host(db, name)
    scheduler = Scheduler(db, Config())
    assert scheduler.select_destinations(request(db, exclude=["h1"])).host == "h2"
    with pytest.raises(NoValidHost, match="RetryFilter turned away 2"):
        scheduler.select_destinations(request(db, exclude=["h1", "h2"]))


# --- alternates


def test_the_next_best_are_the_alternates(db: Database) -> None:
    for number in range(5):
        add_host(db, f"h{number}", vcpus=4 + number)
    answer = Scheduler(db, Config()).select_destinations(request(db))
    assert answer.host == "h4"
    assert answer.alternates == ["h3", "h2"]


@pytest.mark.parametrize(("most", "count"), [(0, 0), (1, 1), (10, 4)])
def test_how_many_alternates_is_configured(db: Database, most: int, count: int) -> None:
    for number in range(5):
        add_host(db, f"h{number}")
    config = structs.replace(Config(), scheduler=SchedulerConfig(max_alternates=most))
    assert len(Scheduler(db, config).select_destinations(request(db)).alternates) == count


# --- spreading


def test_servers_spread_over_equal_hosts(db: Database) -> None:
    for number in range(10):
        add_host(db, f"h{number}", vcpus=100)
    scheduler = Scheduler(db, Config())
    chosen = Counter(scheduler.select_destinations(request(db)).host for _ in range(100))
    assert set(chosen.values()) == {10}


def test_two_schedulers_spread_too(db: Database) -> None:
    for number in range(10):
        add_host(db, f"h{number}", vcpus=100)
    both = [Scheduler(db, Config()), Scheduler(db, Config())]
    chosen = Counter(both[turn % 2].select_destinations(request(db)).host for turn in range(100))
    assert set(chosen.values()) == {10}


# --- the memory


def test_what_another_scheduler_claimed_is_seen_at_once(db: Database) -> None:
    add_host(db, "h1")
    one, other = Scheduler(db, Config()), Scheduler(db, Config())
    one.select_destinations(request(db))
    other.select_destinations(request(db, flavor=vcpus(3)))
    with pytest.raises(NoValidHost, match="found at most 0 vCPUs free"):
        one.select_destinations(request(db))


def test_what_was_released_is_seen_at_once(db: Database) -> None:
    add_host(db, "h1", vcpus=1)
    scheduler = Scheduler(db, Config())
    asked = request(db)
    scheduler.select_destinations(asked)
    with pytest.raises(NoValidHost):
        scheduler.select_destinations(request(db))
    with db.write() as conn:
        claims.release(conn, asked.spec.server_id)
    assert scheduler.select_destinations(request(db)).host == "h1"


def test_a_new_host_is_seen_at_once(db: Database) -> None:
    add_host(db, "h1", vcpus=1)
    scheduler = Scheduler(db, Config())
    scheduler.select_destinations(request(db))
    add_host(db, "h2", vcpus=1)
    assert scheduler.select_destinations(request(db)).host == "h2"


def test_a_host_that_is_disabled_is_seen_at_once(db: Database) -> None:
    service = add_host(db, "h1")
    scheduler = Scheduler(db, Config())
    scheduler.select_destinations(request(db))
    for change in ({"disabled": True}, {"disabled": False, "forced_down": True}):
        with db.write() as conn:
            host_lists.change_service(conn, service, **change)
        with pytest.raises(NoValidHost, match="ComputeFilter turned away 1"):
            scheduler.select_destinations(request(db))
    with db.write() as conn:
        host_lists.change_service(conn, service, forced_down=False)
    assert scheduler.select_destinations(request(db)).host == "h1"


def test_what_a_host_reports_anew_is_seen_at_once(db: Database) -> None:
    add_host(db, "h1", vcpus=1)
    scheduler = Scheduler(db, Config())
    scheduler.select_destinations(request(db))
    add_host(db, "h1", vcpus=2)
    assert scheduler.select_destinations(request(db)).host == "h1"


def test_a_host_that_is_silent_is_found_out(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    service = add_host(db, "h1")
    scheduler = Scheduler(db, Config())
    scheduler.select_destinations(request(db))
    with db.write() as conn:
        conn.exec_driver_sql("UPDATE services SET last_seen = 1 WHERE id = ?", (service,))
    monkeypatch.setattr(scheduler_hosts, "_FULL_REFRESH", 0.0)
    with pytest.raises(NoValidHost, match="ComputeFilter"):
        scheduler.select_destinations(request(db))


def test_a_host_that_was_silent_is_looked_at_again_before_there_is_none(db: Database) -> None:
    """It has said that it lives since; what was remembered of it is seconds old."""
    service = add_host(db, "h1")
    add_host(db, "h2", vcpus=1)
    scheduler = Scheduler(db, Config())
    with db.write() as conn:
        conn.exec_driver_sql("UPDATE services SET last_seen = 1 WHERE id = ?", (service,))
    with pytest.raises(NoValidHost, match="ComputeFilter"):
        scheduler.select_destinations(request(db, flavor=vcpus(3)))
    scheduler._hosts._full_at -= 1  # a second later
    with db.write() as conn:
        hosts.seen(conn, "nova-compute", "h1", "nova")
    assert scheduler.select_destinations(request(db, flavor=vcpus(3))).host == "h1"


def test_those_that_stay_silent_cost_no_look_each_time(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    service = add_host(db, "h1")
    with db.write() as conn:
        conn.exec_driver_sql("UPDATE services SET last_seen = 1 WHERE id = ?", (service,))
    scheduler = Scheduler(db, Config())
    looks: list[float] = []
    monkeypatch.setattr(scheduler_hosts, "_HEARD", 3600.0)
    monkeypatch.setattr(operations, "open_by_host", lambda _conn: looks.append(now()) or {})
    for _ in range(3):
        with pytest.raises(NoValidHost, match="ComputeFilter"):
            scheduler.select_destinations(request(db))
    assert len(looks) == 1


def test_a_clock_that_is_set_back_does_not_stop_the_refresh(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = add_host(db, "h1")
    memory = scheduler_hosts.Hosts(db, 60.0)
    assert [state.up for state in memory.current(now() + 3600)] == [True]
    with db.write() as conn:
        conn.exec_driver_sql("UPDATE services SET last_seen = 1 WHERE id = ?", (service,))
    assert [state.up for state in memory.current(now())] == [False]


def test_a_host_that_was_forgotten_is_no_candidate_for_long(db: Database) -> None:
    """It is in memory still; its row is gone, and a claim on it cannot be."""
    service = add_host(db, "h1")
    add_host(db, "h2", vcpus=1)
    scheduler = Scheduler(db, Config())
    assert scheduler.select_destinations(request(db)).host == "h1"
    with db.write() as conn:
        conn.exec_driver_sql("DELETE FROM claims")
        host_lists.delete_service(conn, service)
    assert scheduler.select_destinations(request(db)).host == "h2"


# --- claims side by side


def claim_all(db: Database, schedulers: list[Scheduler], asked: list[SelectDestinations]) -> list[str]:
    """Where each request went, or why not; every scheduler in a thread of its own."""
    answers: list[str] = []
    todo = list(asked)
    lock = threading.Lock()

    def work(scheduler: Scheduler) -> None:
        while True:
            with lock:
                if not todo:
                    return
                mine = todo.pop()
            try:
                answers.append(scheduler.select_destinations(mine).host)
            except NoValidHost:
                answers.append("none")

    threads = [threading.Thread(target=work, args=(scheduler,)) for scheduler in schedulers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    wanted=st.lists(st.integers(1, 3), min_size=1, max_size=20),
    many=st.integers(1, 3),
)
def test_claims_side_by_side_never_pass_the_limits(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], wanted: list[int], many: int
) -> None:
    db = Database(f"sqlite:///{tmp_path_factory.mktemp('db') / 'k.db'}")
    db.create()
    for number, size in enumerate(sizes):
        add_host(db, f"h{number}", vcpus=size)
    asked = [request(db, flavor=vcpus(count)) for count in wanted]
    answers = claim_all(db, [Scheduler(db, Config()) for _ in range(many)], asked)
    counted = Counter(answers)
    for number, size in enumerate(sizes):
        taken, servers = used(db)[f"h{number}"]
        assert 0 <= taken <= size
        assert servers == counted[f"h{number}"]
    # Nobody was refused who fits now: what is left is too small for each of the refused.
    left = max(size - used(db)[f"h{number}"][0] for number, size in enumerate(sizes))
    refused = len(asked) - sum(counted[f"h{number}"] for number in range(len(sizes)))
    assert refused == counted["none"]
    assert not refused or left < max(wanted)
    db.close()


def test_a_race_for_the_last_place_has_one_winner(db: Database) -> None:
    add_host(db, "h1", vcpus=1)
    asked = [request(db) for _ in range(8)]
    answers = claim_all(db, [Scheduler(db, Config()) for _ in range(4)], asked)
    assert Counter(answers) == {"h1": 1, "none": 7}


# --- claims and limits in the store


def test_releasing_twice_gives_back_once(db: Database) -> None:
    add_host(db, "h1")
    need = Capacity(vcpus=2, memory_mb=1, disk_gb=1)
    with db.write() as conn:
        assert claims.claim(conn, "s", "h1", need) is not None
        claims.release(conn, "s")
        claims.release(conn, "s")
    assert used(db) == {"h1": (0, 0)}


def test_every_resource_has_its_limit(db: Database) -> None:
    add_host(db, "h1")
    with db.write() as conn:
        for need in (
            Capacity(vcpus=5, memory_mb=1, disk_gb=1),
            Capacity(vcpus=1, memory_mb=1 << 20, disk_gb=1),  # some is reserved for the host
            Capacity(vcpus=1, memory_mb=1, disk_gb=1 + (1 << 10)),
        ):
            assert claims.claim(conn, "s", "h1", need) is None
        assert claims.claim(conn, "s", "nowhere", Capacity(vcpus=0, memory_mb=0, disk_gb=0)) is None


def test_a_part_of_a_gib_that_is_reserved_is_a_whole_one(db: Database) -> None:
    add_host(db, "h1", reserved_host_disk_mb=1500)
    with db.read() as conn:
        (row,) = hosts.with_services(conn)
    assert row.disk_gb_limit == (1 << 10) - 2


def test_a_report_keeps_what_is_claimed(db: Database) -> None:
    add_host(db, "h1", vcpus=4)
    Scheduler(db, Config()).select_destinations(request(db, flavor=vcpus(3)))
    add_host(db, "h1", vcpus=2)  # smaller than what is on it
    assert used(db) == {"h1": (3, 1)}
    with pytest.raises(NoValidHost, match="found at most 0 vCPUs free"):
        Scheduler(db, Config()).select_destinations(request(db))


# --- configuration, and rules of third parties


def configured(db: Database, **more: Any) -> Scheduler:
    return Scheduler(db, structs.replace(Config(), scheduler=SchedulerConfig(**more)))


def test_only_the_enabled_filters_run(db: Database) -> None:
    service = add_host(db, "h1", vcpus=1)
    with db.write() as conn:
        host_lists.change_service(conn, service, disabled=True)
    assert configured(db, enabled_filters=["CoreFilter"]).select_destinations(request(db)).host == "h1"
    with pytest.raises(NoValidHost, match="CoreFilter"):
        configured(db, enabled_filters=["CoreFilter"]).select_destinations(request(db))


def test_a_claim_keeps_the_limits_though_no_filter_does(db: Database) -> None:
    add_host(db, "h1", vcpus=1)
    scheduler = configured(db, enabled_filters=["ComputeFilter"])
    scheduler.select_destinations(request(db))
    with pytest.raises(NoValidHost, match="was taken meanwhile"):
        scheduler.select_destinations(request(db))
    assert used(db) == {"h1": (1, 1)}


def test_weights_are_configured(db: Database) -> None:
    add_host(db, "small", vcpus=2)
    add_host(db, "big", vcpus=8)
    assert configured(db, weights={"CPUWeigher": -5.0}).select_destinations(request(db)).host == "small"


@pytest.mark.parametrize(
    ("wrong", "there_is"),
    [
        ({"enabled_filters": ["NoSuchRule"]}, "ComputeFilter"),
        ({"extra_filters": ["NoSuchRule"]}, "ComputeFilter"),
        ({"weights": {"NoSuchRule": 1.0}}, "RAMWeigher"),
    ],
)
def test_an_unknown_rule_is_refused_at_the_start(db: Database, wrong: Any, there_is: str) -> None:
    with pytest.raises(BadRequest, match="no such scheduler rule: NoSuchRule; there are") as caught:
        configured(db, **wrong)
    assert there_is in caught.value.message


PACKAGE = """
from kilonova.scheduler.rules import Filter, Weigher


def _passing(request, hosts):
    wanted = request.spec.metadata.get("rack", "")
    return [host for host in hosts if host.host.endswith(wanted)]


RACK = Filter(
    "RackFilter",
    _passing,
    needed=lambda request: f"rack {request.spec.metadata['rack']}",
    found=lambda hosts: f"{len(hosts)} racks",
)
LATE = Weigher("LateWeigher", lambda hosts: [float(host.host[-1]) for host in hosts])
WRONG = object()
"""

ENTRY_POINTS = """
[kilonova.scheduler.filters]
RackFilter = racks_of_ours:RACK
OtherName = racks_of_ours:RACK
WrongFilter = racks_of_ours:WRONG
BrokenFilter = racks_of_ours.no_such_module:IT

[kilonova.scheduler.weighers]
LateWeigher = racks_of_ours:LATE
"""


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with its metadata, as pip would install it."""
    site = tmp_path / "site"
    info = site / "racks_of_ours-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "racks_of_ours.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: racks-of-ours\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("racks_of_ours", None)


@pytest.mark.usefixtures("third_party")
def test_a_filter_of_a_third_party(db: Database) -> None:
    for name in ("node-1", "node-2"):
        add_host(db, name)
    scheduler = configured(db, enabled_filters=["ComputeFilter", "RackFilter"])
    assert scheduler.select_destinations(request(db, metadata={"rack": "2"})).host == "node-2"
    with pytest.raises(NoValidHost, match="RackFilter turned away 2, needed rack 7, found 2 racks"):
        scheduler.select_destinations(request(db, metadata={"rack": "7"}))


@pytest.mark.usefixtures("third_party")
def test_extra_filters_run_beside_all_built_in_ones(db: Database) -> None:
    for name in ("node-1", "node-2"):
        add_host(db, name)
    add_host(db, "far-2", vcpus=0)
    scheduler = configured(db, extra_filters=["RackFilter"])
    assert scheduler.select_destinations(request(db, metadata={"rack": "2"})).host == "node-2"
    with pytest.raises(NoValidHost, match=r"CoreFilter turned away 1,.* RackFilter turned away 2,"):
        scheduler.select_destinations(request(db, metadata={"rack": "7"}))


@pytest.mark.usefixtures("third_party")
def test_extra_filters_come_after_those_that_are_enabled(db: Database) -> None:
    add_host(db, "node-1")
    names = {
        "enabled_filters": ["RackFilter", "ComputeFilter"],
        "extra_filters": ["RackFilter", "CoreFilter"],
    }
    ran = [rule.name for rule in configured(db, **names)._filters]
    assert ran == ["RackFilter", "ComputeFilter", "CoreFilter"]


@pytest.mark.usefixtures("third_party")
def test_a_weigher_of_a_third_party_is_enabled_by_its_multiplier(db: Database) -> None:
    for name in ("node-1", "node-2", "node-3"):
        add_host(db, name)
    assert configured(db, weights={"LateWeigher": 100.0}).select_destinations(request(db)).host == "node-3"
    assert configured(db, weights={"LateWeigher": -100.0}).select_destinations(request(db)).host == "node-1"


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("WrongFilter", "racks_of_ours:WRONG is no Filter of the name WrongFilter"),
        ("OtherName", "racks_of_ours:RACK is no Filter of the name OtherName"),
        ("BrokenFilter", "BrokenFilter .* cannot be loaded: No module named"),
        ("LateWeigher", "no such scheduler rule: LateWeigher"),
    ],
)
def test_a_rule_that_is_none_is_refused_at_the_start(db: Database, name: str, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        configured(db, enabled_filters=[name])


@pytest.mark.usefixtures("third_party")
def test_what_is_installed_and_not_named_does_no_harm(db: Database) -> None:
    """One of its entry points cannot even be loaded."""
    add_host(db, "node-1")
    assert Scheduler(db, Config()).select_destinations(request(db)).host == "node-1"
    assert configured(db, enabled_filters=["RamFilter"]).select_destinations(request(db)).host == "node-1"


def test_a_decision_among_a_thousand_hosts_asks_the_database_no_more_than_among_two(db: Database) -> None:
    """`python -m bench decision` measures its time."""

    def statements() -> int:
        scheduler = Scheduler(db, Config())
        scheduler.select_destinations(request(db))
        asked = request(db)
        with sent(db) as said:
            scheduler.select_destinations(asked)
            return len(said)

    add_host(db, "a", vcpus=100)
    add_host(db, "b", vcpus=100)
    among_two = statements()
    with db.write():
        for number in range(1000):
            add_host(db, f"h{number}", vcpus=100)
    assert statements() == among_two
