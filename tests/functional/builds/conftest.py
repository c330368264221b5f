"""Clouds of one and of several hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.functional.builds.cloud import Cloud

from kilonova.config import Config

MakeCloud = Callable[..., Cloud]


@pytest.fixture
def make_cloud(tmp_path: Path) -> Iterator[MakeCloud]:
    """``make_cloud(hosts=2, config=…)``"""
    made: list[Cloud] = []

    def make(hosts: int = 1, config: Config | None = None) -> Cloud:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Cloud(folder, config or Config(), hosts))
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
