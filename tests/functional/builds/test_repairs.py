"""An agent looks at its host's network when that says that something has changed, and from time to time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.functional.builds.cloud import Cloud

from kilonova.network.host import MemoryHost


def test_the_network_is_repaired_when_it_says_that_it_changed(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    tells: list[Callable[[], None]] = []
    repairs: list[MemoryHost] = []
    monkeypatch.setattr(MemoryHost, "on_change", lambda _, tell: tells.append(tell))
    monkeypatch.setattr(MemoryHost, "repair", lambda one: repairs.append(one) or [])
    (host,) = cloud.hosts.values()
    host.start()
    host.mends.tick()
    assert repairs == [host.network]
    (tell,) = tells
    tell()
    tell()
    host.mends.tick()
    assert repairs == [host.network] * 3, "its turn, and once because it changed"
