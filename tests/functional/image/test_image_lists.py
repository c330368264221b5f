"""GET /v2/images: what is in it, filters, order, pages, and how many statements it takes."""

from __future__ import annotations

import itertools

import pytest
from tests.statements import sent

from kilonova.domain.images import Image
from kilonova.store import images as rows
from kilonova.store.database import Database

from .conftest import ALICE, BOB, Caller


@pytest.fixture
def shelf(database: Database) -> dict[str, str]:
    """Five images of alice's, made a second apart: name → id."""
    made: dict[str, str] = {}
    with database.write() as conn:
        for number, (name, size) in enumerate([("b", 20), ("a", 20), ("d", 10), ("c", None), (None, 30)]):
            image = Image(
                id=f"00000000-0000-0000-0000-00000000000{number}",
                name=name,
                owner=ALICE,
                size=size,
                disk_format="raw" if number % 2 else "qcow2",
                container_format="bare",
                min_ram=number,
                protected=number == 0,
                created_at=1_000_000_000.5 + number,
                updated_at=1_000_000_000.5 + number,
                properties={"number": str(number), "os_distro": "debian"},
                tags=["all", f"t{number}"],
            )
            assert rows.insert(conn, image)
            made[name or ""] = image.id
    return made


def test_newest_first(alice: Caller, shelf: dict[str, str]) -> None:
    assert alice.names() == [None, "c", "d", "a", "b"]


def test_an_image_with_an_empty_id_is_not_the_list(alice: Caller, shelf: dict[str, str]) -> None:
    assert alice("GET", "/v2/images/").status_code == 404


def test_who_sees_what(alice: Caller, bob: Caller, admin: Caller, unscoped: Caller) -> None:
    for kind in ("private", "shared", "community"):
        alice.create(name=f"alice-{kind}", visibility=kind)
        bob.create(name=f"bob-{kind}", visibility=kind)
    admin.create(name="public", visibility="public")
    own = {"alice-private", "alice-shared", "alice-community"}
    assert set(alice.names()) == own | {"public"}
    assert set(alice.names("?visibility=community")) == {"alice-community", "bob-community"}
    assert set(alice.names("?visibility=private")) == {"alice-private"}
    assert set(alice.names("?visibility=all")) == own | {"public", "bob-community"}
    assert set(alice.names(f"?owner={BOB}")) == set()
    assert set(unscoped.names()) == {"public"}
    assert len(admin.names()) == 5
    assert set(admin.names(f"?owner={BOB}")) == {"bob-private", "bob-shared"}


