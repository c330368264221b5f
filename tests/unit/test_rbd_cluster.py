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
    cluster = Cluster(Path("/nowhere"), "nobody")
    attempts: list[str] = []
    fails = threading.Event()

    def connect(_cluster: Cluster) -> Any:
        attempts.append(threading.current_thread().name)
        assert fails.wait(30)
        raise Unavailable("the monitors are away")

    monkeypatch.setattr(Cluster, "_connect", connect)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(cluster.connection) for _ in range(4)]
        until(lambda: attempts and pool._work_queue.empty(), 30, "all to ask")
        cluster.pool("images")  # asks nobody, and waits for nobody
        threading.Timer(0.2, fails.set).start()
        for one in asked:
            with pytest.raises(Unavailable, match="monitors are away"):
                one.result(30)
    assert len(attempts) == 1
    with pytest.raises(Unavailable):
        cluster.connection()
    assert len(attempts) == 2, "whoever asks afterwards tries again"
