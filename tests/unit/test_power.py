"""What guests really do, told when nothing is being done to them; never what is old or only half done."""

from __future__ import annotations

from typing import Any, cast

import pytest
from tests.unit.test_running import work

from kilonova.compute.parts import Parts
from kilonova.compute.power import PowerWatch
from kilonova.compute.running import Running
from kilonova.config import Config, Faults
from kilonova.domain.errors import Unavailable
from kilonova.domain.servers import PowerState
from kilonova.engine.faults import FaultPoints
from kilonova.virt.base import Guest, GuestEvent

RUNNING, PAUSED, SHUTDOWN = PowerState.RUNNING, PowerState.PAUSED, PowerState.SHUTDOWN


class Host:
    """The driver and the bus of a host: its guests, and what was told of them."""

    def __init__(self) -> None:
        self.all: dict[str, Guest] = {}
        self.told: list[dict[str, PowerState]] = []
        self.error: Exception | None = None

    def is_now(self, server: str, state: PowerState, awaits_start: bool = False) -> None:
        self.all[server] = Guest(server_id=server, power_state=state, awaits_start=awaits_start)

    def guests(self) -> list[Guest]:
        return list(self.all.values())

    def guest(self, server: str) -> Guest | None:
        if self.error is not None:
            raise self.error
        return self.all.get(server)

    def cast(self, _topic: str, _method: str, message: Any) -> None:
        self.told.append(message.states)

    def tell(self, topic: str, method: str, message: Any) -> None:
        self.cast(topic, method, message)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def running() -> Running:
    return Running()


@pytest.fixture
def watch(host: Host, running: Running) -> PowerWatch:
    parts = Parts(
        host="h1",
        config=Config(),
        bus=cast(Any, host),
        driver=cast(Any, host),
        network=cast(Any, None),
        faults=FaultPoints(Faults()),
    )
    return PowerWatch(parts, running)


def happens(host: Host, watch: PowerWatch, state: PowerState, server: str = "s") -> None:
    host.is_now(server, state)
    watch.on_event(GuestEvent(server_id=server, power_state=state))


def test_what_happens_to_an_idle_guest_is_told_at_once(host: Host, watch: PowerWatch) -> None:
    happens(host, watch, SHUTDOWN)
    assert host.told == [{"s": SHUTDOWN}]


def test_what_happens_during_work_is_told_after_it(host: Host, watch: PowerWatch, running: Running) -> None:
    with running.begin(work()):
        happens(host, watch, RUNNING)
        happens(host, watch, SHUTDOWN)
        assert host.told == []
    watch.work_ended("s", RUNNING)
    assert host.told == [{"s": SHUTDOWN}]
    watch.work_ended("s", RUNNING)
    assert len(host.told) == 1, "once"


def test_what_the_work_told_itself_is_not_told_again(host: Host, watch: PowerWatch, running: Running) -> None:
    with running.begin(work()):
        happens(host, watch, SHUTDOWN)
        happens(host, watch, RUNNING)
    watch.work_ended("s", RUNNING)
    assert host.told == []


def test_what_was_held_back_is_looked_at_anew(host: Host, watch: PowerWatch, running: Running) -> None:
    """Events may be late: what counts is what the guest does when the work has ended."""
    with running.begin(work()):
        happens(host, watch, SHUTDOWN)
    host.is_now("s", RUNNING)
    watch.work_ended("s", RUNNING)
    assert host.told == []


def test_a_guest_that_is_gone_after_the_work_is_not_told(
    host: Host, watch: PowerWatch, running: Running
) -> None:
    with running.begin(work(kind="delete")):
        happens(host, watch, SHUTDOWN)
        host.all.clear()
    watch.work_ended("s", PowerState.NOSTATE)
    assert host.told == []


def test_a_hypervisor_that_is_away_is_asked_with_the_next_report(
    host: Host, watch: PowerWatch, running: Running
) -> None:
    with running.begin(work()):
        happens(host, watch, SHUTDOWN)
    host.error = Unavailable("libvirt is away")
    watch.work_ended("s", None)
    assert host.told == []
    watch.tell_all()
    assert host.told == [{"s": SHUTDOWN}]


def test_the_pause_of_a_build_is_never_told(host: Host, watch: PowerWatch, running: Running) -> None:
    """It is ours, not a user's: told, it would make the server PAUSED, and nobody would resume it."""
    host.is_now("s", PAUSED, awaits_start=True)
    host.is_now("mine", PAUSED)
    watch.tell_all()
    assert host.told == [{"mine": PAUSED}]
    with running.begin(work()):
        watch.on_event(GuestEvent(server_id="s", power_state=PAUSED))
    watch.work_ended("s", None)
    assert len(host.told) == 1


def test_a_report_leaves_out_what_is_worked_on(host: Host, watch: PowerWatch, running: Running) -> None:
    host.is_now("s", RUNNING)
    host.is_now("idle", SHUTDOWN)
    with running.begin(work()):
        watch.tell_all()
    assert host.told == [{"idle": SHUTDOWN}]


def test_an_empty_host_says_nothing(host: Host, watch: PowerWatch) -> None:
    watch.tell_all()
    assert host.told == []
