"""What a host asks again when it could not do what it was told (compute/refresh.py)."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.running import until

from kilonova.bus.local import LocalBus
from kilonova.compute import refresh
from kilonova.compute.parts import Parts
from kilonova.compute.refresh import Refresher
from kilonova.config import Config, Faults
from kilonova.domain.errors import BuildFailed, Unavailable
from kilonova.domain.messages import NetworkChanged
from kilonova.domain.network import NetworkState
from kilonova.engine.faults import FaultPoints
from kilonova.network.host import MemoryHost
from kilonova.virt.fake import FakeDriver


class Failing(MemoryHost):
    follows = True

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    def refresh(self, state: NetworkState, asked: float) -> None:
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """For how long the refresher waited each time; a wait for nothing but time is over at once."""
    waited: list[float | None] = []
    wait_for = threading.Condition.wait_for

    def wait(self: threading.Condition, done: Any, timeout: float | None = None) -> Any:
        if threading.current_thread().name != "network-refresh":
            return wait_for(self, done, timeout)
        waited.append(timeout)
        return wait_for(self, done, None if timeout is None else 0)

    monkeypatch.setattr(threading.Condition, "wait_for", wait)
    return waited


def test_what_a_host_cannot_do_is_tried_less_and_less_often(
    pauses: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, away = BuildFailed("nft refuses"), Unavailable("no conductor")
    network = Failing(*[refused] * 7, away, away, refused)
    parts = Parts(
        host="h",
        config=Config(),
        bus=LocalBus({}),
        driver=FakeDriver("h", Config()),
        network=network,
        faults=FaultPoints(Faults()),
    )
    monkeypatch.setattr(Parts, "ask", lambda *_: NetworkState())
    refresher = Refresher(parts)
    refresher.network_changed(NetworkChanged(ports=["p"]))
    until(lambda: not network.errors and pauses[-1] is None, 60, "all to be tried")
    refresher.close()
    longest = refresh._LONGEST_RETRY
    assert [pause for pause in pauses if pause is not None] == [1, 2, 4, 8, 16, longest, longest, 1, 1, 2]
