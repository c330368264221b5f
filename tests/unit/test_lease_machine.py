"""The lease and epoch protocol, played at random: conductors and agents pause and wake at any point.

The database, the conductor's functions and the scheduler are real. Conductors and agents are hands that hold
what they were given (a row, a message) and may use it at any later time, however stale. What the machine
itself keeps is what an observer outside would: which words were obeyed, which guests run where.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.running import CHECKS

from kilonova.conductor import actions as conductor_actions
from kilonova.conductor import build, delete, proxy, reports, sweeper
from kilonova.conductor.parts import Parts
from kilonova.config import Config, Faults
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import Conflict, NotFound, NoValidHost, QuotaExceeded, StaleEpoch, Unavailable
from kilonova.domain.hosts import Capacity, HostReport
from kilonova.domain.messages import (
    Activate,
    AllocateNetworks,
    Finished,
    PerformOperation,
    Progress,
    RenewLeases,
    Report,
    StepRecord,
    Work,
)
from kilonova.domain.network import Vif
from kilonova.domain.servers import BuildSpec, Flavor, PowerState, RequestedNetwork
from kilonova.engine import accept, lease
from kilonova.engine.faults import FaultPoints
from kilonova.scheduler.service import Scheduler
from kilonova.store import operations
from kilonova.store.database import Database, Row
from kilonova.volume.builtin.service import BuiltinVolumes

HOSTS = ["h1", "h2", "h3"]
CONDUCTORS = ["c1", "c2"]
FLAVOR = Flavor(id="1", name="m1", vcpus=2, memory_mb=512, root_gb=1)
WHICH = st.integers(0, 5)
"""Chooses among what there is: a number, so that what hypothesis draws depends on nothing outside."""
QUOTA = {"instances": 4, "cores": -1, "ram": -1}
CONTEXT = RequestContext(request_id="req", user_id="u", project_id="p", roles=frozenset({"member"}))
CONFIG = Config()
WORDS = ["progress", "allocate", "activate", "renew", "end", "fail", "retry"]
_ONLY_AT_REST = ("open operation", "server ", "claim of no server")
AT_REST = [check for check in CHECKS if "'port of" not in check]
ALWAYS = [check for check in AT_REST if not any(f"'{words}" in check for words in _ONLY_AT_REST)]
"""Of the questions that the tests' oracle asks at rest: those whose answer is empty at all times."""


class Bus:
    """Calls reach the scheduler; casts lie here until the machine delivers, doubles or forgets them."""

    def __init__(self) -> None:
        self.scheduler: Scheduler | None = None
        self.to_hosts: list[tuple[str, str, Work]] = []
        self.to_conductors: list[tuple[str, str]] = []
        self.calls: list[Any] = []

    def call(self, _topic: str, _method: str, request: Any, _reply: Any, timeout: float = 60.0) -> Any:
        assert self.scheduler is not None
        self.calls.append(request)
        return self.scheduler.select_destinations(request)

    def cast(self, topic: str, method: str, request: msgspec.Struct) -> None:
        if isinstance(request, Work):
            self.to_hosts.append((topic.removeprefix("build.").removeprefix("compute."), method, request))
        elif isinstance(request, PerformOperation):
            self.to_conductors.append((method, request.operation_id))


