"""/servers/{id}/os-instance-actions and /servers/{id}/ips."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest

from kilonova.store import operations, servers
from kilonova.store.schema.operations import steps

REQUEST = "req-11111111-2222-3333-4444-555555555555"


@pytest.fixture
def acted(active: Any, member: Any, settle: Any, database: Any) -> str:
    """A server that was created and stopped; the stop had two steps, and the second has not ended."""
    server_id = active()
    answer = member.post(
        f"/servers/{server_id}/action", {"os-stop": None}, headers={"X-OpenStack-Request-ID": REQUEST}
    )
    assert answer.status_code == 202
    with database.write() as conn:
        work = operations.open_of_server(conn, server_id)
        own = {"operation_id": work.id, "epoch": 1}
        done = {"name": "shut_down", "host": "node-1", "finished_at": 11.0, "result": "Success"}
        conn.execute(steps.insert().values(started_at=10.5, **done, **own))
        conn.execute(steps.insert().values(started_at=11.0, name="power_off", **own))
    settle(server_id)
    return str(server_id)


def test_list(acted: str, member: Any) -> None:
    actions = member.get(f"/servers/{acted}/os-instance-actions").json["instanceActions"]
    assert [action["action"] for action in actions] == ["stop", "create"]
    assert actions[0]["request_id"] == REQUEST
    assert set(actions[0]) == {
        "action",
        "instance_uuid",
        "request_id",
        "user_id",
        "project_id",
        "start_time",
        "message",
    }
    newer = member.get(f"/servers/{acted}/os-instance-actions", version="2.58").json["instanceActions"]
    assert newer[0]["updated_at"] is not None


def test_events(acted: str, member: Any, admin: Any) -> None:
    path = f"/servers/{acted}/os-instance-actions/{REQUEST}"
    assert "events" not in member.get(path, version="2.50").json["instanceAction"]
    last, first = member.get(path, version="2.62").json["instanceAction"]["events"]
    assert (first["event"], first["result"], first["start_time"]) == (
        "shut_down",
        "Success",
        "1970-01-01T00:00:10.500000",
    )
    assert (last["event"], last["result"], last["finish_time"]) == ("power_off", None, None)
    assert len(first["hostId"]) == 56
    assert last["hostId"] == ""
    assert not {"host", "traceback", "details"} & set(first)
    _, first = admin.get(path, version="2.84").json["instanceAction"]["events"]
    assert first["host"] == "node-1"
    assert {"traceback", "details"} <= set(first)
    assert set(admin.get(path).json["instanceAction"]["events"][0]) == {
        "event",
        "start_time",
        "finish_time",
        "result",
        "traceback",
    }


def test_unknown_request(acted: str, member: Any) -> None:
    answer = member.get(f"/servers/{acted}/os-instance-actions/req-x")
    assert answer.status_code == 404
    assert answer.json["itemNotFound"]["message"] == "Action req-x not found"


def test_pages(acted: str, member: Any) -> None:
    path = f"/servers/{acted}/os-instance-actions"
    first = member.get(f"{path}?limit=1", version="2.58").json
    assert [action["action"] for action in first["instanceActions"]] == ["stop"]
    (link,) = first["links"]
    split = urlsplit(link["href"])
    assert split.path.endswith(path)
    second = member.get(f"{path}?{split.query}", version="2.58").json
    assert [action["action"] for action in second["instanceActions"]] == ["create"]


@pytest.mark.parametrize(
    ("version", "query", "count"),
    [
        ("2.57", "?limit=1&nonsense=1", 2),
        ("2.58", "?changes-since=2020-01-01T00:00:00Z", 2),
        ("2.58", "?changes-since=2100-01-01T00:00:00Z", 0),
        ("2.66", "?changes-before=2020-01-01T00:00:00Z", 0),
        ("2.58", "?limit=0", 0),
        ("2.58", "?changes-before=2020-01-01T00:00:00Z", None),
        ("2.58", "?nonsense=1", None),
        ("2.58", "?limit=1&limit=2", None),
        ("2.58", "?marker=req-x", None),
        ("2.58", "?changes-since=x", None),
        ("2.66", "?changes-since=2020-01-02T00:00:00Z&changes-before=2020-01-01T00:00:00Z", None),
    ],
)
def test_filters(acted: str, member: Any, version: str, query: str, count: int | None) -> None:
    answer = member.get(f"/servers/{acted}/os-instance-actions{query}", version=version)
    if count is None:
        assert answer.status_code == 400
    else:
        assert len(answer.json["instanceActions"]) == count


def test_deleted_servers_are_remembered(acted: str, member: Any, other: Any, database: Any) -> None:
    with database.write() as conn:
        servers.mark_deleted(conn, acted)
    path = f"/servers/{acted}/os-instance-actions"
    assert member.get(path, version="2.20").status_code == 404
    assert len(member.get(path, version="2.21").json["instanceActions"]) == 2
    assert other.get(path, version="2.21").status_code == 404


def test_addresses(active: Any, create: Any, member: Any) -> None:
    path = f"/servers/{active()}/ips"
    assert member.get(path).json == {"addresses": {"private": [{"version": 4, "addr": "10.0.0.5"}]}}
    assert member.get(f"{path}/private").json == {"private": [{"version": 4, "addr": "10.0.0.5"}]}
    assert member.get(f"{path}/public").status_code == 404
    assert member.get(f"/servers/{create()}/ips").json == {"addresses": {}}
