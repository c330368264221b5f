"""POST /servers: what is written, what is answered, what is refused."""

from __future__ import annotations

import base64
import threading
from typing import Any

import pytest
from tests.running import until

from kilonova.store import operations, servers

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me"


def spec_of(database: Any, server_id: str) -> Any:
    with database.read() as conn:
        return servers.spec(conn, server_id)


def test_answer(member: Any, request_body: Any, conductor: Any, database: Any) -> None:
    answer = member.post("/servers", request_body(adminPass="secret"), version="2.1")
    assert answer.status_code == 202
    server = answer.json["server"]
    assert set(server) == {"id", "links", "OS-DCF:diskConfig", "adminPass", "security_groups"}
    assert server["adminPass"] == "secret"
    assert answer.headers["location"] == server["links"][0]["href"]
    assert answer.headers["location"].endswith(f"/compute/v2.1/servers/{server['id']}")
    with database.read() as conn:
        row = servers.get(conn, server["id"])
        work = operations.open_of_server(conn, server["id"])
    assert (row.vm_state, row.task_state) == ("building", "scheduling")
    assert work is not None
    assert work.kind == "build"


def test_conductor_is_told_after_the_commit(create: Any, conductor: Any, database: Any) -> None:
    server_id = create()
    until(lambda: conductor.told, 60, "the conductor to be told")
    ((method, operation_id),) = conductor.told
    assert method == "build_instances"
    with database.read() as conn:
        assert operations.get(conn, operation_id).server_id == server_id


def test_password_is_made_if_none_is_given(member: Any, request_body: Any) -> None:
    passwords = {member.post("/servers", request_body()).json["server"]["adminPass"] for _ in range(2)}
    assert all(len(one) == 12 for one in passwords)
    assert len(passwords) == 2


def test_the_whole_request_reaches_the_spec(
    member: Any, admin: Any, create: Any, database: Any, add_host: Any
) -> None:
    add_host("node-9")
    member.post("/os-keypairs", {"keypair": {"name": "k", "public_key": KEY}}, version="2.96")
    data = base64.b64encode(b"#!/bin/sh\necho hi\n").decode()
    server_id = create(
        name="Web Server_1.x",
        key_name="k",
        user_data=data,
        metadata={"role": "web"},
        config_drive=True,
        availability_zone="nova",
        description="a < b",
        tags=["t1", "t2"],
        security_groups=[{"name": "default"}],
        accessIPv4="192.0.2.7",
        **{"OS-DCF:diskConfig": "AUTO"},
    )
    spec = spec_of(database, server_id)
    assert spec.hostname == "web-server-1-x"
    assert spec.public_key.startswith("ssh-ed25519")
    assert (spec.user_data, spec.metadata, spec.config_drive) == (data, {"role": "web"}, True)
    assert (spec.availability_zone, spec.host) == ("nova", None)
    assert spec.flavor.name == "m1.nano"
    assert spec.image.disk_format == "qcow2"
    shown = member.get(f"/servers/{server_id}", version="2.96").json["server"]
    assert shown["tags"] == ["t1", "t2"]
    assert shown["description"] == "a < b"
    assert shown["accessIPv4"] == "192.0.2.7"
    assert shown["OS-DCF:diskConfig"] == "AUTO"
    assert shown["config_drive"] == "True"
    assert shown["pinned_availability_zone"] == "nova"


def test_scheduler_hints_are_kept(member: Any, request_body: Any, database: Any) -> None:
    hints = {"my_filter": {"rack": [1, 2]}, "my_other": "x"}
    answer = member.post("/servers", request_body() | {"os:scheduler_hints": hints}, version="2.100")
    server_id = answer.json["server"]["id"]
    assert spec_of(database, server_id).scheduler_hints == hints
    assert member.get(f"/servers/{server_id}", version="2.100").json["server"]["scheduler_hints"] == hints


@pytest.mark.parametrize("hint", [{"different_host": ["1" * 32]}, {"same_host": "1" * 32}, {"query": "[]"}])
def test_a_hint_that_no_filter_looks_at_is_refused(member: Any, request_body: Any, hint: Any) -> None:
    answer = member.post("/servers", request_body() | {"os:scheduler_hints": hint}, version="2.100")
    assert answer.status_code == 400
    assert "is not available here" in answer.json["badRequest"]["message"]


