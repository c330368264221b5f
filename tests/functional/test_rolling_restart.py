"""Every service is asked to stop and started again, one after the other, while clients work: they see nothing
of it, and no build waits for a lease to run out."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.rabbit import Rabbit
from tests.running import until
from tests.services import Services

SLOW = "[fake.step_seconds]\nensure_base_image = 0.1\nensure_disks = 0.1\nensure_paused = 0.1\n"
LONG_LEASE = ("lease = 3.0", "lease = 600.0\nbuild_timeout = 900.0")
ALL = ("api-1", "api-2", "conductor-1", "conductor-2", "scheduler-1", "scheduler-2", "compute")


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """Nobody's but the tests': it stays while the services come and go."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as one:
        yield one


@pytest.fixture
def services(
    tmp_path: Path, rabbit: Rabbit, listening: socket.socket, new_postgresql_url: str
) -> Iterator[Services]:
    made = Services(
        tmp_path / "state",
        rabbit.url,
        f"kilonova-{uuid.uuid4()}",
        SLOW,
        database_url=new_postgresql_url,
        listening=listening,
    )
    made.config.write_text(made.config.read_text().replace(*LONG_LEASE))
    yield made
    made.close()


@pytest.fixture
def new_postgresql_url(request: pytest.FixtureRequest) -> Iterator[str]:
    databases = request.getfixturevalue("postgresql_databases")
    url = databases.empty()
    yield url
    databases.drop(url)


class Worker:
    """A client that asks, and asks again, until it is stopped. ``failed`` is what it met."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self.asked = 0
        self.failed: list[str] = []
        self._ask = ask
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._ask()
                self.asked += 1
            except Exception as error:  # noqa: BLE001 - whatever a client may meet
                self.failed.append(repr(error))
            self._stop.wait(0.02)


class Connection:
    """A client that keeps its connection as long as the server does, and never asks twice."""

    def __init__(self, url: str, token: str) -> None:
        self._address = urlsplit(url).netloc
        self._headers = {"X-Auth-Token": token, "OpenStack-API-Version": "compute 2.90"}
        self._kept: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = self._kept or http.client.HTTPConnection(self._address, timeout=60)
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json", **self._headers})
        answer = connection.getresponse()
        found = json.load(answer)
        assert answer.status in (200, 202), (answer.status, found)
        self._kept = None if answer.will_close else connection
        if self._kept is None:
            connection.close()
        return found

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()


def test_nobody_notices_a_rolling_restart(services: Services) -> None:
    for name in ALL:
        services.begin(name)
    for name in ALL:
        services.wait_ready(name)
    image, network = services.image(b"\0" * 512), services.network("10.91.0.0/16")
    _, answer = services.ask("GET", "/compute/v2.1/servers")
    assert answer == {"servers": []}
    token = token_of(services)
    made: list[str] = []
    kept = [Connection(services.url, token) for _ in range(3)]
    body = {"server": {"name": "vm", "imageRef": image, "flavorRef": "42", "networks": [{"uuid": network}]}}

    def create() -> None:
        made.append(kept[0].ask("POST", "/compute/v2.1/servers", body)["server"]["id"])

    def read_anew() -> None:
        one = Connection(services.url, token)
        one.ask("GET", "/compute/v2.1/flavors")
        one.close()

    clients = [
        Worker(create),
        Worker(lambda: kept[1].ask("GET", "/compute/v2.1/servers?limit=1")),
        Worker(lambda: kept[2].ask("GET", "/compute/v2.1/flavors")),
        Worker(read_anew),
    ]
    try:
        until(lambda: made, 60, "the first server")
        for name in ALL:
            before = [client.asked for client in clients]
            assert services.stop(name) == 0, services.log(name)[-3000:]
            services.start(name)
            until(
                lambda before=before: all(
                    client.asked > old for client, old in zip(clients, before, strict=True)
                ),
                60,
                f"all clients to have gone on after {name}",
            )
    finally:
        for client in clients:
            client.stop()
        for connection in kept:
            connection.close()
    assert [client.failed for client in clients] == [[], [], [], []]
    all_active(services, made)


def token_of(services: Services) -> str:
    services.ask("GET", "/compute/v2.1/flavors")
    return services._token


def all_active(services: Services, made: list[str]) -> None:
    """Well within the lease: nothing had to wait for its end."""

    def counts() -> dict[str, int]:
        with services.database() as db:
            rows = db.execute(
                "SELECT vm_state, count(*) FROM servers WHERE deleted_at IS NULL GROUP BY 1"
            ).fetchall()
        return {str(state): int(count) for state, count in rows}

    until(lambda: counts() == {"active": len(made)}, 90, f"{len(made)} to be ACTIVE: {counts()}")
    until(lambda: services.unexplained() == [], 60, f"all explained: {services.unexplained()}")


def test_an_api_that_restarts_alone_keeps_its_clients_waiting(services: Services) -> None:
    """The socket is not its own: what comes meanwhile waits there."""
    services.start("api")
    url, token = services.url, token_of(services)
    services.stop("api")
    answers: list[Any] = []
    asking = threading.Thread(
        target=lambda: answers.append(Connection(url, token).ask("GET", "/compute/v2.1/flavors"))
    )
    asking.start()
    services.start("api")
    asking.join(60)
    assert answers