def test_hidden_images_are_listed_when_asked_for(alice: Caller) -> None:
    hidden = alice.create(name="hidden", os_hidden=True)
    assert alice.names() == []
    assert alice.names("?os_hidden=true") == ["hidden"]
    assert alice.show(hidden["id"])["os_hidden"] is True


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("name=a", "a"),
        ("name=in:a,b", "ab"),
        ("name=in:%22a%22,d,%22x,y%22", "ad"),
        ("name=eq:a", "a"),
        ("name=in:", ""),
        ("id=in:00000000-0000-0000-0000-000000000000,00000000-0000-0000-0000-000000000002", "bd"),
        ("status=queued&name=a", "a"),
        ("status=in:active,saving", ""),
        ("disk_format=in:qcow2,iso&name=in:a,b,c,d", "bd"),
        ("container_format=ova", ""),
        ("size_min=20&size_max=29", "ab"),
        ("size_max=10", "d"),
        ("min_ram=1", "a"),
        ("protected=true", "b"),
        ("tag=t1", "a"),
        ("tag=all&tag=t2", "d"),
        ("tag=t1&tag=t2", ""),
        ("number=3", "c"),
        ("os_distro=debian&number=0", "b"),
        ("os_distro=fedora", ""),
        ("created_at=gt:2001-09-09T01:46:41Z&name=in:a,b,c,d", "cd"),
        ("created_at=gte:2001-09-09T01:46:41Z&name=in:a,b,c,d", "acd"),
        ("created_at=lt:2001-09-09T01:46:41Z", "b"),
        ("created_at=lte:2001-09-09T01:46:41Z", "ab"),
        ("created_at=2001-09-09T01:46:41Z", "a"),
        ("created_at=eq:2001-09-09T03:46:41+02:00", "a"),
        ("updated_at=neq:2001-09-09T01:46:41Z&name=in:a,b", "b"),
        ("marker=00000000-0000-0000-0000-000000000002", "ab"),
        ("checksum=x", ""),
    ],
)
def test_filters(alice: Caller, shelf: dict[str, str], query: str, names: str) -> None:
    assert sorted(alice.names(f"?{query}")) == sorted(names)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("sort_key=name&sort_dir=asc", ["", "a", "b", "c", "d"]),
        ("sort=name:desc", ["d", "c", "b", "a", ""]),
        ("sort_key=size&sort_key=name&sort_dir=desc&sort_dir=asc", ["", "a", "b", "d", "c"]),
        ("sort=size:asc,name:desc", ["c", "d", "b", "a", ""]),
        ("sort=disk_format,created_at:asc", ["a", "c", "b", "d", ""]),
        ("sort_key=created_at&sort_dir=asc", ["b", "a", "d", "c", ""]),
        pytest.param("sort=size:asc,name:desc" + ",size:desc" * 2100, ["c", "d", "b", "a", ""], id="often"),
    ],
)
def test_order_and_pages_of_it(alice: Caller, shelf: dict[str, str], query: str, names: list[str]) -> None:
    assert [name or "" for name in alice.names(f"?{query}")] == names
    paged: list[str] = []
    link = f"/v2/images?{query}&limit=2"
    for _ in itertools.count():
        answer = alice("GET", link).json
        paged += [found["name"] or "" for found in answer["images"]]
        assert answer["first"].startswith("/v2/images?")
        assert answer["schema"] == "/v2/schemas/images"
        if "next" not in answer:
            break
        link = answer["next"]
    assert paged == names


def test_a_filter_stays_in_the_links(alice: Caller, shelf: dict[str, str]) -> None:
    answer = alice("GET", "/v2/images?tag=all&name=in:a,b&limit=1&tag=t1").json
    for link in (answer["first"], answer["next"]):
        assert "tag=all" in link
        assert "tag=t1" in link
        assert "name=in%3Aa%2Cb" in link


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=x",
        "limit=",
        "marker=x",
        "marker=00000000-0000-0000-0000-00000000ffff",
        "sort_key=owner",
        "sort_key=password",
        "sort=name:up",
        "sort=",
        "sort_key=name&sort=name",
        "sort_key=name&sort_dir=asc&sort_dir=desc",
        "visibility=secret",
        "member_status=maybe",
        "os_hidden=1",
        "protected=maybe",
        "size_min=x",
        f"size_min={10**30}",
        "min_ram=1.5",
        "created_at=yesterday",
        "created_at=like:2001-09-09T01:46:41Z",
        "name=like:a",
        "name=in:%22a",
        "changes-since=2001-09-09T01:46:41Z",
        "name=a%00b",
    ],
)
def test_queries_that_can_not_be(alice: Caller, shelf: dict[str, str], query: str) -> None:
    assert alice("GET", f"/v2/images?{query}").status_code == 400


def test_a_limit_of_nothing_and_of_very_much(alice: Caller, shelf: dict[str, str]) -> None:
    assert alice.names("?limit=0") == []
    assert len(alice.names(f"?limit={10**17}")) == 5


def test_others_images_are_no_marker(bob: Caller, shelf: dict[str, str]) -> None:
    assert bob("GET", f"/v2/images?marker={shelf['a']}").status_code == 400


def test_hostile_filters_find_nothing(alice: Caller, shelf: dict[str, str]) -> None:
    for value in ("' OR 1=1 --", "%25", "_", "a%27", "🚀"):
        assert alice.names(f"?name={value}") == []
        assert alice.names(f"?number={value}") == []


def test_the_statements_do_not_grow_with_the_page(
    alice: Caller, shelf: dict[str, str], database: Database
) -> None:
    counts = []
    for limit in (1, 5):
        with sent(database) as statements:
            alice.names(f"?limit={limit}&tag=all&os_distro=debian")
        counts.append(len(statements))
    assert counts == [3, 3]
