"""kill -9 at every fault point: of whichever service comes there, in the midst of what it does.

Which points there are is seen, not listed: every scenario runs once undisturbed, and the services write down
what they reach. `tests/functional/builds/watch.py` finds the same points by another way, in one process; one
that no scenario reaches is an error.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.functional.builds.cloud import Cloud, first_start
from tests.functional.builds.stories import CONFIG, STORIES
from tests.functional.builds.watch import watch
from tests.running import until

from crash.cluster import Cluster, backends
from crash.oracle import orphans, settle
from crash.scenarios import SCENARIOS, Scenario, enable, server_name, state_of, story_of
from crash.server_volume_scenarios import SERVER_VOLUME_SCENARIOS
from crash.volume_scenarios import VOLUME_SCENARIOS
from kilonova import log
from kilonova.store.database import Database

_COUNTS = {"api": 1, "conductor": 1, "scheduler": 1, "compute": 2, "volume": 1}
_PATIENCE = 60.0


@dataclass(frozen=True)
class Outcome:
    """``wrong`` empty: all was well after it; ``missed``: nobody came there, as may be."""

    scenario: str
    point: str
    victim: str
    wrong: str = ""
    missed: bool = False


Tell = Callable[[Outcome], None]


def kill_at_every_point(tell: Tell, only: str = "", keep: str = "", alone: bool = False) -> list[Outcome]:
    """One outcome a point, in the first scenario that comes there. ``only``: part of a scenario's name;
    the others run too, undisturbed; or, if ``alone``, not at all. ``keep``: a folder for the logs, should
    anything be wrong."""
    every = (*SCENARIOS, *VOLUME_SCENARIOS, *SERVER_VOLUME_SCENARIOS)
    scenarios = [one for one in every if only in one.name or not alone]
    expected = set() if alone else points_in_one_process()
    with tempfile.TemporaryDirectory(prefix="kilonova-crash-") as folder, backends() as (rabbit, pg, url):
        cluster = Cluster(Path(folder), rabbit, pg, url, _COUNTS, compute={"compute-1": ("--hosts", "2")})
        try:
            outcomes = _Points(cluster, tell).all(scenarios, only, expected)
            if keep and any(outcome.wrong for outcome in outcomes):
                cluster.keep_logs(Path(keep))
            return outcomes
        finally:
            cluster.close()


def points_in_one_process() -> set[str]:
    """All that the stories of tests/functional/builds pass."""
    log.setup(level="critical")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        seen = watch(patch)
        for number, story in enumerate(STORIES):
            db = Database(f"sqlite:///{folder}/{number}.db")
            db.create()
            first_start(db)
            cloud = Cloud(db, CONFIG, hosts=2)
            try:
                story(cloud)
            finally:
                cloud.close()
    return seen.points


class _Points:
    def __init__(self, cluster: Cluster, tell: Tell) -> None:
        self._cluster = cluster
        self._tell = tell
        self._known: set[str] = set()
        self._outcomes: list[Outcome] = []

    def all(self, scenarios: list[Scenario], only: str, expected: set[str]) -> list[Outcome]:
        self._cluster.start()
        self._cluster.furnish()
        enable(self._cluster, "host-2", False)
        for scenario in scenarios:
            try:
                for point, victim in self._new_points(scenario):
                    if only not in scenario.name:
                        continue
                    self._told(self._kill_at(scenario, point, victim))
                self._clear(scenario)
            except AssertionError as error:
                self._told(Outcome(scenario.name, "none", "nobody", str(error)))
                self._cluster.start()
        for point in sorted(expected - self._known):
            self._told(Outcome("none", point, "nobody", "no scenario comes there"))
        return self._outcomes

    def _told(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._tell(outcome)

    def _new_points(self, scenario: Scenario) -> list[tuple[str, str]]:
        """(point, who comes there) of an undisturbed run, but for those of earlier scenarios."""
        services = self._cluster.services
        for name, service in services.items():
            self._configure(scenario, name, {"record": str(service.record)})
        self._cluster.start()
        self._do(scenario)
        found: list[tuple[str, str]] = []
        for name, service in services.items():
            lines = service.record.read_text().splitlines() if service.record.exists() else []
            new = [point for point in dict.fromkeys(lines) if point not in self._known]
            self._known.update(new)
            found += [(point, name) for point in new]
            self._configure(scenario, name, {})
        return found

    def _do(self, scenario: Scenario) -> None:
        server = server_name(scenario)
        scenario.prepare(self._cluster, server)
        settle(self._cluster, max(_PATIENCE, scenario.settles))
        for service in self._cluster.services.values():
            service.record.unlink(missing_ok=True)  # nobody is killed in what prepares it
        scenario.run(self._cluster, server)
        scenario.again(self._cluster, server)
        self._ends(scenario, server)

    def _kill_at(self, scenario: Scenario, point: str, victim: str) -> Outcome:
        cluster, service = self._cluster, self._cluster.services[victim]
        server = server_name(scenario)
        outcome = Outcome(scenario.name, point, victim)
        try:
            scenario.prepare(cluster, server)
            self._configure(scenario, victim, {"kill_at": point})
            self._restart_to_die(victim)
            scenario.run(cluster, server)
            reached = service.wait_dead(_PATIENCE)
            self._configure(scenario, victim, {})
            cluster.restart(victim)
            if not reached and point not in scenario.perhaps:
                return replace(outcome, wrong=f"nobody came to {point}")
            scenario.again(cluster, server)
            self._ends(scenario, server)
        except AssertionError as error:
            self._configure(scenario, victim, {})
            cluster.start()  # whatever it left stopped
            return replace(outcome, wrong=str(error))
        return replace(outcome, missed=not reached)

    def _restart_to_die(self, victim: str) -> None:
        """It may come to its point as it begins, when it looks at what is there."""
        try:
            self._cluster.restart(victim)
        except AssertionError:
            if not self._cluster.services[victim].died:
                raise

    def _ends(self, scenario: Scenario, server: str) -> None:
        """Well, and nothing is left of it. AssertionError."""
        cluster = self._cluster
        ends = {scenario.goal, scenario.late} - {""}
        state = scenario.state or state_of
        try:
            until(lambda: state(cluster, server) in ends, max(_PATIENCE, scenario.settles), scenario.goal)
        except AssertionError as error:
            told = state(cluster, server) if scenario.state else story_of(cluster, server)
            raise AssertionError(f"{told}, not {scenario.goal}") from error
        settle(cluster, scenario.settles)
        scenario.finally_(cluster, server)

    def _configure(self, scenario: Scenario, name: str, faults: dict[str, Any]) -> None:
        options = scenario.options.get(self._cluster.services[name].kind, {})
        self._cluster.configure(name, {**options, "faults": faults} if faults else options)

    def _clear(self, scenario: Scenario) -> None:
        """Delete all servers and volumes, with none of its options but those that say where volumes are."""
        cluster = self._cluster
        for name, service in cluster.services.items():
            options = scenario.options.get(service.kind, {})
            places = [section for section in options if section.startswith("volume.backends.")]
            cluster.configure(name, {section: options[section] for section in places})
        cluster.start()
        cluster.delete_all()
        settle(cluster, _PATIENCE)
        assert all(not servers for servers in cluster.on_hosts().values()), cluster.on_hosts()
        assert not cluster.volume_files(), cluster.volume_files()
        assert not (left := orphans(cluster)), f"without an owner: {left}"
