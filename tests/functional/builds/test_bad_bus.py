"""A bus at its worst, at random: questions lost, answers lost, messages doubled, at once and late."""

from __future__ import annotations

import random
import threading
from contextlib import suppress
from typing import Any

import pytest
from tests.functional.builds.cloud import Cloud
from tests.functional.builds.conftest import MakeCloud
from tests.running import until

from kilonova.config import Config, Operations
from kilonova.domain.errors import KilonovaError, Timeout, Unavailable

SERVERS = 8
LATEST = 0.3


class Storm:
    """Of a hundred calls thirty-five go wrong in some way; of a hundred casts as many."""

    def __init__(self, cloud: Cloud, seed: int) -> None:
        self._random = random.Random(seed)
        self._call, self._cast = cloud.bus.call, cloud.bus.cast
        self._late: list[threading.Timer] = []
        cloud.bus.call, cloud.bus.cast = self.call, self.cast  # type: ignore[method-assign]
        self._cloud = cloud

    def call(self, topic: str, method: str, request: Any, reply: Any, timeout: float = 60.0) -> Any:
        fate = self._random.random()
        if fate < 0.1:
            raise Unavailable(f"{method} did not arrive")
        if 0.1 <= fate < 0.15:
            self._later(self._call, topic, method, request, reply)
            raise Timeout(f"{method} arrives late")
        answer = self._call(topic, method, request, reply, timeout)
        if 0.15 <= fate < 0.2:
            self._again(self._call, topic, method, request, reply)
        if 0.2 <= fate < 0.25:
            self._later(self._call, topic, method, request, reply)
        if 0.25 <= fate < 0.35:
            raise Timeout(f"the answer to {method} is lost")
        return answer

    def cast(self, topic: str, method: str, request: Any) -> None:
        fate = self._random.random()
        if fate < 0.1:
            return
        if 0.1 <= fate < 0.2:
            self._later(self._cast, topic, method, request)
            return
        self._cast(topic, method, request)
        if 0.2 <= fate < 0.3:
            self._cast(topic, method, request)
        if 0.3 <= fate < 0.35:
            self._later(self._cast, topic, method, request)

    def is_over(self) -> None:
        """No more of it; what is late has arrived."""
        self._cloud.bus.call, self._cloud.bus.cast = self._call, self._cast  # type: ignore[method-assign]
        for timer in self._late:
            timer.join()

    def _later(self, send: Any, *message: Any) -> None:
        timer = threading.Timer(self._random.random() * LATEST, self._again, (send, *message))
        self._late.append(timer)
        timer.start()

    def _again(self, send: Any, *message: Any) -> None:
        """Nobody hears the answer."""
        with suppress(KilonovaError):
            send(*message)


@pytest.mark.parametrize("seed", range(4))
def test_all_that_is_asked_for_happens_once(make_cloud: MakeCloud, seed: int) -> None:
    operations = Operations(lease=1.0, sweep_interval=0.1, build_timeout=60.0, action_timeout=60.0)
    cloud = make_cloud(hosts=3, config=Config(operations=operations))
    network = cloud.make_network()
    cloud.keep_sweeping()
    storm = Storm(cloud, seed)
    made = [cloud.create(network) for _ in range(SERVERS)]
    for server_id in made:
        assert ends_as(cloud, server_id) == "ACTIVE"
    for server_id in made:
        assert cloud.act(server_id, "os-stop") == 202
    for server_id in made:
        assert ends_as(cloud, server_id) == "SHUTOFF"
    storm.is_over()
    assert cloud.unexplained() == []
    assert steps_told_twice(cloud) == []
    placed = {cloud.server(server_id)["OS-EXT-SRV-ATTR:host"] for server_id in made}
    for name, host in cloud.hosts.items():
        here = [i for i in made if cloud.server(i)["OS-EXT-SRV-ATTR:host"] == name]
        until(lambda host=host, here=here: host.driver.leftovers() == set(here), 60, f"{name} to hold {here}")
    assert placed <= cloud.hosts.keys()

    storm = Storm(cloud, seed + 100)
    for server_id in made:
        cloud.delete(server_id)
    for server_id in made:
        until(lambda i=server_id: cloud.server(i) is None, 60, "it to go")
    storm.is_over()
    assert cloud.unexplained() == []
    assert all(host.is_empty() for host in cloud.hosts.values())


def ends_as(cloud: Cloud, server_id: str) -> str:
    def idle() -> Any:
        server = cloud.server(server_id)
        return server["OS-EXT-STS:task_state"] is None and server["status"] != "BUILD" and server

    server = until(idle, 40, f"{server_id} to end: {cloud.trace()}")
    assert "fault" not in server, server
    return str(server["status"])


def steps_told_twice(cloud: Cloud) -> list[Any]:
    return cloud.sql(
        "SELECT operation_id, epoch, name, count(*) FROM steps"
        " GROUP BY operation_id, epoch, name, started_at HAVING count(*) > 1"
    )
