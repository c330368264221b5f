"""The random run of `make crash`, short: ten seconds in which everything dies once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from crash.cluster import Backends, Cluster
from crash.plan import KILL, Fault, plan
from crash.service import Service
from crash.storm import COUNTS, Report, _Weather, storm
from tests.databases import Catalog
from tests.postgresql import PostgreSQL
from tests.rabbit import Rabbit

pytestmark = pytest.mark.crash
SEED = 7
FEW = {"api": 1, "conductor": 2, "scheduler": 1, "compute": 2, "volume": 1}


def test_all_is_well_after_a_storm(rabbit: Rabbit) -> None:
    @contextmanager
    def among() -> Iterator[Backends]:
        server = PostgreSQL()
        try:
            catalog = Catalog(server.start())
            url = catalog.make()
            catalog.close()
            yield rabbit, server, url
        finally:
            server.remove()

    report = storm(SEED, seconds=10, builds=10, say=print, every=2.0, counts=FEW, among=among)
    assert report.wrong == []
    assert report.messages["drop"] > 0
    assert report.injected["kill -9"] == 4


@pytest.mark.parametrize("when", ["seen at once", "seen as it is to be killed"])
def test_a_service_that_ends_by_itself_is_a_finding(tmp_path: Path, when: str) -> None:
    """Nobody killed it: its configuration is none. It is started again all the same."""
    service = Service("scheduler-1", tmp_path, ())
    service.config.write_text("nonsense = true\n")
    service.begin()
    assert service.wait_dead(60)
    report = Report(SEED)
    weather = _Weather(cast(Cluster, SimpleNamespace(services={service.name: service})), report, print)
    try:
        if when == "seen at once":
            weather.watch()
        else:
            weather.blow([Fault(0.0, KILL, service.name)])
        (found,) = report.wrong
        assert "scheduler-1 ended by itself, exit status 1" in found
        assert "nonsense" in found
        assert report.injected[KILL] == (0 if when == "seen at once" else 1)
        assert service.wait_dead(60), "it was begun again"
    finally:
        service.kill()


def test_a_service_that_was_killed_is_no_finding(tmp_path: Path) -> None:
    service = Service("scheduler-1", tmp_path, ())
    service.config.write_text('[bus]\nurl = "amqp://127.0.0.1:1"\n[database]\nconnection = "sqlite://"\n')
    service.begin()
    report = Report(SEED)
    weather = _Weather(cast(Cluster, SimpleNamespace(services={service.name: service})), report, print)
    try:
        weather.blow([Fault(0.0, KILL, service.name)])
        weather.watch()
        assert report.wrong == []
        assert report.injected == {KILL: 1}
    finally:
        service.kill()


def test_a_seed_plans_the_same() -> None:
    services = [f"{kind}-{number}" for kind, count in COUNTS.items() for number in range(1, count + 1)]
    assert plan(SEED, 60, services) == plan(SEED, 60, services)
    assert plan(SEED, 60, services) != plan(SEED + 1, 60, services)
