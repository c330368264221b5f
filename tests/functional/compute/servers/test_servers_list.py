"""GET /servers and /servers/detail: filters, order, pages, and how many statements they take."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from tests.statements import sent

from kilonova.domain.servers import VmState
from kilonova.store import servers


def names(caller: Any, query: str, version: str = "2.1") -> list[str]:
    answer = caller.get(f"/servers{query}", version=version)
    assert answer.status_code == 200, answer.text
    return sorted(server["name"] for server in answer.json["servers"])


@pytest.fixture
def fleet(create: Any, settle: Any, other: Any, database: Any) -> dict[str, str]:
    """web1 (ACTIVE), web2 (SHUTOFF), db1 (ERROR), new (BUILD) of one project; theirs of another."""
    made = {
        "web1": create(name="web1", tags=["a", "b"], metadata={"x": "y"}),
        "web2": create(name="web2", tags=["b"]),
        "db1": create(name="db1", flavorRef="1", description="main data"),
        "new": create(name="new"),
        "theirs": create(caller=other, name="theirs"),
    }
    settle(made["web1"], ip="10.0.0.5")
    settle(made["web2"], VmState.STOPPED, ip="10.0.0.15", power_state=4)
    fault = {"code": 500, "message": "m", "created": 1.0}
    settle(made["db1"], VmState.ERROR, host=None, vifs=[], power_state=0, fault=fault)
    return made


def test_only_the_projects_own(fleet: Any, member: Any, other: Any, admin: Any) -> None:
    assert names(member, "") == ["db1", "new", "web1", "web2"]
    assert names(other, "") == ["theirs"]
    assert names(admin, "") == []
    assert names(admin, "?all_tenants=1") == ["db1", "new", "theirs", "web1", "web2"]
    assert names(admin, "?all_tenants") == ["db1", "new", "theirs", "web1", "web2"]
    assert names(admin, f"?all_tenants=1&project_id={'b' * 32}") == ["theirs"]
    assert names(admin, f"?all_tenants=1&tenant_id={'b' * 32}") == ["theirs"]
    assert names(admin, f"?tenant_id={'b' * 32}") == []
    assert names(member, f"?project_id={'b' * 32}") == ["db1", "new", "web1", "web2"]
    assert member.get("/servers?all_tenants=1").status_code == 403
    assert member.get("/servers?all_tenants=maybe").status_code == 400


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?name=web", ["web1", "web2"]),
        ("?name=^web1$", ["web1"]),
        ("?name=^we", ["web1", "web2"]),
        ("?name=%5Ew.b[12]$", ["web1", "web2"]),
        ("?name=WEB", []),
        ("?name=^$", []),
        ("?name=", ["db1", "new", "web1", "web2"]),
        ("?status=ACTIVE", ["web1"]),
        ("?status=active", ["web1"]),
        ("?status=ACTIVE&status=ERROR", ["db1", "web1"]),
        ("?status=BUILD", ["new"]),
        ("?status=RESIZE", []),
        ("?status=nonsense", []),
        ("?flavor=1", ["db1"]),
        ("?flavor=none", []),
        ("?image=11111111-2222-3333-4444-555555555555", ["db1", "new", "web1", "web2"]),
        ("?image=x", []),
        ("?ip=10.0.0.5", ["web1"]),
        ("?ip=10.0.0", ["web1", "web2"]),
        ("?ip=^10.0.0.1", ["web2"]),
        ("?ip=fd00", []),
        ("?reservation_id=r-none", []),
        ("?changes-since=2020-01-01T00:00:00Z", ["db1", "new", "web1", "web2"]),
        ("?changes-since=2100-01-01T00:00:00%2B01:00", []),
        ("?changes-since=2100-01-01T00:00:00+01:00", []),
        ("?limit=0", []),
        ("?nonsense=1", ["db1", "new", "web1", "web2"]),
        ("?host=elsewhere", ["db1", "new", "web1", "web2"]),
        ("?_private=1", ["db1", "new", "web1", "web2"]),
        ("?deleted=1", ["db1", "new", "web1", "web2"]),
        ("?name=%27%20OR%201=1--", []),
    ],
)
def test_filters_of_a_member(fleet: Any, member: Any, query: str, expected: list[str]) -> None:
    assert names(member, query) == expected


@pytest.mark.parametrize(
    ("version", "query", "expected"),
    [
        ("2.26", "?tags=a,b", ["web1"]),
        ("2.26", "?tags=b", ["web1", "web2"]),
        ("2.26", "?tags-any=a,c", ["web1"]),
        ("2.26", "?not-tags=a,b", ["db1", "new", "web2"]),
        ("2.26", "?not-tags-any=a,b", ["db1", "new"]),
        ("2.25", "?tags=a", ["db1", "new", "web1", "web2"]),
        ("2.66", "?changes-before=2020-01-01T00:00:00Z", []),
        ("2.65", "?changes-before=2020-01-01T00:00:00Z", ["db1", "new", "web1", "web2"]),
        ("2.73", "?locked=true", []),
        ("2.73", "?locked=false", ["db1", "new", "web1", "web2"]),
        ("2.83", "?power_state=1", ["web1"]),
        ("2.83", "?vm_state=stopped", ["web2"]),
        ("2.83", "?task_state=scheduling", ["new"]),
        ("2.83", "?availability_zone=^nova$", ["db1", "web1", "web2"]),
        ("2.83", "?launched_at=2027-01-15T08:00:00Z", ["db1", "web1", "web2"]),
        ("2.83", "?launched_at=2027-01-15T08:00:01Z", []),
        ("2.83", f"?user_id={'e' * 32}", ["db1", "new", "web1", "web2"]),
        ("2.83", "?config_drive=True", []),
        ("2.83", "?progress=0", ["db1", "new", "web1", "web2"]),
        ("2.83", "?progress=50", []),
        ("2.83", "?key_name=k", []),
        ("2.90", "?hostname=web", ["web1", "web2"]),
    ],
)
def test_newer_filters(fleet: Any, member: Any, version: str, query: str, expected: list[str]) -> None:
    assert names(member, query, version) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("&host=node-1", ["web1", "web2"]),
        ("&node=node-1.example", ["web1", "web2"]),
        ("&node=node-2", []),
        ("&description=data", ["db1"]),
        ("&vm_state=active", ["web1"]),
        ("&vm_state=active&vm_state=error", ["db1", "web1"]),
        ("&launch_index=0&host=node-1", ["web1", "web2"]),
        ("&deleted=True", []),
        ("&soft_deleted=True", []),
        ("&status=DELETED", []),
    ],
)
def test_filters_of_the_admin(fleet: Any, admin: Any, query: str, expected: list[str]) -> None:
    assert names(admin, f"?all_tenants=1{query}") == expected


def test_uuid_filter(fleet: Any, admin: Any) -> None:
    query = f"?all_tenants=1&uuid={fleet['web1']}&uuid={fleet['theirs']}"
    assert names(admin, query) == ["theirs", "web1"]


@pytest.mark.parametrize(
    ("version", "query", "status"),
    [
        ("2.1", "?name=(", 400),
        ("2.1", "?name=" + "a" * 5000, 400),
        ("2.1", "?ip=(", 400),
        ("2.1", "?limit=-1", 400),
        ("2.1", "?limit=x", 400),
        ("2.1", "?limit=" + "9" * 5000, 200),
        ("2.1", "?marker=x", 400),
        ("2.1", "?marker=%00", 400),
        ("2.1", "?sort_key=nonsense", 400),
        ("2.1", "?sort_key=deleted", 200),
        ("2.75", "?sort_key=deleted", 400),
        ("2.1", "?sort_key=host", 403),
        ("2.1", "?sort_dir=up", 400),
        ("2.1", "?sort_key=uuid&sort_dir=asc&sort_dir=asc", 400),
        ("2.1", "?changes-since=yesterday", 400),
        ("2.1", "?changes-since=", 400),
        ("2.66", "?changes-since=2020-01-02T00:00:00Z&changes-before=2020-01-01T00:00:00Z", 400),
        ("2.1", "?status=DELETED", 403),
        ("2.38", "?status=nonsense", 400),
        ("2.75", "?nonsense=1", 400),
        ("2.73", "?locked=maybe", 400),
        ("2.26", "?tags=" + ",".join(str(i) for i in range(60)), 400),
        ("2.83", "?power_state=x", 400),
    ],
)
def test_what_is_refused(fleet: Any, member: Any, version: str, query: str, status: int) -> None:
    answer = member.get(f"/servers{query}", version=version)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("query", ["?metadata=x", "?_x=1", "?kernel_id=1"])
def test_what_is_refused_to_the_admin(fleet: Any, admin: Any, query: str) -> None:
    assert admin.get(f"/servers{query}").status_code == 400


def test_patterns_take_no_time(fleet: Any, member: Any, create: Any) -> None:
    create(name="a" * 250 + "b")
    assert names(member, "?name=" + quote("^(a+)+$")) == []


def ordered(caller: Any, query: str, version: str = "2.1") -> list[str]:
    return [server["name"] for server in caller.get(f"/servers{query}", version=version).json["servers"]]


def test_order(fleet: Any, member: Any, admin: Any) -> None:
    assert ordered(member, "") == ["new", "db1", "web2", "web1"]
    assert ordered(member, "?sort_key=display_name&sort_dir=asc") == ["db1", "new", "web1", "web2"]
    assert ordered(member, "?sort_key=display_name") == ["web2", "web1", "new", "db1"]
    both = "?sort_key=availability_zone&sort_dir=asc&sort_key=display_name&sort_dir=desc"
    assert ordered(member, both) == ["new", "web2", "web1", "db1"]
    assert ordered(admin, "?all_tenants=1&sort_key=host&sort_key=display_name&sort_dir=asc") == [
        "db1",
        "new",
        "theirs",
        "web1",
        "web2",
    ]


@pytest.mark.parametrize(
    "order",
    [
        "",
        "sort_key=display_name&sort_dir=asc",
        "sort_key=vm_state&sort_dir=desc&sort_key=display_name&sort_dir=asc",
        "sort_key=task_state&sort_dir=asc",
        "sort_key=launched_at&sort_dir=desc",
        "sort_key=uuid",
    ],
)
@pytest.mark.parametrize("path", ["/servers", "/servers/detail"])
def test_pages(fleet: Any, member: Any, order: str, path: str) -> None:
    """Following the links gives what one page gives, in the same order."""
    whole = [one["id"] for one in member.get(f"{path}?{order}").json["servers"]]
    assert len(whole) == 4
    found: list[str] = []
    url = f"{path}?limit=3&{order}"
    for _ in range(5):
        page = member.get(url).json
        found += [one["id"] for one in page["servers"]]
        if "servers_links" not in page:
            break
        (link,) = page["servers_links"]
        assert link["rel"] == "next"
        split = urlsplit(link["href"])
        assert split.path == f"/compute/v2.1{path}"
        url = f"{path}?{split.query}"
    assert found == whole


def test_marker_of_a_deleted_server_still_works(fleet: Any, member: Any, database: Any) -> None:
    with database.write() as conn:
        servers.mark_deleted(conn, fleet["db1"])
    assert ordered(member, f"?marker={fleet['db1']}") == ["web2", "web1"]
    assert member.get(f"/servers?marker={fleet['theirs']}").status_code == 400


def test_deleted_servers(fleet: Any, member: Any, admin: Any, database: Any) -> None:
    with database.write() as conn:
        servers.mark_deleted(conn, fleet["web1"])
    assert names(member, "") == ["db1", "new", "web2"]
    assert "web1" in names(member, "?changes-since=2020-01-01T00:00:00Z")
    assert names(admin, "?all_tenants=1&deleted=True") == ["web1"]
    assert names(admin, "?all_tenants=1&status=DELETED") == ["web1"]
    (shown,) = admin.get("/servers/detail?all_tenants=1&deleted=1", version="2.100").json["servers"]
    assert shown["status"] == "DELETED"
    assert shown["OS-SRV-USG:terminated_at"] is not None


@pytest.mark.parametrize("caller", ["member", "admin"])
def test_statements_do_not_grow_with_the_page(
    caller: str, create: Any, settle: Any, database: Any, request: pytest.FixtureRequest
) -> None:
    asker = request.getfixturevalue(caller)
    counts = []
    for number in (1, 8):
        for _ in range(number):
            settle(create(tags=["x"]))
        with sent(database) as statements:
            listed = asker.get(
                "/servers/detail?all_tenants=1" if caller == "admin" else "/servers/detail", version="2.100"
            )
        assert len(listed.json["servers"]) == {1: 1, 8: 9}[number]
        counts.append(len(statements))
    assert counts[0] == counts[1] <= 4
