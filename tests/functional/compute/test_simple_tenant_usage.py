"""/os-simple-tenant-usage: what servers used in a time, from their records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.statements import sent

from kilonova.domain import clock
from kilonova.domain.servers import Flavor
from kilonova.store.database import Database
from kilonova.store.schema.servers import servers

from .conftest import OTHER_PROJECT, PROJECT, Caller

PATH = "/os-simple-tenant-usage"
DAY = 24 * 3600.0
START = clock.parse("2026-01-01T00:00:00")
PERIOD = "start=2026-01-01T00:00:00&end=2026-01-02T00:00:00"
FLAVOR = Flavor(id="1", name="m1", vcpus=2, memory_mb=512, root_gb=3, ephemeral_gb=1)

Ran = Callable[..., str]


@pytest.fixture
def ran(place: Callable[[str, str], str], database: Database) -> Ran:
    """A server that was built and deleted so many hours after START."""

    def make(name: str, built: float | None, deleted: float | None = None, project: str = PROJECT) -> str:
        server_id = place("h", name)
        times = [None if hours is None else START + hours * 3600 for hours in (built, deleted)]
        values: dict[str, Any] = {
            "project_id": project,
            "flavor": FLAVOR,
            "created_at": START + (built or 0.0) * 3600 - 1,
            "launched_at": times[0],
            "terminated_at": times[1],
            "deleted_at": times[1],
        }
        with database.write() as conn:
            conn.execute(servers.update().where(servers.c.id == server_id).values(**values))
        return server_id

    return make


def test_hours_are_those_within_the_period(member: Caller, ran: Ran) -> None:
    for name, built, deleted in (
        ("over it all", -5, None),
        ("gone in it", -5, 6),
        ("came in it", 18, 30),
        ("inside", 1, 3),
        ("before", -9, -1),
        ("after", 25, None),
        ("never built", None, None),
    ):
        ran(name, built, deleted)
    usage = member.get(f"{PATH}/{PROJECT}?{PERIOD}").json["tenant_usage"]
    assert {one["name"]: one["hours"] for one in usage["server_usages"]} == {
        "over it all": 24.0,
        "gone in it": 6.0,
        "came in it": 6.0,
        "inside": 2.0,
    }
    assert {name: usage[name] for name in usage if name != "server_usages"} == {
        "tenant_id": PROJECT,
        "start": "2026-01-01T00:00:00.000000",
        "stop": "2026-01-02T00:00:00.000000",
        "total_hours": 38.0,
        "total_vcpus_usage": 76.0,
        "total_memory_mb_usage": 38.0 * 512,
        "total_local_gb_usage": 38.0 * 4,
    }
    inside = next(one for one in usage["server_usages"] if one["name"] == "inside")
    assert inside | {"instance_id": ""} == {
        "instance_id": "",
        "name": "inside",
        "tenant_id": PROJECT,
        "hours": 2.0,
        "flavor": "m1",
        "vcpus": 2,
        "memory_mb": 512,
        "local_gb": 4,
        "started_at": "2026-01-01T01:00:00.000000",
        "ended_at": "2026-01-01T03:00:00.000000",
        "state": "terminated",
        "uptime": 7200,
    }


def test_time_that_has_not_passed_is_not_used(admin: Caller, ran: Ran) -> None:
    server = ran("s", 0)
    launched = clock.now() - DAY
    with_end = f"start={clock.iso8601_micro(launched)}&end={clock.iso8601_micro(launched + 9 * DAY)}"
    usage = admin.get(f"{PATH}/{PROJECT}?{with_end}").json["tenant_usage"]
    (found,) = usage["server_usages"]
    assert (found["instance_id"], found["state"], found["ended_at"]) == (server, "active", None)
    assert found["hours"] == pytest.approx(24, abs=0.1)


def test_all_projects(admin: Caller, ran: Ran) -> None:
    ran("a", 0, 1)
    ran("b", 0, 2, OTHER_PROJECT)
    ran("c", 0, 3)
    usages = admin.get(f"{PATH}?{PERIOD}").json["tenant_usages"]
    assert {one["tenant_id"]: one["total_hours"] for one in usages} == {PROJECT: 4.0, OTHER_PROJECT: 2.0}
    assert all("server_usages" not in one for one in usages)
    for yes in ("1", "True"):
        usages = admin.get(f"{PATH}?detailed={yes}&{PERIOD}").json["tenant_usages"]
        assert sorted(len(one["server_usages"]) for one in usages) == [1, 2]


def test_none_is_nothing(member: Caller, admin: Caller) -> None:
    assert member.get(f"{PATH}/{PROJECT}").json == {"tenant_usage": {}}
    assert admin.get(PATH).json == {"tenant_usages": []}


def test_pages(admin: Caller, member: Caller, ran: Ran) -> None:
    names = [ran(f"s{i}", i, i + 1) for i in range(3)]
    first = member.get(f"{PATH}/{PROJECT}?{PERIOD}&limit=2", version="2.40").json
    assert [one["instance_id"] for one in first["tenant_usage"]["server_usages"]] == names[:2]
    (link,) = first["tenant_usage_links"]
    path = link["href"].partition("/compute/v2.1")[2]
    second = member.get(path, version="2.40").json
    assert [one["instance_id"] for one in second["tenant_usage"]["server_usages"]] == names[2:]
    assert "tenant_usage_links" not in second
    page = admin.get(f"{PATH}?{PERIOD}&detailed=1&limit=1&marker={names[1]}", version="2.40").json
    assert page["tenant_usages"][0]["server_usages"][0]["instance_id"] == names[2]
    assert "marker=" + names[2] in page["tenant_usages_links"][0]["href"]
    assert admin.get(f"{PATH}?{PERIOD}&marker=none", version="2.40").status_code == 400
    all_of_it = member.get(f"{PATH}/{PROJECT}?{PERIOD}&limit=1").json
    assert len(all_of_it["tenant_usage"]["server_usages"]) == 3


def test_who_may_ask(admin: Caller, member: Caller, reader: Caller, other: Caller) -> None:
    assert reader.get(f"{PATH}/{PROJECT}").status_code == 200
    assert admin.get(f"{PATH}/{PROJECT}").status_code == 200
    assert other.get(f"{PATH}/{PROJECT}").status_code == 403
    assert member.get(PATH).status_code == 403
    assert admin.get(f"{PATH}/").status_code == 404


def test_what_no_period_is(member: Caller) -> None:
    for wrong in (
        "start=2026-01-02T00:00:00&end=2026-01-01T00:00:00",
        "start=yesterday",
        "end=2026-99-99",
        "end=9999-12-31T23:59:59.999999",
        "end=9999-12-31T23:59:59-14:00",
        "start=0001-01-01T00:00:00%2B14:00",
        "start=2026-01-01T00:00:00&start=2026-01-01T00:00:00",
    ):
        assert member.get(f"{PATH}/{PROJECT}?{wrong}").status_code == 400, wrong
    assert member.get(f"{PATH}/{PROJECT}?what=1").status_code == 200
    assert member.get(f"{PATH}/{PROJECT}?what=1", version="2.75").status_code == 400


def test_many_servers_are_one_statement(member: Caller, ran: Ran, database: Database) -> None:
    for i in range(4):
        ran(f"s{i}", i)
    with sent(database) as said:
        usage = member.get(f"{PATH}/{PROJECT}?{PERIOD}").json["tenant_usage"]
    assert len(usage["server_usages"]) == 4
    assert len([text for text in said if "FROM servers" in text]) == 1
