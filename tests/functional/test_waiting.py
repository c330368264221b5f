"""Services that are started before what they need: they wait for it, say so, and can be stopped meanwhile."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.postgresql import PostgreSQL
from tests.rabbit import PASSWORD, Rabbit
from tests.running import until
from tests.services import Services

from kilonova.cli.parts.database import keep_alive
from kilonova.config import Compute, Config
from kilonova.domain.errors import RolledBack
from kilonova.store import hosts
from kilonova.store.database import Database

NAMES = ("api", "conductor", "scheduler")
MONITORING = '[monitoring]\nlisten = "127.0.0.1:0"\n'


@pytest.fixture
def server() -> Iterator[PostgreSQL]:
    """One that does not run yet."""
    server = PostgreSQL()
    yield server
    server.remove()


def made(folder: Path, bus: str, database_url: str) -> Services:
    exchange = f"kilonova-{uuid.uuid4()}"
    return Services(folder / "state", bus, exchange, MONITORING, database_url=database_url)


def ready(services: Services, name: str) -> tuple[int, dict[str, dict[str, str]]]:
    """What /readyz answers, for the operator."""
    until(lambda: "monitoring: " in services.said(name), 60, f"{name} to begin")
    url = services.said(name).partition("monitoring: ")[2].split()[0]
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def ends(services: Services, name: str) -> int:
    """Start it: its exit status."""
    services.begin(name)
    try:
        return services.wait(name)
    finally:
        services.close()


def test_services_wait_for_their_database(tmp_path: Path, rabbit: Rabbit, server: PostgreSQL) -> None:
    services = made(tmp_path, rabbit.url, server.url())
    try:
        for name in (*NAMES, "scheduler-2"):
            services.begin(name)
        for name in NAMES:
            until(
                lambda name=name: "waiting for the database" in services.said(name), 60, f"{name} to say so"
            )
            until(lambda name=name: "database_away" in services.log(name), 60, f"{name} to log it")
            status, shown = ready(services, name)
            assert status == 503
            assert shown["parts"]["database"] == "down"
            assert "does not answer" in shown["problems"]["database"]
        assert services.stop("scheduler-2") == 130, services.log("scheduler-2")
        server.start()
        for name in NAMES:
            services.wait_ready(name)
            assert ready(services, name)[0] == 200
        assert services.ask("GET", "/compute/v2.1/servers")[0] == 200
    finally:
        services.close()


def test_a_database_that_goes_again_as_a_service_begins(
    new_database: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first sign of life is lost; the next one comes."""
    own, lost = hosts.seen, [RolledBack("the database restarts")]

    def seen(conn: sa.Connection, binary: str, host: str, zone: str) -> str:
        if lost:
            raise lost.pop()
        return own(conn, binary, host, zone)

    monkeypatch.setattr(hosts, "seen", seen)
    db = new_database()
    with ExitStack() as closing:
        often = Config(compute=Compute(report_interval=0.05))
        keep_alive(often, db, ["nova-scheduler"], closing)

        def alive() -> int:
            with db.read() as conn:
                return int(conn.exec_driver_sql("SELECT count(*) FROM services").scalar_one())

        until(lambda: alive() == 1, 60, "the second sign of life")
    assert lost == []


def test_what_will_not_go_away_ends_them(tmp_path: Path, rabbit: Rabbit, server: PostgreSQL) -> None:
    server.start()
    server.let_in("stranger", with_password="the right one")
    whole = server.url()
    wrong = {
        whole.replace("/postgres?", "/nowhere?"): 'database "nowhere" does not exist',
        whole.replace("kilonova@", "nobody@"): 'role "nobody" does not exist',
        whole.replace("kilonova@", "stranger:of-many-letters@"): "password authentication failed",
    }
    for number, (url, expected) in enumerate(wrong.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        services = made(folder, rabbit.url, url)
        assert ends(services, "scheduler") == 1
        log = services.log("scheduler")
        assert expected in log
        assert "of-many-letters" not in log
        assert "Traceback" not in log


@pytest.mark.parametrize("name", ["conductor", "compute"])
def test_a_broker_that_refuses_them_ends_them(tmp_path: Path, rabbit: Rabbit, name: str) -> None:
    database = f"sqlite:///{tmp_path}/db"
    wrong = [rabbit.url.replace(PASSWORD, "of-many-letters"), f"{rabbit.url}nowhere"]
    for number, url in enumerate(wrong):
        folder = tmp_path / str(number)
        folder.mkdir()
        services = made(folder, url, database)
        assert ends(services, name) == 1, services.said(name)
        log = services.log(name)
        assert "Error: the message broker refuses" in log
        assert "of-many-letters" not in log
        assert "Traceback" not in log


def test_one_broker_that_refuses_is_not_all_of_them(tmp_path: Path, rabbit: Rabbit) -> None:
    refuses = rabbit.url.replace(PASSWORD, "wrong")
    services = made(tmp_path, f"{refuses},{rabbit.url}", f"sqlite:///{tmp_path}/db")
    try:
        services.start("scheduler")
    finally:
        services.close()
