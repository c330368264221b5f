"""A client that was cut off sends its POST again: whatever died, and when, the thing is made once."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.running import CUT_OFF, Up, until

pytestmark = pytest.mark.crash


@pytest.fixture
def up(tmp_path: Path, up_database: str) -> Iterator[Up]:
    made = Up(tmp_path / "state", database_url=up_database)
    yield made
    made.kill()


def post(up: Up, path: str, body: Any, key: str) -> Any:
    return up.ask("POST", path, body, headers={"Idempotency-Key": f'"{key}"'})


def server(image: str, name: str = "vm") -> Any:
    return {"server": {"name": name, "imageRef": image, "flavorRef": "42", "networks": "none"}}


def names(up: Up) -> list[str]:
    _, answer = up.ask("GET", "/compute/v2.1/servers")
    return sorted(one["name"] for one in answer["servers"])


@pytest.mark.parametrize(("side", "made"), [("before", []), ("after", ["vm"])])
def test_killed_around_the_commit(up: Up, side: str, made: list[str]) -> None:
    up.start()
    image, key = up.image(b"\0" * 512), str(uuid.uuid4())
    up.stop()
    up.start(f'[faults]\nkill_at = "once.commit.{side}"\n')
    with pytest.raises(CUT_OFF):
        post(up, "/compute/v2.1/servers", server(image), key)
    up.wait()
    with up.database() as db:
        assert [name for (name,) in db.execute("SELECT name FROM servers")] == made
    up.start()
    status, first = post(up, "/compute/v2.1/servers", server(image), key)
    assert status == 202, first
    assert post(up, "/compute/v2.1/servers", server(image), key) == (202, first)
    assert names(up) == ["vm"]
    assert up.settled(first["server"]["id"])["status"] == "ACTIVE"
    assert up.unexplained() == []


def test_the_key_of_an_offer_is_told_again(up: Up) -> None:
    """Nobody else knows it: without it nobody takes the volume."""
    up.start()
    volume = up.ask("POST", "/volume/v3/volumes", {"volume": {"size": 1}})[1]["volume"]["id"]
    path, offers = f"/volume/v3/volumes/{volume}", "/volume/v3/os-volume-transfer"

    def status() -> str:
        return str(up.ask("GET", path)[1]["volume"]["status"])

    until(lambda: status() == "available", 60, "a volume")
    up.stop()
    up.start('[faults]\nkill_at = "once.commit.after"\n')
    key, body = str(uuid.uuid4()), {"transfer": {"volume_id": volume}}
    with pytest.raises(CUT_OFF):
        post(up, offers, body, key)
    up.wait()
    up.start()
    assert status() == "awaiting-transfer"
    code, offer = post(up, offers, body, key)
    assert code == 202, offer
    take = f"{offers}/{offer['transfer']['id']}/accept"
    asked = {"accept": {"auth_key": offer["transfer"]["auth_key"]}}
    taken = post(up, take, asked, key)
    assert (taken[0], status()) == (202, "available")
    assert post(up, take, asked, key) == taken


def test_killed_while_many_come(up: Up) -> None:
    """Twelve clients, each sends until it is answered; the process is killed in the midst."""
    up.start("[quota]\ninstances = -1\ncores = -1\nram = -1\n")
    image = up.image(b"\0" * 512)
    started = threading.Semaphore(0)
    answered: dict[str, str] = {}

    def client(number: int) -> None:
        for each in range(6):
            name = f"vm-{number}-{each}"
            key = str(uuid.uuid4())
            started.release()
            answered[name] = until(lambda name=name, key=key: sent(name, key), 120, name)

    def sent(name: str, key: str) -> str | None:
        try:
            status, answer = post(up, "/compute/v2.1/servers", server(image, name), key)
        except CUT_OFF:
            return None
        assert status in {202, 409, 503}, answer
        return str(answer["server"]["id"]) if status == 202 else None

    clients = [threading.Thread(target=client, args=(number,)) for number in range(12)]
    for thread in clients:
        thread.start()
    for _ in range(30):
        started.acquire()
    up.kill()
    up.start("[quota]\ninstances = -1\ncores = -1\nram = -1\n")
    for thread in clients:
        thread.join()
    assert len(answered) == 72
    assert names(up) == sorted(answered)
    for server_id in answered.values():
        assert up.settled(server_id)["status"] == "ACTIVE"
    assert up.unexplained() == []


def test_of_every_api(up: Up) -> None:
    """The same ids again, also after kill -9."""
    up.start()
    key = str(uuid.uuid4())
    _, network = post(up, "/networking/v2.0/networks", {"network": {"name": "n"}}, key)
    network_id = network["network"]["id"]
    bodies: dict[str, Any] = {
        "/networking/v2.0/networks": {"network": {"name": "n"}},
        "/networking/v2.0/subnets": {
            "subnet": {"network_id": network_id, "cidr": "10.9.0.0/24", "ip_version": 4}
        },
        "/networking/v2.0/ports": {"ports": [{"network_id": network_id}, {"network_id": network_id}]},
        "/image/v2/images": {"name": "i", "disk_format": "raw", "container_format": "bare"},
        "/compute/v2.1/flavors": {"flavor": {"name": "f", "ram": 64, "vcpus": 1, "disk": 1}},
        "/identity/v3/projects": {"project": {"name": "p"}},
        "/identity/v3/users": {"user": {"name": "u", "password": "secret-of-u"}},
    }
    made = {path: post(up, path, body, key) for path, body in bodies.items()}
    assert {status for status, _ in made.values()} == {200, 201}, made
    assert made["/networking/v2.0/networks"] == (201, network)
    up.kill()
    up.start()
    assert {path: post(up, path, body, key) for path, body in bodies.items()} == made
    for path, body in bodies.items():
        status, fault = post(up, path, {**body, "more": 1}, key)
        assert status == 422, (path, fault)
    assert fault["error"]["code"] == 422
    _, fault = post(up, "/networking/v2.0/ports", {}, key)
    assert fault["NeutronError"]["type"] == "HTTPUnprocessableEntity"
    ports = up.ask("GET", "/networking/v2.0/ports?device_owner=")[1]["ports"]
    assert len(ports) == 2  # without the one for DHCP
