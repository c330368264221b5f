"""A POST that is sent again with its Idempotency-Key: done once, answered as at first."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import falcon.testing
import pytest
import sqlalchemy as sa
from tests.functional.compute.conftest import authenticate
from tests.running import until

from kilonova.api import compute
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import application
from kilonova.api.idempotency import Once, parsed
from kilonova.config import Config, Quota
from kilonova.domain.errors import BadRequest
from kilonova.engine import accept
from kilonova.engine.faults import FaultPoints
from kilonova.store import idempotency
from kilonova.store.database import Database
from kilonova.store.schema.idempotency import idempotency_keys
from kilonova.store.schema.servers import servers

KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"
Body = Callable[..., dict[str, Any]]


@pytest.fixture
def config() -> Config:
    return Config(quota=Quota(instances=3))


def keyed(
    caller: Any, body: Any, key: str = KEY, version: str = "2.90", path: str = "/servers"
) -> falcon.testing.Result:
    return caller.post(path, body, version=version, headers={"Idempotency-Key": key})


def names(database: Database) -> list[str]:
    with database.read() as conn:
        return sorted(conn.execute(sa.select(servers.c.name)).scalars())


def kept(database: Database) -> list[Any]:
    with database.read() as conn:
        return list(conn.execute(sa.select(idempotency_keys)).all())


def test_what_an_answer_promises_is_on_the_disk_when_it_is_given_again(
    member: Any, request_body: Body, database: Database, conductor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request may still wait for the disk when its rows can be seen."""
    if database.engine.name != "postgresql":
        pytest.skip("SQLite shows nothing that is not on the disk")
    keyed(member, request_body())
    flushed: list[Any] = []
    monkeypatch.setattr("kilonova.store.postgresql._flush", flushed.append)
    assert keyed(member, request_body()).status_code == 202
    assert len(flushed) == 1


def test_the_same_request_again_gets_the_first_answer(
    member: Any, request_body: Body, database: Database, conductor: Any
) -> None:
    first, again = (keyed(member, request_body()) for _ in range(2))
    assert first.status_code == again.status_code == 202
    assert first.content == again.content
    assert first.json["server"]["adminPass"]
    for header in ("location", "content-type", "openstack-api-version", "x-openstack-nova-api-version"):
        assert first.headers[header] == again.headers[header]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert first.headers["x-openstack-request-id"] != again.headers["x-openstack-request-id"]
    assert names(database) == ["vm"]
    until(lambda: conductor.told, 60, "the conductor to be told")
    assert [method for method, _ in conductor.told] == ["build_instances"]


