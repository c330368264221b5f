"""GET, PUT and DELETE /servers/{id}."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from sqlalchemy import select
from tests.running import until

from kilonova.domain.servers import VmState
from kilonova.store import operations, servers
from kilonova.store.schema.servers import servers as table

UNKNOWN = "00000000-0000-0000-0000-000000000000"


def test_an_active_server(active: Any, member: Any) -> None:
    server_id = active(metadata={"a": "b"})
    server = member.get(f"/servers/{server_id}").json["server"]
    assert (server["status"], server["OS-EXT-STS:vm_state"], server["OS-EXT-STS:power_state"]) == (
        "ACTIVE",
        "active",
        1,
    )
    assert server["addresses"] == {
        "private": [
            {
                "version": 4,
                "addr": "10.0.0.5",
                "OS-EXT-IPS:type": "fixed",
                "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:01",
            }
        ]
    }
    assert server["hostId"] == hashlib.sha224(b"a" * 32 + b"node-1").hexdigest()
    assert server["flavor"]["id"] == "42"
    assert server["flavor"]["links"][0]["href"].endswith("/compute/flavors/42")
    assert server["image"]["links"][0]["href"].endswith(f"/compute/images/{server['image']['id']}")
    assert server["metadata"] == {"a": "b"}
    assert server["OS-SRV-USG:launched_at"] == "2027-01-15T08:00:00.500000"
    assert server["config_drive"] == ""
    assert not [name for name in server if name.startswith("OS-EXT-SRV-ATTR")]


def test_what_only_the_admin_sees(active: Any, member: Any, admin: Any) -> None:
    server_id = active(user_data="aGk=")
    server = admin.get(f"/servers/{server_id}", version="2.96").json["server"]
    assert server["OS-EXT-SRV-ATTR:host"] == "node-1"
    assert server["OS-EXT-SRV-ATTR:hypervisor_hostname"] == "node-1.example"
    assert server["OS-EXT-SRV-ATTR:instance_name"] == f"instance-{server_id}"
    assert server["OS-EXT-SRV-ATTR:user_data"] == "aGk="
    assert server["OS-EXT-SRV-ATTR:root_device_name"] == "/dev/vda"
    assert server["host_status"] == "UP"
    seen = member.get(f"/servers/{server_id}", version="2.96").json["server"]
    assert [name for name in seen if name.startswith("OS-EXT-SRV-ATTR")] == ["OS-EXT-SRV-ATTR:hostname"]
    assert "host_status" not in seen


def test_host_status(active: Any, admin: Any, add_host: Any) -> None:
    server_id = active()
    service_id = add_host("node-1")
    admin.put(f"/os-services/{service_id}", {"status": "disabled"}, version="2.53")
    assert admin.get(f"/servers/{server_id}", version="2.16").json["server"]["host_status"] == "MAINTENANCE"
    admin.put(f"/os-services/{service_id}", {"forced_down": True}, version="2.53")
    (server,) = admin.get("/servers/detail?all_tenants=1", version="2.16").json["servers"]
    assert server["host_status"] == "DOWN"


def test_a_building_server_shows_no_addresses_and_no_host(create: Any, admin: Any) -> None:
    server = admin.get(f"/servers/{create()}", version="2.16").json["server"]
    assert (server["status"], server["OS-EXT-STS:task_state"]) == ("BUILD", "scheduling")
    assert (server["addresses"], server["hostId"], server["host_status"]) == ({}, "", "")
    assert server["OS-EXT-SRV-ATTR:host"] is None


def test_fault(create: Any, settle: Any, member: Any, admin: Any) -> None:
    server_id = create()
    details = {"hosts": {"node-1": "no memory"}}
    fault = {"code": 500, "message": "No valid host was found.", "details": details, "created": 1.8e9}
    settle(server_id, VmState.ERROR, fault=fault, host=None)
    shown = member.get(f"/servers/{server_id}").json["server"]["fault"]
    assert shown == {"code": 500, "message": "No valid host was found.", "created": "2027-01-15T08:00:00Z"}
    assert "node-1" in admin.get(f"/servers/{server_id}").json["server"]["fault"]["details"]
    settle(server_id, VmState.ACTIVE)
    assert "fault" not in member.get(f"/servers/{server_id}").json["server"]


@pytest.mark.parametrize("path", ["", "/ips", "/metadata", "/tags", "/os-instance-actions"])
def test_who_may_not_see_it(active: Any, other: Any, member: Any, reader: Any, path: str) -> None:
    server_id = active()
    assert other.get(f"/servers/{server_id}{path}", version="2.26").status_code == 404
    assert member.get(f"/servers/{UNKNOWN}{path}", version="2.26").status_code == 404
    assert member.get(f"/servers/%00{path}", version="2.26").status_code == 404
    assert reader.get(f"/servers/{server_id}{path}", version="2.26").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "", {"server": {"name": "x", "imageRef": UNKNOWN, "flavorRef": "1", "networks": "none"}}),
        ("PUT", "/{id}", {"server": {"name": "x"}}),
        ("DELETE", "/{id}", None),
        ("POST", "/{id}/action", {"os-stop": None}),
        ("POST", "/{id}/action", {"lock": None}),
        ("POST", "/{id}/metadata", {"metadata": {}}),
        ("DELETE", "/{id}/metadata/a", None),
        ("PUT", "/{id}/tags/a", None),
    ],
)
def test_who_may_not_change_it(
    active: Any, other: Any, reader: Any, method: str, path: str, body: Any
) -> None:
    server_id = active(metadata={"a": "b"})
    path = f"/servers{path.format(id=server_id)}"
    assert reader.ask(method, path, "2.37", json=body).status_code == 403
    if path != "/servers":
        assert other.ask(method, path, "2.37", json=body).status_code == 404


def test_query_of_show(active: Any, member: Any) -> None:
    server_id = active()
    assert member.get(f"/servers/{server_id}?x=1", version="2.101").status_code == 200
    assert member.get(f"/servers/{server_id}?x=1", version="2.102").status_code == 400


def test_update(active: Any, member: Any, database: Any) -> None:
    server_id = active()
    changes = {"name": "new", "description": "d", "hostname": "h.example", "accessIPv6": "fd00::1"}
    answer = member.put(
        f"/servers/{server_id}", {"server": changes | {"OS-DCF:diskConfig": "AUTO"}}, version="2.96"
    )
    assert answer.status_code == 200
    server = answer.json["server"]
    assert (server["name"], server["description"], server["accessIPv6"]) == ("new", "d", "fd00::1")
    assert server["OS-EXT-SRV-ATTR:hostname"] == "h.example"
    assert server["OS-DCF:diskConfig"] == "AUTO"
    assert server == member.get(f"/servers/{server_id}", version="2.96").json["server"]
    long = {"accessIPv6": "0000:0000:0000:0000:0000:babe:220.12.22.2"}
    assert member.put(f"/servers/{server_id}", {"server": long}).json["server"]["accessIPv6"] == (
        "::babe:dc0c:1602"
    )
    cleared = member.put(f"/servers/{server_id}", {"server": {"description": None}}, version="2.96")
    assert cleared.json["server"]["description"] is None
    assert cleared.json["server"]["name"] == "new"


@pytest.mark.parametrize(
    ("version", "changes"),
    [
        ("2.1", {"name": ""}),
        ("2.1", {"name": " x "}),
        ("2.1", {"name": None}),
        ("2.1", {"name": "x" * 256}),
        ("2.1", {"description": "x"}),
        ("2.1", {"status": "ACTIVE"}),
        ("2.1", {"accessIPv4": "fd00::1"}),
        ("2.1", {"OS-DCF:diskConfig": "SOME"}),
        ("2.19", {"description": "x" * 256}),
        ("2.89", {"hostname": "a1"}),
        ("2.90", {"hostname": "a.b"}),
        ("2.90", {"hostname": None}),
        ("2.103", {"pinned_availability_zone": None}),
    ],
)
def test_bad_updates(active: Any, member: Any, version: str, changes: Any) -> None:
    answer = member.put(f"/servers/{active()}", {"server": changes}, version=version)
    assert answer.status_code == 400, answer.text


def test_pinning_to_a_zone(active: Any, member: Any, database: Any) -> None:
    server_id = active()
    path = f"/servers/{server_id}"

    def pin(zone: str | None) -> Any:
        return member.put(path, {"server": {"pinned_availability_zone": zone}}, version="2.104")

    assert pin("mars").status_code == 409
    assert pin("nova").json["server"]["pinned_availability_zone"] == "nova"
    with database.read() as conn:
        assert servers.spec(conn, server_id).availability_zone == "nova"
    assert pin("mars").status_code == 409
    assert pin(None).json["server"]["pinned_availability_zone"] is None


def test_delete(active: Any, member: Any, conductor: Any, bus: Any, database: Any) -> None:
    server_id = active()
    assert member.delete(f"/servers/{server_id}").status_code == 204
    assert member.delete(f"/servers/{server_id}").status_code == 204
    assert member.get(f"/servers/{server_id}").json["server"]["OS-EXT-STS:task_state"] == "deleting"
    until(lambda: len(conductor.told) == 2, 60, "the conductor to be told twice")
    assert [method for method, _ in conductor.told] == ["build_instances", "delete_instance"]
    with database.write() as conn:
        assert operations.open_of_server(conn, server_id).kind == "delete"
        servers.mark_deleted(conn, server_id)
    assert member.delete(f"/servers/{server_id}").status_code == 404
    assert member.get(f"/servers/{server_id}").status_code == 404


def test_a_deleted_server_keeps_no_user_data(create: Any, database: Any) -> None:
    server_id = create(user_data="c2VjcmV0")
    with database.write() as conn:
        assert servers.mark_deleted(conn, server_id)
    with database.read() as conn:
        row = conn.execute(select(table.c.user_data, table.c.spec).where(table.c.id == server_id)).one()
    assert (row.user_data, row.spec.user_data) == (None, None)