@pytest.mark.parametrize(
    ("name", "hostname"),
    [
        ("vm", "vm"),
        ("My VM_1.2", "my-vm-1-2"),
        ("-a-", "a"),
        ("x" * 100, "x" * 63),
        ("<b>&amp;</b>", "bampb"),
        ("../../etc/passwd", "etcpasswd"),
        ("a;rm -rf $(x)", "arm--rf-x"),
    ],
)
def test_hostname_comes_from_the_name(create: Any, database: Any, name: str, hostname: str) -> None:
    server_id = create(name=name)
    spec = spec_of(database, server_id)
    assert (spec.name, spec.hostname) == (name, hostname)


def test_hostname_of_a_name_without_letters(create: Any, database: Any) -> None:
    server_id = create(name="日本")
    assert spec_of(database, server_id).hostname == f"server-{server_id}"


def test_hostname_asked_for(create: Any, member: Any, request_body: Any, database: Any) -> None:
    assert spec_of(database, create(version="2.90", hostname="db1")).hostname == "db1"
    assert spec_of(database, create(version="2.94", hostname="db1.example.org")).hostname == "db1.example.org"
    assert (
        member.post("/servers", request_body(hostname="db1.example.org"), version="2.90").status_code == 400
    )
    assert member.post("/servers", request_body(hostname="db1"), version="2.89").status_code == 400
    two = request_body(hostname="db1", min_count=2)
    assert member.post("/servers", two, version="2.90").status_code == 400


def test_many_at_once(member: Any, request_body: Any, database: Any) -> None:
    answer = member.post("/servers", request_body(min_count="2", max_count=3, return_reservation_id=True))
    assert answer.status_code == 202
    assert set(answer.json) == {"reservation_id"}
    listed = member.get(f"/servers/detail?reservation_id={answer.json['reservation_id']}").json["servers"]
    assert sorted(server["name"] for server in listed) == ["vm-1", "vm-2", "vm-3"]
    specs = [spec_of(database, server["id"]) for server in listed]
    assert sorted((spec.hostname, spec.name) for spec in specs) == [(f"vm-{i}", f"vm-{i}") for i in (1, 2, 3)]


def test_as_many_as_the_quota_has_room_for(member: Any, admin: Any, request_body: Any) -> None:
    admin.put(f"/os-quota-sets/{'a' * 32}", {"quota_set": {"instances": 3}})
    assert member.post("/servers", request_body(min_count=1, max_count=10)).status_code == 202
    assert len(member.get("/servers").json["servers"]) == 3
    answer = member.post("/servers", request_body())
    assert answer.status_code == 403
    assert (
        "Quota exceeded for instances: Requested 1, but already used 3 of 3"
        in answer.json["forbidden"]["message"]
    )


def test_quota_holds_against_many_threads(member: Any, request_body: Any) -> None:
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.append(member.post("/servers", request_body()).status_code))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [202] * 10 + [403] * 6


@pytest.mark.parametrize(
    ("version", "changes", "expected"),
    [
        ("2.1", {"networks": []}, ["99999999-2222-3333-4444-555555555555"]),
        ("2.37", {"networks": "auto"}, ["99999999-2222-3333-4444-555555555555"]),
        ("2.37", {"networks": "none"}, None),
        ("2.42", {"networks": [{"uuid": "99999999-2222-3333-4444-555555555555", "tag": "n"}]}, None),
        ("2.42", {"networks": [{"port": "99999999222233334444555555555555"}]}, None),
    ],
)
def test_networks(create: Any, database: Any, version: str, changes: Any, expected: Any) -> None:
    spec = spec_of(database, create(version=version, **changes))
    if changes["networks"] == "none":
        assert spec.networks is None
    elif expected:
        assert [one.network_id for one in spec.networks] == expected
    elif "port" in changes["networks"][0]:
        assert spec.networks[0].port_id == "99999999-2222-3333-4444-555555555555"
    else:
        assert spec.networks[0].tag == "n"


def test_networks_may_be_missing_before_2_37(
    member: Any, request_body: Any, networks: Any, database: Any
) -> None:
    request = request_body()
    del request["server"]["networks"]
    assert member.post("/servers", request, version="2.37").status_code == 400
    assert member.post("/servers", request, version="2.36").status_code == 202
    networks.networks = ["a", "b"]
    assert member.post("/servers", request, version="2.36").status_code == 409
    networks.networks = []
    server_id = member.post("/servers", request, version="2.36").json["server"]["id"]
    assert spec_of(database, server_id).networks is None


IMAGE = "11111111-2222-3333-4444-555555555555"
ROOT = {"uuid": IMAGE, "boot_index": 0, "source_type": "image", "destination_type": "local"}


