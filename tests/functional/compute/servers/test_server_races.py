"""Requests about one server at the same moment: each is done after another, or hears why not."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import falcon.testing
import sqlalchemy as sa

from kilonova.store.database import Database
from kilonova.store.schema.operations import operations


def at_once(count: int, ask: Callable[[int], falcon.testing.Result]) -> Counter[int]:
    """How many got which status."""
    begin = threading.Barrier(count)

    def run(number: int) -> int:
        begin.wait()
        return int(ask(number).status_code)

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(run, range(count)))


def open_operations(database: Database, server_id: str) -> list[str]:
    query = sa.select(operations.c.kind).where(
        operations.c.server_id == server_id, operations.c.state == "open"
    )
    with database.read() as conn:
        return list(conn.execute(query).scalars())


def test_one_action_begins(member: Any, active: Any, database: Database) -> None:
    server_id = active()
    got = at_once(6, lambda _: member.post(f"/servers/{server_id}/action", {"os-stop": None}))
    assert got == {202: 1, 409: 5}
    assert open_operations(database, server_id) == ["stop"]


def test_deletes(member: Any, create: Any, database: Database) -> None:
    """Of a server that is being built: its build is superseded once, and one delete begins."""
    server_id = create()
    assert at_once(6, lambda _: member.delete(f"/servers/{server_id}")) == {204: 6}
    assert open_operations(database, server_id) == ["delete"]


def test_an_action_and_a_delete(member: Any, active: Any, database: Database) -> None:
    for _ in range(5):
        server_id = active()

        def ask(number: int, server_id: str = server_id) -> Any:
            if number == 0:
                return member.delete(f"/servers/{server_id}")
            return member.post(f"/servers/{server_id}/action", {"reboot": {"type": "HARD"}})

        got = at_once(3, ask)
        assert got[204] == 1
        assert got[202] + got[409] == 2
        assert got[202] <= 1
        assert open_operations(database, server_id) == ["delete"]


def test_no_metadata_is_lost(member: Any, active: Any) -> None:
    path = f"/servers/{active()}/metadata"
    assert at_once(8, lambda n: member.post(path, {"metadata": {f"k{n}": "v"}})) == {200: 8}
    assert member.get(path).json == {"metadata": {f"k{n}": "v" for n in range(8)}}


def test_no_tag_is_lost_or_too_many(member: Any, active: Any) -> None:
    path = f"/servers/{active()}/tags"
    tags = [f"t{n}" for n in range(47)]
    assert member.put(path, {"tags": tags}, version="2.26").status_code == 200
    assert at_once(6, lambda n: member.put(f"{path}/new{n}", version="2.26")) == {201: 3, 400: 3}
    assert at_once(4, lambda _: member.delete(f"{path}/t0", version="2.26")) == {204: 1, 404: 3}
    assert len(member.get(path, version="2.26").json["tags"]) == 49


def test_quota_of_servers(member: Any, admin: Any, request_body: Any) -> None:
    changed = admin.put(f"/os-quota-sets/{'a' * 32}", {"quota_set": {"instances": 3}})
    assert changed.status_code == 200, changed.text
    assert at_once(8, lambda _: member.post("/servers", request_body())) == {202: 3, 403: 5}


def test_a_flavor_is_made_once_and_its_specs_add_up(admin: Any) -> None:
    flavor = {"name": "f", "id": "f", "ram": 64, "vcpus": 1, "disk": 1}
    assert at_once(6, lambda _: admin.post("/flavors", {"flavor": flavor})) == {200: 1, 409: 5}
    path = "/flavors/f/os-extra_specs"
    assert at_once(6, lambda n: admin.post(path, {"extra_specs": {f"k{n}": "v"}})) == {200: 6}
    assert len(admin.get(path).json["extra_specs"]) == 6