def test_the_conductor_is_rung_when_the_server_can_be_seen(
    member: Any, request_body: Body, state: ComputeAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another thread, as a conductor has it: what is not committed yet is not there for it."""
    seen: list[list[str]] = []

    def ring(*_: Any) -> None:
        with ThreadPoolExecutor(1) as other:
            seen.append(other.submit(names, state.db).result())

    monkeypatch.setattr(accept, "_ring", ring)
    assert keyed(member, request_body()).status_code == 202
    assert member.post("/servers", request_body(name="plain"), version="2.90").status_code == 202
    assert seen == [["vm"], ["plain", "vm"]]


def test_the_key_stands_for_one_request(member: Any, request_body: Body, database: Database) -> None:
    assert keyed(member, request_body()).status_code == 202
    other = keyed(member, request_body(name="other"))
    assert other.status_code == 422
    assert other.json["computeFault"]["code"] == 422
    assert "Idempotency-Key was used for another request" in other.json["computeFault"]["message"]
    assert keyed(member, request_body(), version="2.89").status_code == 422
    assert names(database) == ["vm"]


def test_the_key_is_its_callers_own(
    member: Any, other: Any, admin: Any, request_body: Body, database: Database
) -> None:
    answers = [keyed(caller, request_body()) for caller in (member, other, admin)]
    assert [answer.status_code for answer in answers] == [202] * 3
    assert len({answer.json["server"]["id"] for answer in answers}) == 3
    assert len(names(database)) == 3


def test_and_of_one_path(member: Any, admin: Any, request_body: Body) -> None:
    """As it is when a client adds the same header to all that it sends."""
    assert keyed(member, request_body()).status_code == 202
    keypair = {"keypair": {"name": "key"}}
    assert keyed(member, keypair, path="/os-keypairs").status_code == 201
    headers = {"Idempotency-Key": KEY}
    assert member.get("/servers", headers=headers).status_code == 200
    assert len(member.get("/servers", headers=headers).json["servers"]) == 1
    flavor = {"flavor": {"name": "f", "ram": 1, "vcpus": 1, "disk": 1}}
    made = [keyed(admin, flavor, path="/flavors") for _ in range(2)]
    assert made[0].json == made[1].json


def test_an_action_is_not_a_create(member: Any, active: Any) -> None:
    server_id = active()
    path = f"/servers/{server_id}/action"
    assert keyed(member, {"os-stop": None}, path=path).status_code == 202
    assert keyed(member, {"os-stop": None}, path=path).status_code == 409


def test_several_servers_of_one_request(member: Any, request_body: Body, database: Database) -> None:
    body = request_body(min_count=3, max_count=3, return_reservation_id=True)
    first, again = (keyed(member, body) for _ in range(2))
    assert first.json == again.json
    assert len(names(database)) == 3


def test_a_failure_is_not_remembered(member: Any, request_body: Body, database: Database) -> None:
    """Nothing was done: sent again it is tried again."""
    first = keyed(member, request_body(min_count=4))
    assert first.status_code == 403
    assert keyed(member, request_body(name="")).status_code == 400
    assert kept(database) == []
    assert keyed(member, request_body(min_count=3)).status_code == 202


def test_the_answer_stays_when_the_quota_is_used_up(member: Any, request_body: Body) -> None:
    first, again = (keyed(member, request_body(min_count=3)) for _ in range(2))
    assert first.content == again.content


@pytest.mark.parametrize("key", ["", " ", '"', '""', '"a', "a,b", "a b", "é", '"é"', "k" * 256, '"a";b'])
def test_what_is_no_key(member: Any, request_body: Body, key: str, database: Database) -> None:
    answer = keyed(member, request_body(), key=key.encode().decode("latin-1"))
    assert answer.status_code == 400, answer.text
    assert "Idempotency-Key must be" in answer.json["badRequest"]["message"]
    assert names(database) == []


def test_what_is_one() -> None:
    assert parsed(KEY) == parsed(f'"{KEY}"') == KEY
    assert parsed(r'"a \"b\" \\ c, d"') == 'a "b" \\ c, d'
    assert parsed('"' + "k" * 255 + '"') == "k" * 255
    with pytest.raises(BadRequest):
        parsed('"a\\n"')


def test_many_at_once_make_one(
    member: Any, request_body: Body, database: Database, state: ComputeAPI
) -> None:
    """Through two processes' edges: some hear that it is in progress, the others get the one answer."""
    begin = threading.Barrier(8)
    faults = FaultPoints(state.config.faults)
    edges = [
        falcon.testing.TestClient(
            application([compute.service(state)], authenticate, Once(state.db, 60.0, faults))
        )
        for _ in range(2)
    ]

    def ask(number: int) -> tuple[int, str]:
        begin.wait()
        answer = keyed(type(member)(edges[number % 2], "member"), request_body())
        return answer.status_code, answer.json["server"]["id"] if answer.status_code == 202 else answer.text

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(ask, range(8)))
    statuses = Counter(status for status, _ in got)
    assert statuses.keys() <= {202, 409}, got
    assert statuses[202] >= 1
    assert len({text for status, text in got if status == 202}) == 1
    assert all("still in progress" in text for status, text in got if status == 409)
    assert names(database) == ["vm"]


def test_while_the_first_is_in_progress(
    member: Any, request_body: Body, state: ComputeAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Event(), threading.Event()
    real = state.images.ref

    def slow(*arguments: Any) -> Any:
        inside.set()
        assert go_on.wait(30)
        return real(*arguments)

    monkeypatch.setattr(state.images, "ref", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(keyed, member, request_body())
        assert inside.wait(30)
        second = keyed(member, request_body())
        go_on.set()
        assert first.result().status_code == 202
    assert second.status_code == 409
    assert "still in progress" in second.json["conflictingRequest"]["message"]
    assert keyed(member, request_body()).content == first.result().content


def test_the_database_cannot_read_it(member: Any, request_body: Body, database: Database) -> None:
    answer = keyed(member, request_body(adminPass="a-password-of-mine"))
    made = keyed(member, {"keypair": {"name": "key"}}, version="2.10", path="/os-keypairs")
    assert "BEGIN RSA PRIVATE KEY" in made.json["keypair"]["private_key"]
    rows = kept(database)
    assert len(rows) == 2
    for row in rows:
        stored = repr(tuple(row)) + bytes(row.answer).decode("latin-1")
        for secret in (KEY, "a-password-of-mine", answer.json["server"]["id"], "PRIVATE KEY", "private_key"):
            assert secret not in stored
    again = keyed(member, {"keypair": {"name": "key"}}, version="2.10", path="/os-keypairs")
    assert again.content == made.content


def test_a_key_ages(member: Any, request_body: Body, database: Database, config: Config) -> None:
    first = keyed(member, request_body())
    aged = sa.update(idempotency_keys).values(
        created_at=idempotency_keys.c.created_at - config.api.idempotency_key_lifetime
    )
    with database.write() as conn:
        conn.execute(aged)
    second = keyed(member, request_body(name="other"))
    assert second.status_code == 202
    assert second.json["server"]["id"] != first.json["server"]["id"]
    assert keyed(member, request_body(name="other")).content == second.content
    assert len(kept(database)) == 1
    with database.write() as conn:
        conn.execute(aged)
        oldest = kept(database)[0].created_at
        assert not idempotency.any_before(conn, oldest - 1)
        assert idempotency.any_before(conn, oldest)
        assert idempotency.purge(conn, oldest) == 1
    assert kept(database) == []
