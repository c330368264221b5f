"""Clouds of one and of several hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.functional.builds.cloud import Cloud, first_start

from kilonova.config import Config
from kilonova.store.database import Database

MakeCloud = Callable[..., Cloud]


@pytest.fixture
def make_cloud(new_database: Callable[..., Database]) -> Iterator[MakeCloud]:
    """``make_cloud(hosts=2, config=…)``"""
    made: list[Cloud] = []

    def make(hosts: int = 1, config: Config | None = None) -> Cloud:
        made.append(Cloud(new_database(first_start), config or Config(), hosts))
        return made[-1]

    yield make
    for cloud in made:
        cloud.close()


@pytest.fixture
def cloud(make_cloud: MakeCloud) -> Cloud:
    """One host."""
    return make_cloud()


@pytest.fixture
def two(make_cloud: MakeCloud) -> Cloud:
    """Two hosts."""
    return make_cloud(hosts=2)
