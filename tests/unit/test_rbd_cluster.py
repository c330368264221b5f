"""A Ceph that does not answer costs those who ask at once one wait, not one each."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.running import until

from kilonova.domain.errors import Unavailable
from kilonova.rbd import Cluster


def test_who_asks_while_another_connects_shares_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[str] = []
    fails, looks, failures = threading.Event(), list[None](), [0]

    def seen(_cluster: Cluster) -> int:
        """Who asks looks first how often it has failed so far."""
        looks.append(None)
        return failures[0]

    def failed(_cluster: Cluster, count: int) -> None:
        failures[0] = count

    monkeypatch.setattr(Cluster, "_failures", property(seen, failed), raising=False)
    cluster = Cluster(Path("/nowhere"), "nobody")

    def connect(_cluster: Cluster) -> Any:
        attempts.append(threading.current_thread().name)
        assert fails.wait(60)
        raise Unavailable("the monitors are away")

    monkeypatch.setattr(Cluster, "_connect", connect)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(cluster.connection) for _ in range(4)]
        until(lambda: len(looks) == 5, 60, "all to ask, of whom one looks twice")
        cluster.pool("images")  # asks nobody, and waits for nobody
        fails.set()
        for one in asked:
            with pytest.raises(Unavailable, match="monitors are away"):
                one.result(30)
    assert len(attempts) == 1
    with pytest.raises(Unavailable):
        cluster.connection()
    assert len(attempts) == 2, "whoever asks afterwards tries again"
