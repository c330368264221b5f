"""Host aggregates, the zones that they make, and the images that their hosts are told to have."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.functional.compute.conftest import Caller
from tests.running import until

from kilonova.api.compute.state import ComputeAPI
from kilonova.bus.local import LocalBus
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, NotFound
from kilonova.domain.messages import CacheImages, SelectDestinations
from kilonova.domain.servers import BuildSpec, Flavor, ImageRef
from kilonova.scheduler import filters
from kilonova.scheduler.hosts import Hosts
from kilonova.store.database import Database

IMAGE = str(uuid.uuid4())


class Images:
    """Knows one image."""

    def ref(self, _context: RequestContext, image_id: str) -> ImageRef:
        if image_id == str(uuid.UUID(int=0)):
            raise BadRequest(f"Image {image_id} is not active.")
        if image_id != IMAGE:
            raise NotFound(f"No image found with ID {image_id}")
        return ImageRef(id=image_id, disk_format="raw", size=1)


@pytest.fixture
def bus() -> LocalBus:
    return LocalBus()


@pytest.fixture
def state(state: ComputeAPI, bus: LocalBus) -> ComputeAPI:
    return replace(state, bus=bus, images=Images())  # type: ignore[arg-type]


@pytest.fixture
def make(admin: Caller) -> Callable[..., dict[str, Any]]:
    def made(name: str, zone: str | None = None, *hosts: str) -> dict[str, Any]:
        found = admin.post("/os-aggregates", {"aggregate": {"name": name, "availability_zone": zone}})
        assert found.status_code == 200, found.text
        aggregate: dict[str, Any] = found.json["aggregate"]
        for host in hosts:
            answer = act(admin, aggregate, add_host={"host": host})
            assert answer.status_code == 200, answer.text
            aggregate = answer.json["aggregate"]
        return aggregate

    return made


def act(admin: Caller, aggregate: dict[str, Any], **action: Any) -> Any:
    return admin.post(f"/os-aggregates/{aggregate['id']}/action", action)


def zones(admin: Caller) -> dict[str, list[str]]:
    found = admin.get("/os-availability-zone/detail").json["availabilityZoneInfo"]
    return {zone["zoneName"]: sorted(zone["hosts"]) for zone in found}


def test_the_life_of_an_aggregate(admin: Caller, make: Any, add_host: Any) -> None:
    add_host("one")
    made = make("fast", "east")
    assert "hosts" not in made
    assert "uuid" not in made
    path = f"/os-aggregates/{made['id']}"
    shown = admin.get(path, "2.41").json["aggregate"]
    assert shown.pop("uuid")
    assert shown == made | {"hosts": [], "metadata": {"availability_zone": "east"}}
    changed = admin.put(path, {"aggregate": {"name": "faster", "availability_zone": "west"}})
    assert changed.json["aggregate"]["availability_zone"] == "west"
    told = act(admin, made, set_metadata={"metadata": {"ssd": "true", "gone": None}}).json["aggregate"]
    assert told["metadata"] == {"availability_zone": "west", "ssd": "true"}
    told = act(admin, made, set_metadata={"metadata": {"ssd": None}}).json["aggregate"]
    assert told["metadata"] == {"availability_zone": "west"}
    assert act(admin, made, add_host={"host": "one"}).json["aggregate"]["hosts"] == ["one"]
    assert [one["name"] for one in admin.get("/os-aggregates").json["aggregates"]] == ["faster"]
    refused = admin.delete(path)
    assert (refused.status_code, "not empty" in refused.text) == (400, True)
    assert act(admin, made, remove_host={"host": "one"}).json["aggregate"]["hosts"] == []
    assert admin.delete(path).status_code == 200
    assert admin.get(path).status_code == 404
    assert make("next")["id"] > made["id"], "an id is never given again"


def test_a_hosts_zone_is_what_its_aggregates_say(admin: Caller, make: Any, add_host: Any) -> None:
    add_host("one")
    add_host("two")
    east = make("a", "east", "one")
    assert zones(admin) == {"east": ["one"], "nova": ["two"]}
    assert {row["zone"] for row in admin.get("/os-services?host=one").json["services"]} == {"east"}
    other = make("b", "west")
    clash = act(admin, other, add_host={"host": "one"})
    assert (clash.status_code, "already in availability zone" in clash.text) == (409, True)
    assert zones(admin)["east"] == ["one"], "what was refused changed nothing"
    same = make("c", "east", "one")
    assert act(admin, east, remove_host={"host": "one"}).status_code == 200
    assert zones(admin)["east"] == ["one"]
    moved = act(admin, same, set_metadata={"metadata": {"availability_zone": None}})
    assert moved.status_code == 200
    assert zones(admin) == {"nova": ["one", "two"]}


@pytest.mark.parametrize("change", ["set_metadata", "update", "remove_host", "add_host"])
def test_a_host_with_servers_stays_in_its_zone(
    admin: Caller, make: Any, add_host: Any, place: Callable[[str, str], str], change: str
) -> None:
    add_host("one")
    first = make("a", "east", "one")
    place("one", "s")
    answer = {
        "set_metadata": lambda: act(admin, first, set_metadata={"metadata": {"availability_zone": "x"}}),
        "update": lambda: admin.put(
            f"/os-aggregates/{first['id']}", {"aggregate": {"availability_zone": None}}
        ),
        "remove_host": lambda: act(admin, first, remove_host={"host": "one"}),
        "add_host": lambda: act(admin, make("b", "west"), add_host={"host": "one"}),
    }[change]()
    assert answer.status_code == (400 if change in ("set_metadata", "update") else 409), answer.text
    assert zones(admin) == {"east": ["one"]}


def test_what_is_refused(admin: Caller, member: Caller, make: Any, add_host: Any) -> None:
    add_host("one")
    made = make("a", None, "one")
    path = f"/os-aggregates/{made['id']}"
    bad: list[Any] = [
        {},
        {"aggregate": {}},
        {"aggregate": {"name": ""}},
        {"aggregate": {"name": "x" * 256}},
        {"aggregate": {"name": "x", "availability_zone": ""}},
        {"aggregate": {"name": "x", "availability_zone": "a:b"}},
        {"aggregate": {"name": "x", "more": 1}},
    ]
    for body in bad:
        assert admin.post("/os-aggregates", body).status_code == 400, body
    assert admin.post("/os-aggregates", {"aggregate": {"name": "a"}}).status_code == 409
    other = make("b")
    assert admin.put(f"/os-aggregates/{other['id']}", {"aggregate": {"name": "a"}}).status_code == 409
    assert admin.put(path, {"aggregate": {}}).status_code == 400
    for action in (
        {},
        {"add_host": {"host": "a b"}},
        {"add_host": {"host": "a"}, "remove_host": {"host": "a"}},
    ):
        assert act(admin, made, **action).status_code == 400
    assert act(admin, made, set_metadata={"metadata": {"k": "v" * 256}}).status_code == 400
    assert act(admin, made, set_metadata={"metadata": {"": "v"}}).status_code == 400
    assert act(admin, made, add_host={"host": "none"}).status_code == 404
    assert act(admin, made, add_host={"host": "one"}).status_code == 409
    assert act(admin, made, remove_host={"host": "none"}).status_code == 404
    for wrong, status in (("x", 400), ("999", 404), ("-1", 404)):
        assert admin.get(f"/os-aggregates/{wrong}").status_code == status
        assert admin.delete(f"/os-aggregates/{wrong}").status_code == status
    for answer in (
        member.get("/os-aggregates"),
        member.get(path),
        member.post("/os-aggregates", {"aggregate": {"name": "m"}}),
        member.put(path, {"aggregate": {"name": "m"}}),
        member.delete(path),
        member.post(f"{path}/action", {"add_host": {"host": "one"}}),
        member.post(f"{path}/images", {"cache": [{"id": IMAGE}]}, "2.81"),
    ):
        assert answer.status_code == 403


def test_a_host_that_is_forgotten_is_in_no_aggregate(
    admin: Caller, make: Any, add_host: Any, database: Database
) -> None:
    service = add_host("one")
    made = make("a", "east", "one")
    with database.write() as conn:
        conn.exec_driver_sql("UPDATE services SET last_seen = 0")
    assert admin.delete(f"/os-services/{service}", "2.53").status_code == 204
    assert admin.get(f"/os-aggregates/{made['id']}").json["aggregate"]["hosts"] == []


def test_hosts_are_told_which_images_to_have(
    admin: Caller, make: Any, add_host: Any, bus: LocalBus, database: Database
) -> None:
    told: list[tuple[str, list[str]]] = []

    def hears(host: str) -> None:
        def heard(message: CacheImages) -> None:
            told.append((host, [image.id for image in message.images]))

        bus.serve(f"compute.{host}", {"cache_images": heard}, 1)

    for host in ("one", "two", "three"):
        add_host(host)
        hears(host)
    path = f"/os-aggregates/{make('a', None, 'one', 'two')['id']}/images"
    with database.write() as conn:
        conn.exec_driver_sql("UPDATE services SET last_seen = 0 WHERE host = 'two'")
    assert admin.post(path, {"cache": [{"id": IMAGE}]}, "2.80").status_code == 404
    for bad in ({}, {"cache": []}, {"cache": [{"id": "x"}]}, {"cache": [{"id": IMAGE}, {"id": IMAGE}]}):
        assert admin.post(path, bad, "2.81").status_code == 400
    for unknown in (str(uuid.uuid4()), str(uuid.UUID(int=0))):
        assert admin.post(path, {"cache": [{"id": unknown}]}, "2.81").status_code == 400
    assert admin.post("/os-aggregates/999/images", {"cache": [{"id": IMAGE}]}, "2.81").status_code == 404
    assert admin.post(path, {"cache": [{"id": IMAGE}]}, "2.81").status_code == 202
    until(lambda: bool(told), 60, "the word to arrive")
    assert told == [("one", [IMAGE])], "who does not live is not told, nor who is in none"


def test_the_scheduler_reads_what_aggregates_say(
    admin: Caller, make: Any, add_host: Any, database: Database
) -> None:
    for host in ("one", "two"):
        add_host(host)
    hosts = Hosts(database, 60)
    hosts.current(1e9)
    made = make("a", "east", "one")
    act(admin, made, set_metadata={"metadata": {"ssd": "true"}})
    found = {host.host: host for host in hosts.current(1e9 + 1)}
    assert found["one"].aggregate_metadata == {"availability_zone": ["east"], "ssd": ["true"]}
    spec = BuildSpec(
        server_id=str(uuid.uuid4()),
        name="s",
        hostname="s",
        project_id="p",
        user_id="u",
        flavor=Flavor(
            id="1",
            name="f",
            vcpus=1,
            memory_mb=1,
            root_gb=0,
            extra_specs={"aggregate_instance_extra_specs:ssd": "true"},
        ),
        image=None,
        availability_zone="east",
    )
    request = SelectDestinations(operation_id="o", epoch=1, spec=spec)
    for name in ("AggregateInstanceExtraSpecsFilter", "AvailabilityZoneFilter"):
        (rule,) = [rule for rule in filters.BUILT_IN if rule.name == name]
        assert [host.host for host in rule.passing(request, list(found.values()))] == ["one"], name