class Ports:
    """A network service that remembers who has ports."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}

    def allocate_for_instance(
        self, server_id: str, _project: str, _name: str, host: str, _zone: str, _asked: Any, _groups: Any
    ) -> list[Vif]:
        self.of[server_id] = host
        return []

    def deallocate_for_instance(self, server_id: str) -> None:
        self.of.pop(server_id, None)

    def port_status(self, server_ids: Sequence[str], active: bool) -> None:
        pass

    def rehome_routers(self, silence: float) -> None:
        pass


class Hand(msgspec.Struct, frozen=True):
    """What a conductor holds of an operation, and where it is in its work."""

    conductor: str
    work: Any
    spec: Any
    selection: Any = None


class Held(msgspec.Struct, frozen=True):
    """What an agent was given."""

    host: str
    work: Work


def make_template(folder: Path) -> Path:
    """A database with three hosts that have room for two servers each. Copies are quicker than making one."""
    path = folder / "template.db"
    db = Database(f"sqlite:///{path}")
    db.create()
    for host in HOSTS:
        reports.report(_parts("setup", db, Bus(), Ports()), Report(host=host, report=_report(host)))
    db.close()
    return path


def _report(host: str) -> HostReport:
    return HostReport(
        hypervisor_hostname=host,
        hypervisor_type="fake",
        hypervisor_version=1,
        host_ip="127.0.0.1",
        total=Capacity(vcpus=1, memory_mb=4096, disk_gb=100),  # times the ratio: four, two servers
    )


def _parts(name: str, db: Database, bus: Bus, ports: Ports) -> Parts:
    return Parts(
        name=name,
        config=CONFIG,
        db=db,
        bus=cast(Any, bus),
        network=cast(Any, ports),
        volumes=BuiltinVolumes(db, cast(Any, bus), CONFIG),
        faults=FaultPoints(Faults()),
    )


class Protocol(RuleBasedStateMachine):
    template: Path

    hands = Bundle("hands")
    held = Bundle("held")

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=self.template.parent))
        self.db = Database(f"sqlite:///{shutil.copy(self.template, self.folder / 'k.db')}")
        self._sql("UPDATE services SET last_seen = ?", now())  # the template may be older than a host may be
        self.bus, self.ports = Bus(), Ports()
        self.bus.scheduler = Scheduler(self.db, CONFIG)
        self.parts = {name: _parts(name, self.db, self.bus, self.ports) for name in CONDUCTORS}
        self.given: list[Held] = []
        self.runs: dict[str, set[str]] = {}
        """Server → hosts where its guest was let run."""
        self.obeyed: dict[str, tuple[int, str]] = {}
        """Operation → epoch and owner of the last word that was obeyed."""
        self.forbidden: set[str] = set()
        """Operations of which no word may be obeyed any more."""
        self._create()
        self._create()

    def teardown(self) -> None:
        if not hasattr(self, "db"):
            return
        try:
            self._let_everything_end()
            wrong = self._asked(AT_REST)
            assert not wrong, wrong
            assert set(self.ports.of) <= self._placed()
            for server, hosts in self.runs.items():
                assert len(hosts) <= 1, f"{server} runs on {hosts}"
        finally:
            self.db.close()
            shutil.rmtree(self.folder)

    # --- the API

    @rule(what=st.sampled_from(["create", "delete", "stop", "start", "reboot_hard"]), which=WHICH)
    def user_asks(self, what: str, which: int) -> None:
        server = self._some_server(which)
        if what == "create" or server is None:
            self._create()
        elif what == "delete":
            work = self._open(server)
            accept.delete_server(self.db, cast(Any, self.bus), CONFIG, CONTEXT, server)
            if work is not None and work.kind != "delete":
                self.forbidden.add(work.id)
        else:
            with contextlib.suppress(Conflict):
                accept.act(self.db, cast(Any, self.bus), CONFIG, CONTEXT, server, what)

    def _create(self) -> None:
        spec = BuildSpec(
            server_id=str(uuid.uuid4()),
            name="vm",
            hostname="vm",
            project_id="p",
            user_id="u",
            flavor=FLAVOR,
            image=None,
            networks=[RequestedNetwork(network_id="n")],
        )
        new = accept.NewServer(spec=spec)
        with contextlib.suppress(QuotaExceeded):
            accept.create_servers(
                self.db, cast(Any, self.bus), CONFIG, CONTEXT, [new], "r-1", QUOTA, cast(Any, None)
            )

    # --- time, and what dies

    @rule(which=WHICH, name=st.sampled_from(CONDUCTORS))
    def a_deadline_passes(self, which: int, name: str) -> None:
        if work := self._some_open(which):
            self._sql("UPDATE operations SET deadline = 1 WHERE id = ?", work.id)
            sweeper.sweep(self.parts[name])

    @rule(host=st.sampled_from(HOSTS), up=st.booleans())
    def a_host_is_seen_or_not(self, host: str, up: bool) -> None:
        self._sql("UPDATE services SET last_seen = ? WHERE host = ?", now() if up else 0, host)
        self._sql("UPDATE hosts SET updated_at = ? WHERE host = ?", now(), host)

    @rule(host=st.sampled_from(HOSTS))
    def an_agent_begins_anew(self, host: str) -> None:
        """Its guests go on. What it held is held by nobody now, or by a ghost of it that still talks."""
        reports.report(self.parts["c1"], Report(host=host, report=_report(host), starting=True))

    # --- conductors: each step by itself, so that one may pause between two

    @rule(target=hands, which=WHICH, name=st.sampled_from(CONDUCTORS), expired=st.booleans())
    def conductor_takes(self, which: int, name: str, expired: bool) -> Any:
        """``expired``: the lease of whoever had it has run out."""
        work = self._some_open(which)
        if work is None:
            return multiple()
        if expired:
            with self.db.write() as conn:
                operations.expire_lease(conn, work.id)
        taken, spec = build._take(self.parts[name], work.id)
        if taken is None:
            return multiple()
        self._obeyed(taken.id, taken.epoch, name)
        return Hand(name, taken, spec)

    @rule(target=hands, hand=consumes(hands))
    def conductor_goes_on(self, hand: Hand) -> Any:
        """The next thing that it would do, however long it has paused."""
        parts, work = self.parts[hand.conductor], hand.work
        try:
            if work.kind != "build":
                self._hand_over(parts, work)
            elif hand.selection is None:
                return self._find_a_place(parts, hand)
            else:
                build._hand_over(parts, work, hand.selection.host, hand.selection)
        except (StaleEpoch, NotFound):
            return multiple()
        except Unavailable as error:
            with self.db.write() as conn:
                lease.postpone(conn, work, error.message)
        self._obeyed(work.id, work.epoch, hand.conductor)
        return multiple()

    def _hand_over(self, parts: Parts, work: Row) -> None:
        if work.kind != "delete":
            conductor_actions.hand_over(parts, work, "perform_action")
        elif work.host is not None:
            conductor_actions.hand_over(parts, work, "delete_instance")
        else:
            delete.finish(parts, work)

    def _find_a_place(self, parts: Parts, hand: Hand) -> Any:
        work, left = hand.work, hand.work.host
        try:
            if left is not None:
                work = build._leave(parts, work)
            selection = build._select(parts, work, hand.spec, left)
        except NoValidHost as error:
            build.fail(parts, work, error.message, error.details)
            selection = None
        self._obeyed(hand.work.id, hand.work.epoch, hand.conductor)
        return (
            multiple() if selection is None else msgspec.structs.replace(hand, work=work, selection=selection)
        )

    @rule(which=WHICH, name=st.sampled_from(CONDUCTORS), keep=st.booleans())
    def conductor_hears(self, which: int, name: str, keep: bool) -> None:
        """A message on the topic ``conductor`` is carried out whole; kept, it comes again."""
        if self.bus.to_conductors:
            message = _chosen(self.bus.to_conductors, which)
            if not keep:
                self.bus.to_conductors.remove(message)
            self._perform(name, *message)

    @rule(which=WHICH)
    def a_call_to_the_scheduler_comes_twice(self, which: int) -> None:
        """A broker delivers again what was not acknowledged, at any later time; nobody hears the answer."""
        if self.bus.calls:
            with contextlib.suppress(StaleEpoch, NoValidHost):
                self.bus.call("scheduler", "", _chosen(self.bus.calls, which), None)

    # --- agents

    @rule(target=held, which=WHICH, keep=st.booleans())
    def host_hears(self, which: int, keep: bool) -> Any:
        if not self.bus.to_hosts:
            return multiple()
        message = _chosen(self.bus.to_hosts, which)
        if not keep:
            self.bus.to_hosts.remove(message)
        return Held(message[0], message[2])

    @rule(
        held=held, word=st.sampled_from(["progress", "allocate", "activate", "renew", "end", "fail", "retry"])
    )
    def agent_says(self, held: Held, word: str) -> None:
        work, host = held.work, held.host
        ref: Any = {"host": host, "operation_id": work.operation_id, "epoch": work.epoch}
        if word == "progress":
            step = StepRecord(name="create_disks", started_at=now())
            self._say(held, lambda parts: proxy.progress(parts, Progress(**ref, steps=[step])))
        elif word == "renew":
            renewal = RenewLeases(host=host, held={work.operation_id: work.epoch})
            if proxy.renew_leases(self.parts["c1"], renewal).operation_ids:
                self._obeyed(work.operation_id, work.epoch, operations.agent(host))
        elif word in ("fail", "retry"):
            self._finish(held, error="no", retry=word == "retry")
        elif work.kind != "build":
            self._finish(held, power_state=PowerState.SHUTDOWN)
        elif word == "allocate":
            self._say(held, lambda parts: proxy.allocate_networks(parts, AllocateNetworks(**ref)))
        else:
            self._activate(held)

    def _activate(self, held: Held) -> None:
        ref: Any = {"host": held.host, "operation_id": held.work.operation_id, "epoch": held.work.epoch}
        if self._say(held, lambda parts: proxy.activate(parts, Activate(**ref, steps=[]))):
            self.runs.setdefault(held.work.server_id, set()).add(held.host)
            assert self._host_of(held.work.server_id) in (held.host, None), "a guest runs where it is not"

    # --- what must be true at all times

    @precondition(lambda self: hasattr(self, "db"))
    @invariant()
    def the_records_are_right(self) -> None:
        wrong = self._asked(ALWAYS)
        assert not wrong, wrong

    @precondition(lambda self: hasattr(self, "db"))
    @invariant()
    def nothing_is_overcommitted(self) -> None:
        over = self._sql(
            "SELECT host FROM hosts WHERE vcpus_used > vcpus_limit OR memory_mb_used > memory_mb_limit "
            "OR vcpus_used < 0 OR memory_mb_used < 0 OR servers < 0"
        )
        assert over == []

    # --- inside

    def _obeyed(self, operation_id: str, epoch: int, owner: str) -> None:
        """A word of this owner was obeyed: never one of an older epoch after a newer, never of two hosts
        in one epoch, none of what was superseded."""
        assert operation_id not in self.forbidden, "a word of a superseded operation was obeyed"
        before = self.obeyed.get(operation_id)
        if before is not None:
            assert epoch >= before[0], f"epoch {epoch} was obeyed after {before}"
            two_hosts = owner.startswith("compute") and before[1].startswith("compute") and owner != before[1]
            assert not (epoch == before[0] and two_hosts), f"{owner} and {before[1]} in epoch {epoch}"
        self.obeyed[operation_id] = (epoch, owner)

    def _say(self, held: Held, say: Callable[[Parts], object]) -> bool:
        """Whether the conductor obeyed."""
        try:
            say(self.parts["c1"])
        except (StaleEpoch, NotFound):
            return False
        self._obeyed(held.work.operation_id, held.work.epoch, operations.agent(held.host))
        return True

    def _finish(self, held: Held, **more: Any) -> bool:
        message = Finished(
            host=held.host,
            operation_id=held.work.operation_id,
            epoch=held.work.epoch,
            kind=held.work.kind,
            **more,
        )
        return self._say(held, lambda parts: proxy.finished(parts, message))

    def _perform(self, name: str, method: str, operation_id: str) -> None:
        perform = {
            "build_instances": build.build_instances,
            "perform_action": conductor_actions.perform_action,
            "delete_instance": delete.delete_instance,
        }[method]
        perform(self.parts[name], PerformOperation(operation_id=operation_id))

    def _let_everything_end(self) -> None:
        """Everyone wakes and does what he should; the sweeper sees to the rest."""
        for host in HOSTS:
            reports.report(self.parts["c1"], Report(host=host, report=_report(host)))
        for _ in range(20):
            for message in self._taken(self.bus.to_conductors):
                self._perform("c1", *message)
            for host, _method, work in self._taken(self.bus.to_hosts):
                self._work_well(Held(host, work))
            if not self._all_open():
                return
            self._sql("UPDATE operations SET lease_until = 0 WHERE state = 'open'")
            sweeper.sweep(self.parts["c1"])
        raise AssertionError(f"never ends: {self._all_open()}")

    def _work_well(self, held: Held) -> None:
        if held.work.kind == "build":
            self.agent_says(held, "allocate")
            self._activate(held)
        else:
            self._finish(held)

    @staticmethod
    def _taken(messages: list[Any]) -> list[Any]:
        taken, messages[:] = list(messages), []
        return taken

    def _asked(self, checks: list[str]) -> list[str]:
        return [line for check in checks for (line,) in self._sql(check)]

    def _sql(self, query: str, *values: Any) -> list[Any]:
        with self.db.write() as conn:
            result = conn.exec_driver_sql(query, values)
            return list(result) if result.returns_rows else []

    def _all_open(self) -> list[Any]:
        return self._sql("SELECT id FROM operations WHERE state = 'open' ORDER BY created_at, id")

    def _open(self, server_id: str) -> Row | None:
        with self.db.read() as conn:
            return operations.open_of_server(conn, server_id)

    def _some_open(self, which: int) -> Any:
        found = self._all_open()
        with self.db.read() as conn:
            return operations.get(conn, _chosen(found, which)[0]) if found else None

    def _some_server(self, which: int) -> str | None:
        rows = self._sql("SELECT id FROM servers WHERE deleted_at IS NULL ORDER BY created_at, id")
        return str(_chosen(rows, which)[0]) if rows else None

    def _host_of(self, server_id: str) -> str | None:
        rows = self._sql("SELECT host FROM servers WHERE id = ? AND deleted_at IS NULL", server_id)
        return rows[0][0] if rows else None

    def _placed(self) -> set[str]:
        query = "SELECT id FROM servers WHERE deleted_at IS NULL AND host IS NOT NULL"
        return {row[0] for row in self._sql(query)}


def _chosen(things: list[Any], which: int) -> Any:
    return things[which % len(things)]


def test_the_protocol(tmp_path: Path) -> None:
    Protocol.template = make_template(tmp_path)
    run_state_machine_as_test(
        Protocol,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
