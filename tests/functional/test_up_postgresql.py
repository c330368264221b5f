"""`kilonova up` on PostgreSQL: builds end well, also while the database restarts."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.databases import Catalog
from tests.postgresql import PostgreSQL
from tests.running import Up, until

SERVERS = 30
CONFIG = """
[operations]
lease = 3.0
sweep_interval = 0.5
[quota]
instances = -1
cores = -1
ram = -1
[fake.step_seconds]
ensure_base_image = 0.1
ensure_disks = 0.1
ensure_paused = 0.1
destroy = 0.1
"""


@pytest.fixture
def server() -> Iterator[PostgreSQL]:
    """One that a test may stop."""
    server = PostgreSQL()
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture
def up(tmp_path: Path, server: PostgreSQL) -> Iterator[Up]:
    catalog = Catalog(server)
    url = catalog.make()
    catalog.close()
    machine = Up(tmp_path / "state", hosts=3, database_url=url)
    yield machine.start(CONFIG)
    machine.kill()


def post(up: Up, image: str, network: str) -> str:
    """The server's id. 503, which may mean that it is not known whether it was made, is sent again."""
    server = {"name": "vm", "imageRef": image, "flavorRef": "42", "networks": [{"uuid": network}]}
    key = {"Idempotency-Key": f'"{uuid.uuid4()}"'}
    while True:
        status, answer = up.ask("POST", "/compute/v2.1/servers", {"server": server}, key)
        if status == 202:
            return str(answer["server"]["id"])
        assert status in (409, 503), answer
        time.sleep(0.1)


def listed(up: Up) -> dict[str, str]:
    """Server → status."""
    status, answer = up.ask("GET", "/compute/v2.1/servers/detail")
    return {server["id"]: server["status"] for server in answer["servers"]} if status == 200 else {"?": "?"}


def all_active(up: Up, made: list[str]) -> None:
    """Those made, each once, are ACTIVE, and there are no others."""
    until(lambda: listed(up) == dict.fromkeys(made, "ACTIVE"), 60, "all ACTIVE")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_the_database_restarts_while_servers_are_built_and_deleted(
    up: Up, server: PostgreSQL, how: signal.Signals
) -> None:
    image, network = up.image(b"\0" * 512), up.network()
    with ThreadPoolExecutor(8) as pool:
        posts = [pool.submit(post, up, image, network) for _ in range(SERVERS)]
        until(lambda: sum(one.done() for one in posts) > SERVERS // 3, 60, "some to be accepted")
        server.stop(how)
        server.start()
        made = [one.result() for one in posts]
    all_active(up, made)
    until(lambda: up.unexplained() == [], 60, "all to be explained")

    for number, server_id in enumerate(made):
        if number == SERVERS // 2:
            server.stop(how)
            server.start()
        until(lambda: up.ask("DELETE", f"/compute/v2.1/servers/{server_id}")[0] in (204, 404), 60, "a 204")  # noqa: B023
    until(lambda: listed(up) == {}, 60, "all to be gone")
    assert up.unexplained() == []


def test_killed_and_started_again(up: Up) -> None:
    made = [post(up, up.image(b"\0" * 512), up.network()) for _ in range(1)]
    up.kill()
    up.start(CONFIG)
    all_active(up, made)
    assert up.unexplained() == []


GROWS = [
    "ALTER TABLE servers ADD COLUMN later TEXT",
    "ALTER TABLE operations ADD COLUMN later INTEGER NOT NULL DEFAULT 0",
    "CREATE TABLE later (id TEXT PRIMARY KEY)",
    "UPDATE alembic_version SET version_num = '9999'",
]


def test_the_schema_grows_while_servers_are_built(up: Up) -> None:
    """As an upgrade of the next release does, before its services replace these; these restart meanwhile."""
    image, network = up.image(b"\0" * 512), up.network()
    with ThreadPoolExecutor(4) as pool:
        posts = [pool.submit(post, up, image, network) for _ in range(SERVERS)]
        until(lambda: sum(one.done() for one in posts) > SERVERS // 3, 60, "some to be accepted")
        with up.database() as db:
            for ddl in GROWS:  # one after the other: together they would lock servers before operations
                db.execute(ddl)
                db.commit()
        made = [one.result() for one in posts]
    up.kill()
    up.start(CONFIG)
    all_active(up, made)
    assert up.unexplained() == []


def test_it_waits_for_its_database(tmp_path: Path) -> None:
    """And says so, and can be stopped meanwhile."""
    server = PostgreSQL()
    up = Up(tmp_path / "state", database_url=server.url())
    waiting = "waiting for the database"
    try:
        up.begin(CONFIG)
        until(lambda: waiting in up.said, 60, "it to say so")
        assert up.stop() == 130
        up.begin(CONFIG)
        until(lambda: waiting in up.said, 60, "it to say so")
        server.start()
        up.wait_ready()
        assert up.ask("GET", "/compute/v2.1/servers")[0] == 200
    finally:
        up.kill()
        server.remove()
