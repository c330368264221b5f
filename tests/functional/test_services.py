"""Four processes, a broker, a database: builds end well whatever of it is killed meanwhile."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.error
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.rabbit import Rabbit
from tests.running import Up, until
from tests.services import Services

from kilonova.config import ServiceUser
from kilonova.domain.errors import BadRequest, NotFound, Unavailable
from kilonova.image.http import HttpImages

SERVERS = 20
SLOW = "[fake.step_seconds]\nensure_base_image = 0.2\nensure_disks = 0.2\nensure_paused = 0.2\n"


@pytest.fixture
def services(tmp_path: Path, rabbit: Rabbit, up_database: str) -> Iterator[Services]:
    exchange = f"kilonova-{uuid.uuid4()}"
    made = Services(tmp_path / "state", rabbit.url, exchange, SLOW, database_url=up_database)
    yield made
    made.close()


def build(services: Services, count: int = SERVERS) -> list[str]:
    image, network = services.image(b"\0" * 512), services.network()
    made = []
    for _ in range(count):
        status, answer = services.post_server(image, network)
        assert status == 202, answer
        made.append(answer["server"]["id"])
    return made


def statuses(services: Services) -> dict[str, int]:
    _, answer = services.ask("GET", "/compute/v2.1/servers/detail")
    found: dict[str, int] = {}
    for server in answer["servers"]:
        found[server["status"]] = found.get(server["status"], 0) + 1
    return found


def all_active(services: Services, made: list[str], timeout: float = 60.0) -> None:
    until(lambda: statuses(services).keys() == {"ACTIVE"}, timeout, f"all ACTIVE: {statuses(services)}")
    assert statuses(services) == {"ACTIVE": len(made)}
    until(lambda: services.unexplained() == [], 60, f"all explained: {services.unexplained()}")
    with services.database() as db:
        twice = db.execute(
            "SELECT name, count(*) FROM steps GROUP BY operation_id, epoch, name HAVING count(*) > 1"
        ).fetchall()
        assert [tuple(row) for row in twice] == []


def delete_all(services: Services, made: list[str]) -> None:
    for server_id in made:
        assert services.ask("DELETE", f"/compute/v2.1/servers/{server_id}")[0] == 204
    until(lambda: statuses(services) == {}, 60, "all to be gone")
    assert services.unexplained() == []
    for host in (services.state / "hosts").glob("host-*/"):
        assert list(host.iterdir()) == []


def test_builds_over_three_hosts(services: Services) -> None:
    services.start_all()
    made = build(services)
    all_active(services, made)
    _, answer = services.ask("GET", "/compute/v2.1/servers/detail")
    hosts = [server["OS-EXT-SRV-ATTR:host"] for server in answer["servers"]]
    assert set(hosts) == {"host-1", "host-2", "host-3"}
    _, answer = services.ask("GET", "/compute/v2.1/os-services")
    states = {(service["binary"], service["host"], service["state"]) for service in answer["services"]}
    assert states == {
        ("nova-conductor", "host", "up"),
        ("nova-scheduler", "host", "up"),
        *(("nova-compute", f"host-{number}", "up") for number in (1, 2, 3)),
    }
    delete_all(services, made)
    assert_without_a_database(services)


def test_nics_come_and_go_over_the_broker(services: Services) -> None:
    """Asked of the API, done by the host, answered when it is done."""
    services.start_all()
    (server_id,) = build(services, 1)
    all_active(services, [server_id])
    path = f"/compute/v2.1/servers/{server_id}/os-interface"
    (first,) = services.ask("GET", path)[1]["interfaceAttachments"]
    asked = {"interfaceAttachment": {"net_id": first["net_id"], "tag": "second"}}
    status, answer = services.ask("POST", path, asked)
    assert status == 200, answer
    second = answer["interfaceAttachment"]
    assert (second["port_state"], second["tag"]) == ("ACTIVE", "second")
    guest = next((services.state / "hosts").glob(f"*/{server_id}.json"))

    def taps() -> set[str]:
        return set(json.loads(guest.read_text())["nics"])

    assert taps() == {f"tap{nic['port_id'][:11]}" for nic in (first, second)}
    assert services.ask("DELETE", f"/networking/v2.0/ports/{second['port_id']}")[0] == 204
    until(lambda: taps() == {f"tap{first['port_id'][:11]}"}, 60, "the guest to lose it")
    assert services.ask("DELETE", f"{path}/{first['port_id']}")[0] == 202
    until(lambda: taps() == set(), 60, "the guest to lose the other")
    until(lambda: services.unexplained() == [], 60, "all to be explained")
    delete_all(services, [server_id])


def assert_without_a_database(services: Services) -> None:
    """The compute, after all it did; a conductor shows that one would see it."""
    maps = {name: Path(f"/proc/{services.pid(name)}/maps").read_text() for name in ("conductor", "compute")}
    driver = "_sqlite3" if services.database_url.startswith("sqlite") else "psycopg"
    for module in ("sqlalchemy", driver):
        assert module in maps["conductor"]
        assert module not in maps["compute"]


@pytest.mark.parametrize("victim", ["conductor", "scheduler", "compute"])
def test_kill_9_in_the_midst(services: Services, victim: str) -> None:
    services.start_all()
    made = build(services)
    until(
        lambda: statuses(services).keys() == {"ACTIVE", "BUILD"}, 60, "the first to be ACTIVE, not the last"
    )
    services.kill(victim)
    services.start(victim)
    all_active(services, made)
    delete_all(services, made)


def test_an_api_that_is_killed_has_lost_nothing_that_it_answered(services: Services) -> None:
    services.start_all()
    image = services.image(b"\0" * 512)
    _, answer = services.post_server(image)
    services.kill("api")
    services.start("api")
    all_active(services, [answer["server"]["id"]])


def test_the_broker_goes_and_comes_back_in_the_midst(services: Services, rabbit: Rabbit) -> None:
    services.start_all()
    made = build(services)
    until(lambda: "ACTIVE" in statuses(services), 60, "the first to be ACTIVE")
    rabbit.kill()
    try:
        image = services.image(b"\0" * 512)
        started = time.monotonic()
        status, answer = services.post_server(image)
        assert status == 202, answer
        assert time.monotonic() - started < 30, "a broker that is away kept the request"
        made.append(answer["server"]["id"])
        status, _ = services.ask(
            "POST", f"/compute/v2.1/servers/{made[0]}/action", {"os-getConsoleOutput": {}}
        )
        assert status in {409, 503}
    finally:
        rabbit.start()
    all_active(services, made)
    delete_all(services, made)


def test_the_api_needs_no_broker_and_the_others_wait_for_it(services: Services, rabbit: Rabbit) -> None:
    rabbit.stop()
    try:
        for name in ("compute", "scheduler", "conductor", "api"):
            services.begin(name)
        services.wait_ready("api")
        assert services.ask("GET", "/readyz")[0] == 200
        services.network("10.90.0.0/24")
        for name in ("compute", "scheduler", "conductor"):
            until(lambda name=name: "waiting for the message broker" in services.said(name), 30, name)
    finally:
        rabbit.start()
    for name in ("compute", "scheduler", "conductor"):
        services.wait_ready(name)
    all_active(services, build(services, 3))


def test_a_graceful_stop_in_the_midst(services: Services) -> None:
    """Each service once, one after the other: a rolling restart."""
    services.start_all()
    made = build(services)
    for name in ("conductor", "scheduler", "compute", "api"):
        assert services.stop(name) == 0, services.log(name)[-3000:]
        services.start(name)
    all_active(services, made)


def test_a_compute_loads_no_database() -> None:
    code = (
        "import sys, kilonova.cli.compute, kilonova.bus.rabbit, kilonova.virt.fake,"
        " kilonova.virt.libvirt.driver, kilonova.network.host.host; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert [name for name in loaded.split() if re.match(r"sqlalchemy|kilonova\.store", name)] == []


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("api", "", "[bus] url is not set"),
        ("compute", "", "[bus] url is not set"),
        ("conductor", '[bus]\nurl = "amqp://h"', "[database] connection is not set"),
        ("scheduler", '[bus]\nurl = "amqp://h"', "[database] connection is not set"),
        ("conductor", '[bus]\nurl = "http://h"\n[database]\nconnection = "sqlite://"', "amqp://user"),
        ("compute", '[bus]\nurl = "amqp://h"', "[service_user] auth_url"),
        ("api", "[bus]\nurl = 3", "bus.url"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, name: str, config: str, expected: str) -> None:
    file = tmp_path / "kilonova.toml"
    file.write_text(f'state = "{tmp_path}"\n{config}')
    more = ["--port", "0"] if name == "api" else []
    command = [sys.executable, "-c", "from kilonova.cli import main; main()", name, "--config", str(file)]
    ended = subprocess.run([*command, *more], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode != 0
    assert expected in ended.stderr
    assert "Traceback" not in ended.stderr


def test_one_host_has_one_agent(services: Services) -> None:
    services.begin("compute")
    until(lambda: "waiting for a conductor" in services.said("compute"), 60, "the first")
    command = [sys.executable, "-c", "from kilonova.cli import main; main()", "compute", "--driver", "fake"]
    second = subprocess.run(
        [*command, "--hosts", "3", "--config", str(services.config)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 1
    assert "another agent of this host" in second.stderr
    assert services.stop("compute") == 130, "it was still starting"


def test_the_services_user_has_every_image_of_every_project(services: Services) -> None:
    """As docs/how-to/run-services-apart.md makes it."""
    for name in ("api", "conductor"):
        services.start(name)
    image = services.image(b"private")
    user_body = {"user": {"name": "nova", "password": "secret"}}
    user = services.ask("POST", "/identity/v3/users", user_body)[1]["user"]["id"]
    ids = {}
    for kind, name in (("projects", "service"), ("roles", "service")):
        found = services.ask("GET", f"/identity/v3/{kind}?name={name}")[1][kind]
        ids[kind] = found[0]["id"]
    path = f"/identity/v3/projects/{ids['projects']}/users/{user}/roles/{ids['roles']}"
    images = HttpImages(ServiceUser(auth_url=f"{services.url}/identity/v3", password="secret"), "RegionOne")
    with pytest.raises(Unavailable, match="refuses"):
        images.open(image)
    assert services.ask("PUT", path)[0] == 204
    with images.open(image) as source:
        assert source.read() == b"private"


def test_kilonova_up_over_a_broker(tmp_path: Path, rabbit: Rabbit) -> None:
    up = Up(tmp_path / "state", hosts=2)
    up.start(f'[bus]\nurl = "{rabbit.url}"\nexchange = "kilonova-{uuid.uuid4()}"\n')
    try:
        image, network = up.image(b"\0" * 512), up.network()
        made = [up.post_server(image, network)[1]["server"]["id"] for _ in range(5)]
        assert {up.settled(server_id)["status"] for server_id in made} == {"ACTIVE"}
        until(lambda: up.unexplained() == [], 60, "all explained")
    finally:
        assert up.stop() == 0


def test_images_come_over_http_and_expired_tokens_are_renewed(services: Services) -> None:
    for name in ("api", "conductor"):
        services.start(name)
    data = bytes(range(256)) * 20_000
    image = services.image(data)
    password = (services.state / "admin-password").read_text().strip()
    user = ServiceUser(
        auth_url=f"{services.url}/identity", username="admin", password=password, project_name="admin"
    )
    images = HttpImages(user, "RegionOne")
    for _ in range(2):
        with images.open(image) as source:
            assert source.read() == data
        with images.open(image) as source:
            source.seek(len(data) - 7)
            assert source.read(100) == data[-7:], "a transfer that broke goes on there"
        token: Any = images._session
        headers = {"X-Subject-Token": token[0]}
        assert services.ask("DELETE", "/identity/v3/auth/tokens", headers=headers)[0] == 204
    with pytest.raises(NotFound):
        images.open(str(uuid.uuid4()))
    with pytest.raises(NotFound):
        images.open("../../etc/passwd")
    wrong = HttpImages(ServiceUser(auth_url=user.auth_url, username="admin", password="x"), "RegionOne")
    with pytest.raises(Unavailable, match="refuses"):
        wrong.open(image)
    with pytest.raises(Unavailable, match="region Mars"):
        HttpImages(user, "Mars").open(image)
    with pytest.raises(BadRequest):
        HttpImages(ServiceUser(auth_url="file:///etc/passwd"), "RegionOne")
    services.kill("api")
    with pytest.raises(Unavailable):
        images.open(image)
    with pytest.raises(urllib.error.URLError):
        services.ask("GET", "/compute/v2.1/servers")
