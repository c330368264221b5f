"""The random run of `make crash`, short: ten seconds in which everything dies once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from crash.cluster import Backends
from crash.plan import plan
from crash.storm import COUNTS, storm
from tests.databases import Catalog
from tests.postgresql import PostgreSQL
from tests.rabbit import Rabbit

pytestmark = pytest.mark.crash
SEED = 7
FEW = {"api": 1, "conductor": 2, "scheduler": 1, "compute": 2}


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


def test_a_seed_plans_the_same() -> None:
    services = [f"{kind}-{number}" for kind, count in COUNTS.items() for number in range(1, count + 1)]
    assert plan(SEED, 60, services) == plan(SEED, 60, services)
    assert plan(SEED, 60, services) != plan(SEED + 1, 60, services)