def test_disks_as_the_client_describes_them(create: Any) -> None:
    create(block_device_mapping_v2=[ROOT | {"delete_on_termination": True}], min_count=1, max_count=1)


@pytest.mark.parametrize(
    "devices",
    [
        [ROOT | {"boot_index": 1}],
        [ROOT | {"uuid": "x"}],
        [ROOT, ROOT],
        [ROOT | {"destination_type": "volume", "volume_size": 1}],
        [{"source_type": "volume", "uuid": IMAGE, "boot_index": 0}],
        [ROOT, {"source_type": "blank", "destination_type": "local", "volume_size": 1}],
        [
            ROOT,
            {"source_type": "blank", "destination_type": "local", "guest_format": "swap", "volume_size": 1},
        ],
        [ROOT | {"disk_bus": "scsi"}],
        [{"destination_type": "local"}],
        [ROOT | {"boot_index": "x"}],
        [ROOT | {"volume_size": -1}],
        [ROOT | {"device_name": "/dev/vd a"}],
        [ROOT | {"image_id": "x"}],
        [ROOT | {"volume_id": "x"}],
        [ROOT | {"snapshot_id": ""}],
    ],
)
def test_other_disks_are_refused(member: Any, request_body: Any, devices: Any) -> None:
    answer = member.post("/servers", request_body(block_device_mapping_v2=devices), version="2.67")
    assert answer.status_code == 400
    assert "badRequest" in answer.json


@pytest.mark.parametrize(
    ("version", "changes", "said"),
    [
        ("2.1", {"name": ""}, "name"),
        ("2.1", {"name": "x" * 256}, "name"),
        ("2.1", {"name": " x"}, "name"),
        ("2.1", {"name": "a\u0000b"}, "name"),
        ("2.1", {"name": "a\nb"}, "name"),
        ("2.1", {"name": 7}, "name"),
        ("2.1", {"imageRef": ""}, "imageRef"),
        ("2.1", {"imageRef": "http://x/y"}, "imageRef"),
        ("2.1", {"imageRef": "11111111-2222-3333-4444-000000000000"}, "Can not find requested image"),
        ("2.1", {"imageRef": "11111111-2222-3333-4444-777777777777"}, "is not active"),
        ("2.1", {"imageRef": "11111111-2222-3333-4444-666666666666"}, "memory is too small"),
        ("2.1", {"imageRef": "11111111-2222-3333-4444-666666666666", "flavorRef": "2"}, "disk is too small"),
        ("2.1", {"flavorRef": "no"}, "Flavor no could not be found."),
        ("2.1", {"flavorRef": ""}, "flavorRef"),
        ("2.1", {"flavorRef": None}, "flavorRef"),
        ("2.1", {"key_name": "no"}, "Invalid key_name provided."),
        ("2.1", {"key_name": None}, "key_name"),
        ("2.1", {"user_data": "???"}, "base 64"),
        ("2.1", {"user_data": "A" * 65536}, "user_data"),
        ("2.1", {"metadata": {"": "x"}}, "metadata"),
        ("2.1", {"metadata": {"a/b": "x"}}, "metadata"),
        ("2.1", {"metadata": {"a": "x" * 256}}, "metadata"),
        ("2.1", {"metadata": {"a": 1}}, "metadata"),
        ("2.1", {"config_drive": "maybe"}, "config_drive"),
        ("2.1", {"availability_zone": "mars"}, "availability zone"),
        ("2.1", {"min_count": 0}, "min_count"),
        ("2.1", {"min_count": -1}, "min_count"),
        ("2.1", {"min_count": 3, "max_count": 2}, "min_count must be <= max_count"),
        ("2.1", {"min_count": 10**30}, "min_count"),
        ("2.1", {"min_count": 2000}, "at most"),
        ("2.1", {"security_groups": [{"name": "web"}]}, "Security group web not found"),
        ("2.1", {"personality": [{"path": "/a", "contents": ""}]}, "Personality"),
        ("2.1", {"block_device_mapping": [{"volume_id": "x"}]}, "volume_id"),
        ("2.1", {"accessIPv4": "1.1.1.1.1"}, "accessIPv4"),
        ("2.1", {"accessIPv6": "10.0.0.1"}, "accessIPv6"),
        ("2.1", {"description": "x"}, "description"),
        ("2.1", {"nonsense": 1}, "nonsense"),
        ("2.1", {"networks": [{"uuid": "x"}]}, "proper format"),
        ("2.1", {"networks": [{}]}, "missing 'uuid'"),
        ("2.1", {"networks": "auto"}, "networks"),
        ("2.1", {"networks": [{"uuid": "88888888-2222-3333-4444-555555555555"}]}, "could not be found"),
        ("2.1", {"networks": [{"port": "x"}]}, "port"),
        ("2.1", {"networks": [{"uuid": IMAGE, "fixed_ip": "1.2"}]}, "fixed_ip"),
        ("2.1", {"networks": [{"port": IMAGE, "fixed_ip": "10.0.0.2"}]}, "cannot be used with port"),
        ("2.1", {"networks": [{"port": IMAGE}] * 2}, "specified twice"),
        ("2.1", {"networks": [{"port": IMAGE}], "min_count": 2}, "single configured port"),
        ("2.19", {"description": "x" * 256}, "description"),
        ("2.37", {"networks": "all"}, "networks"),
        ("2.41", {"networks": [{"uuid": IMAGE, "tag": "a"}]}, "tag"),
        ("2.52", {"tags": ["a,b"]}, "tags"),
        ("2.52", {"tags": ["x" * 61]}, "tags"),
        ("2.52", {"tags": [str(i) for i in range(51)]}, "tags"),
        ("2.57", {"personality": []}, "personality"),
        ("2.63", {"trusted_image_certificates": ["a"]}, "signature"),
        ("2.73", {"host": "node-1"}, "host"),
    ],
)
def test_bad_requests(member: Any, request_body: Any, version: str, changes: Any, said: str) -> None:
    answer = member.post("/servers", request_body(**changes), version=version)
    assert answer.status_code == 400, answer.text
    assert said in answer.json["badRequest"]["message"]
    assert member.get("/servers").json["servers"] == []


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b'{"server": []}',
        b"\xff\xfe",
        b"[" * 5000,
        b'{"server":null}',
    ],
)
def test_malformed_bodies(member: Any, raw: bytes) -> None:
    assert member.ask("POST", "/servers", "2.1", body=raw).status_code == 400


