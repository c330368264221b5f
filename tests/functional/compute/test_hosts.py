"""Services, hypervisors and availability zones."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from tests.statements import sent

from kilonova.api.compute.state import ComputeAPI
from kilonova.config import Config
from kilonova.domain.clock import now
from kilonova.domain.hosts import topic
from kilonova.domain.messages import Nothing, Text
from kilonova.domain.network import Network
from kilonova.domain.routers import INTERFACE_OWNER, Router
from kilonova.network.builtin.changes import Change
from kilonova.network.builtin.ports import new_port
from kilonova.store import hosts as host_store
from kilonova.store import networks, ports, routers
from kilonova.store.database import Database
from kilonova.store.schema.hosts import hosts, services

Add = Callable[[str], str]


@pytest.fixture
def silence(database: Database, config: Config) -> Callable[[str], None]:
    """A service gives no sign of life any more."""

    def hush(service_id: str) -> None:
        long_ago = now() - config.compute.service_down_time - 1
        with database.write() as conn:
            conn.execute(sa.update(services).where(services.c.id == service_id).values(last_seen=long_ago))

    return hush


def listed(admin: Any, query: str = "", version: str = "2.53") -> Any:
    return admin.get(f"/os-services{query}", version=version).json["services"]


def test_services_by_microversion(admin: Any, add_host: Add) -> None:
    service_id = add_host("one")
    (old,) = listed(admin, version="2.1")
    assert (old["binary"], old["host"], old["zone"]) == ("nova-compute", "one", "nova")
    assert (old["state"], old["status"], old["disabled_reason"]) == ("up", "enabled", None)
    assert isinstance(old["id"], int)
    assert "forced_down" not in old
    assert listed(admin, version="2.11")[0]["forced_down"] is False
    assert listed(admin)[0]["id"] == service_id


def test_services_are_filtered(admin: Any, add_host: Add, database: Database) -> None:
    add_host("one")
    add_host("two")
    with database.write() as conn:
        host_store.seen(conn, "nova-scheduler", "one", "internal")
    assert [(s["binary"], s["host"]) for s in listed(admin, "?host=one")] == [
        ("nova-compute", "one"),
        ("nova-scheduler", "one"),
    ]
    assert [s["host"] for s in listed(admin, "?binary=nova-compute")] == ["one", "two"]
    assert listed(admin, "?binary=nova-compute&host=none") == []
    assert len(listed(admin, "?host=")) == 3


def test_a_silent_service_is_down(admin: Any, add_host: Add, silence: Callable[[str], None]) -> None:
    silence(add_host("one"))
    assert listed(admin)[0]["state"] == "down"
    assert admin.get("/os-hypervisors").json["hypervisors"][0]["state"] == "down"


def test_update_by_uuid(admin: Any, add_host: Add, database: Database) -> None:
    path = f"/os-services/{add_host('one')}"
    with database.read() as conn:
        before = conn.execute(sa.select(hosts.c.updated_at)).scalar_one()
    done = admin.put(path, {"status": "disabled", "disabled_reason": "repair"}, version="2.53").json[
        "service"
    ]
    assert (done["status"], done["disabled_reason"], done["state"]) == ("disabled", "repair", "up")
    with database.read() as conn:  # the scheduler reads hosts that changed
        assert conn.execute(sa.select(hosts.c.updated_at)).scalar_one() > before
    done = admin.put(path, {"forced_down": True}, version="2.53").json["service"]
    assert (done["forced_down"], done["state"], done["status"]) == (True, "down", "disabled")
    done = admin.put(path, {"status": "enabled", "forced_down": "no"}, version="2.53").json["service"]
    assert (done["status"], done["disabled_reason"], done["state"]) == ("enabled", None, "up")


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"status": "off"},
        {"status": "enabled", "disabled_reason": "r"},
        {"disabled_reason": "r"},
        {"status": "disabled", "disabled_reason": ""},
        {"status": "disabled", "disabled_reason": "x" * 256},
        {"forced_down": "maybe"},
        {"forced_down": 5},
        {"host": "one"},
        [],
    ],
)
def test_update_refuses(admin: Any, add_host: Add, wrong: Any) -> None:
    assert admin.put(f"/os-services/{add_host('one')}", wrong, version="2.53").status_code == 400


def test_update_refuses_what_is_no_compute_service(admin: Any, database: Database) -> None:
    with database.write() as conn:
        service_id = host_store.seen(conn, "nova-scheduler", "one", "internal")
    answer = admin.put(f"/os-services/{service_id}", {"status": "disabled"}, version="2.53")
    assert answer.status_code == 400
    assert admin.put("/os-services/x", {"status": "disabled"}, version="2.53").status_code == 400
    unknown = f"/os-services/{uuid.uuid4()}"
    assert admin.put(unknown, {"status": "disabled"}, version="2.53").status_code == 404


def test_old_updates(admin: Any, add_host: Add) -> None:
    add_host("one")
    named = {"host": "one", "binary": "nova-compute"}

    def put(action: str, version: str = "2.11", **more: Any) -> Any:
        return admin.put(f"/os-services/{action}", named | more, version=version)

    assert put("disable").json == {"service": {**named, "status": "disabled"}}
    assert put("disable-log-reason", disabled_reason="r").json["service"]["disabled_reason"] == "r"
    assert listed(admin)[0]["disabled_reason"] == "r"
    assert put("enable").json == {"service": {**named, "status": "enabled"}}
    assert put("force-down", forced_down=True).json == {"service": {**named, "forced_down": True}}
    assert listed(admin)[0]["state"] == "down"
    refused = {
        put("force-down", version="2.10", forced_down=True).status_code: 404,
        put("disable-log-reason").status_code: 400,
        put("enable", host="none").status_code: 404,
        put("enable", binary="nova-scheduler").status_code: 400,
        put("enable", host="a b").status_code: 400,
        put("enable", version="2.53").status_code: 404,
        put("other").status_code: 404,
    }
    assert all(given == wanted for given, wanted in refused.items())


def test_delete_only_what_is_dead_and_empty(
    admin: Any, add_host: Add, silence: Callable[[str], None], place: Callable[[str, str], str]
) -> None:
    service_id = add_host("one")
    path = f"/os-services/{service_id}"
    assert admin.delete(path, version="2.53").status_code == 409
    silence(service_id)
    place("one", "vm")
    refused = admin.delete(path, version="2.53")
    assert "hosting instances" in refused.json["conflictingRequest"]["message"]
    other_id = add_host("two")
    silence(other_id)
    number = next(s["id"] for s in listed(admin, version="2.52") if s["host"] == "two")
    assert admin.delete(f"/os-services/{number}", version="2.52").status_code == 204
    assert [s["host"] for s in listed(admin)] == ["one"]
    assert len(admin.get("/os-hypervisors").json["hypervisors"]) == 1
    for gone, version, status in ((other_id, "2.53", 404), (number, "2.52", 404), ("x", "2.52", 400)):
        assert admin.delete(f"/os-services/{gone}", version=version).status_code == status


def test_who_shares_networks_with_a_host_hears_that_it_is_forgotten(
    admin: Any, add_host: Add, silence: Callable[[str], None], state: ComputeAPI
) -> None:
    told: list[Change] = []
    state.network._tell = told.append  # type: ignore[attr-defined]
    service_id = add_host("one")
    with state.db.write() as conn:
        net = Network(
            id=str(uuid.uuid4()),
            project_id="p",
            name="",
            description="",
            admin_state_up=True,
            shared=False,
            mtu=1400,
            port_security_enabled=True,
            created_at=0,
            updated_at=0,
        )
        networks.insert(conn, net)
        own = {"id": str(uuid.uuid4()), "host": "one"}
        router = Router(**own, project_id="p", name="", description="", created_at=0, updated_at=0)
        routers.insert(conn, router)
        port = {"device_id": router.id, "device_owner": INTERFACE_OWNER}
        ports.insert(conn, [new_port(net, project_id="p", mac_address="fa:16:3e:00:00:01", **port)])
    silence(service_id)
    assert admin.delete(f"/os-services/{service_id}", version="2.53").status_code == 204
    assert [list(change.networks) for change in told] == [[net.id]]


def test_hypervisor_by_microversion(admin: Any, add_host: Add, place: Callable[[str, str], str]) -> None:
    service_id = add_host("one")
    server_id = place("one", "vm")

    def detail(version: str, query: str = "") -> Any:
        return admin.get(f"/os-hypervisors/detail{query}", version=version).json["hypervisors"][0]

    old = detail("2.1")
    assert (old["vcpus"], old["memory_mb"], old["local_gb"]) == (8, 16384, 100)
    assert (old["free_ram_mb"], old["free_disk_gb"], old["current_workload"]) == (16384, 100, 1)
    assert json.loads(old["cpu_info"]) == {"arch": "x86_64"}
    assert isinstance(old["id"], int)
    assert detail("2.28")["cpu_info"] == {"arch": "x86_64"}
    new = detail("2.53", "?with_servers=true")
    assert new["service"] == {"id": service_id, "host": "one", "disabled_reason": None}
    assert new["servers"] == [{"name": "vm", "uuid": server_id}]
    newest = detail("2.88")
    assert "vcpus" not in newest
    assert newest["uptime"] is None
    for version, shown in (("2.52", old["id"]), ("2.53", new["id"])):
        one = admin.get(f"/os-hypervisors/{shown}", version=version).json["hypervisor"]
        assert one == detail(version)


def test_servers_of_hypervisors(admin: Any, add_host: Add, place: Callable[[str, str], str]) -> None:
    for host in ("one", "two"):
        add_host(host)
    place("one", "vm")

    def names(path: str, version: str) -> Any:
        found = admin.get(path, version=version).json["hypervisors"]
        return {h["hypervisor_hostname"]: [s["name"] for s in h.get("servers", ["-"])] for h in found if h}

    query = "/os-hypervisors?with_servers=yes"
    assert admin.get("/os-hypervisors/one/servers").json["hypervisors"][0]["servers"][0]["name"] == "vm"
    assert names(query, "2.75") == {"one.example": ["vm"], "two.example": []}
    with_key = [("servers" in h) for h in admin.get(query, version="2.53").json["hypervisors"]]
    assert with_key == [True, False]
    assert not any("servers" in h for h in admin.get(query, version="2.52").json["hypervisors"])


def test_find_hypervisors(admin: Any, add_host: Add) -> None:
    for host in ("alpha", "beta", "a_b"):
        add_host(host)

    def found(path: str, version: str) -> Any:
        answer = admin.get(path, version=version)
        return (
            [h["hypervisor_hostname"] for h in answer.json["hypervisors"]]
            if answer.status_code == 200
            else 404
        )

    assert found("/os-hypervisors/beta/search", "2.52") == ["beta.example"]
    assert found("/os-hypervisors/gamma/search", "2.52") == 404
    assert found("/os-hypervisors/beta/search", "2.53") == 404
    assert found("/os-hypervisors?hypervisor_hostname_pattern=a_b", "2.53") == ["a_b.example"]
    for query, status in {"=gamma": 404, "=a&limit=1": 400, "=%25": 400, "=": 400}.items():
        answer = admin.get(f"/os-hypervisors?hypervisor_hostname_pattern{query}", version="2.53")
        assert answer.status_code == status


def test_pages_of_hypervisors(admin: Any, add_host: Add) -> None:
    for host in ("c", "a", "b"):
        add_host(host)
    for version in ("2.33", "2.53", "2.88"):
        seen, path = [], "/os-hypervisors?limit=2"
        while path:
            page = admin.get(path, version=version).json
            seen += [h["hypervisor_hostname"] for h in page["hypervisors"]]
            links = page.get("hypervisors_links", [{"href": ""}])
            path = links[0]["href"].removeprefix("http://falconframework.org/compute/v2.1")
        assert seen == ["a.example", "b.example", "c.example"]
    assert len(admin.get("/os-hypervisors?limit=2", version="2.32").json["hypervisors"]) == 3
    for query in ("marker=no", "limit=-1", "limit=1&limit=2", "with_servers=maybe", "x=1"):
        assert admin.get(f"/os-hypervisors?{query}", version="2.53").status_code == 400


def test_a_hypervisor_that_is_not(admin: Any) -> None:
    cases = {("5", "2.52"): 404, ("x", "2.52"): 404, ("x", "2.53"): 400, (str(uuid.uuid4()), "2.53"): 404}
    for (shown, version), status in {**cases, ("9" * 14, "2.52"): 404, ("9" * 40, "2.1"): 404}.items():
        assert admin.get(f"/os-hypervisors/{shown}", version=version).status_code == status


def test_uptime_is_what_the_host_says(admin: Any, add_host: Add, state: ComputeAPI) -> None:
    add_host("one")
    (one,) = admin.get("/os-hypervisors", version="2.87").json["hypervisors"]
    path = f"/os-hypervisors/{one['id']}"
    assert admin.get(f"{path}/uptime", version="2.87").status_code == 400
    assert admin.get(path, version="2.88").json["hypervisor"]["uptime"] is None

    said = " 12:00:00 up 1 day,  0:01,  1 user,  load average: 0.00, 0.01, 0.05"

    def told(_message: Nothing) -> Text:
        return Text(text=said)

    serving = state.bus.serve(topic("one"), {"get_host_uptime": told})
    shown = admin.get(f"{path}/uptime", version="2.87").json["hypervisor"]
    assert shown == one | {"uptime": said}
    assert admin.get(path, version="2.88").json["hypervisor"]["uptime"] == said
    said = ""
    answer = admin.get(f"{path}/uptime", version="2.87")
    assert (answer.status_code, list(answer.json)) == (501, ["notImplemented"])
    assert admin.get(path, version="2.88").json["hypervisor"]["uptime"] is None
    serving.close()
    assert admin.get(f"{path}/uptime", version="2.88").status_code == 404


def test_statistics_are_of_enabled_hosts(admin: Any, add_host: Add) -> None:
    add_host("one")
    disabled = add_host("two")
    admin.put(f"/os-services/{disabled}", {"status": "disabled"}, version="2.53")
    sums = admin.get("/os-hypervisors/statistics", version="2.87").json["hypervisor_statistics"]
    assert (sums["count"], sums["vcpus"], sums["free_disk_gb"]) == (1, 8, 100)
    assert admin.get("/os-hypervisors/statistics", version="2.88").status_code == 404


def test_lists_take_as_many_statements_for_many_hosts(admin: Any, add_host: Add, database: Database) -> None:
    def count(path: str) -> int:
        with sent(database) as said:
            admin.get(path, version="2.75")
        return len(said)

    paths = ("/os-hypervisors/detail?with_servers=1", "/os-services", "/os-availability-zone/detail")
    add_host("first")
    few = [count(path) for path in paths]
    for number in range(5):
        add_host(f"h{number}")
    assert [count(path) for path in paths] == few
    assert max(few) <= 2


def test_zones(admin: Any, member: Any, add_host: Add, database: Database) -> None:
    one, two = add_host("one"), add_host("two")
    with database.write() as conn:
        host_store.seen(conn, "nova-scheduler", "one", "internal")
        conn.execute(sa.update(services).where(services.c.id == two).values(availability_zone="east"))
    shown = member.get("/os-availability-zone").json["availabilityZoneInfo"]
    assert [(z["zoneName"], z["zoneState"]["available"], z["hosts"]) for z in shown] == [
        ("east", True, None),
        ("nova", True, None),
    ]
    assert member.get("/os-availability-zone/detail").status_code == 403
    admin.put(f"/os-services/{one}", {"status": "disabled"}, version="2.53")
    detail = {
        z["zoneName"]: z for z in admin.get("/os-availability-zone/detail").json["availabilityZoneInfo"]
    }
    assert detail.keys() == {"east", "internal", "nova"}
    assert detail["nova"] == {"zoneName": "nova", "zoneState": {"available": False}, "hosts": None}
    assert detail["east"]["hosts"]["two"]["nova-compute"]["available"] is True


def test_admins_only(member: Any) -> None:
    paths = ("/os-services", "/os-hypervisors", "/os-hypervisors/detail", "/os-hypervisors/statistics")
    for path in (*paths, "/os-hypervisors/x", "/os-hypervisors/x/search", "/os-aggregates"):
        assert member.get(path).status_code == 403
    assert member.put("/os-services/x", {}, version="2.53").status_code == 403
    assert member.put("/os-services/enable", {}).status_code == 403
    assert member.delete("/os-services/x").status_code == 403