def test_oversize_body(member: Any, request_body: Any) -> None:
    assert (
        member.post("/servers", request_body(metadata={f"k{i}": "x" * 255 for i in range(1000)})).status_code
        == 413
    )


def test_metadata_quota(member: Any, request_body: Any) -> None:
    answer = member.post("/servers", request_body(metadata={f"k{i}": "" for i in range(129)}))
    assert answer.status_code == 403
    assert answer.json["forbidden"]["message"] == "Maximum number of metadata items exceeds 128"


def test_hints_that_make_no_sense(member: Any, request_body: Any) -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    for hints in (
        {"group": "x"},
        {"group": IMAGE},
        {"cidr": 5},
        {"deep": deep},
        {"different_host": ["x"]},
        [],
    ):
        answer = member.post("/servers", request_body() | {"os:scheduler_hints": hints})
        assert answer.status_code == 400, hints


def test_only_admins_choose_the_host(
    member: Any, admin: Any, request_body: Any, add_host: Any, database: Any
) -> None:
    add_host("node-1")
    forced, asked = {"availability_zone": "nova:node-1"}, {"host": "node-1"}
    by_node = {"availability_zone": "nova::node-1.example"}
    for changes in (forced, asked, by_node):
        assert member.post("/servers", request_body(**changes), version="2.74").status_code == 403
        server_id = admin.post("/servers", request_body(**changes), version="2.74").json["server"]["id"]
        assert spec_of(database, server_id).host == "node-1"
    for changes in ({"host": "node-2"}, forced | asked, {"availability_zone": "a:b:c:d"}):
        assert admin.post("/servers", request_body(**changes), version="2.74").status_code == 400


def test_flavors_that_cannot_be_used(member: Any, admin: Any, request_body: Any) -> None:
    for number, changes in enumerate(({"disk": 0}, {"os-flavor-access:is_public": False})):
        flavor = {"name": f"f{number}", "id": f"f{number}", "ram": 128, "vcpus": 1, "disk": 1} | changes
        assert admin.post("/flavors", {"flavor": flavor}).status_code == 200
    assert member.post("/servers", request_body(flavorRef="f0")).status_code == 403
    assert member.post("/servers", request_body(flavorRef="f1")).status_code == 400
    assert admin.post("/servers", request_body(flavorRef="f0")).status_code == 202
    assert admin.post("/servers", request_body(flavorRef="f1")).status_code == 202
