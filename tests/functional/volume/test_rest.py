"""Snapshots, attachments, types, transfers, quotas and what an operator sees."""

from __future__ import annotations

import pytest
from tests.functional.volume.conftest import ADMIN, ALICE, BOB, Caller
from tests.running import until
from tests.volume_store import Volumes

CONNECTOR = {"host": "here", "ip": "10.0.0.1", "initiator": "iqn.1993-08.org.debian:01:x", "multipath": False}
SERVER = "3bdd1b0c-6f8a-4a25-93f5-7a8a1a7b6a01"
NONE = "00000000-0000-4000-8000-000000000000"


def attach(caller: Caller, volume: str, **said: object) -> dict[str, object]:
    body = {"attachment": {"volume_uuid": volume, "instance_uuid": SERVER, **said}}
    return dict(caller.done("POST", "/attachments", body, 200)["attachment"])


# --- snapshots


def test_a_snapshot_from_its_making_to_its_end(alice: Caller, bob: Caller, cloud: Volumes) -> None:
    volume = alice.create()
    snapshot = alice.snapshot(volume, name="s", metadata={"k": "v"})
    path = f"/snapshots/{snapshot}"
    shown = alice.get(path)["snapshot"]
    assert (shown["status"], shown["size"], shown["volume_id"]) == ("available", 1, volume)
    assert shown["os-extended-snapshot-attributes:progress"] == "100%"
    assert bob.refused("GET", path)[0] == 404
    alice.done("PUT", path, {"snapshot": {"name": "t"}}, 200)
    assert alice.names("/snapshots", metadata="{'k': 'v'}") == ["t"]
    assert alice.names("/snapshots/detail", volume_id=NONE) == []
    assert alice.done("POST", f"{path}/metadata", {"metadata": {"l": "w"}}, 200)["metadata"] == {
        "k": "v",
        "l": "w",
    }
    alice.done("DELETE", path)
    alice.gone(path)
    assert cloud.backend.snaps == {}
    assert [word.kind for word in cloud.told][-1] == "snapshot_delete"


def test_a_volume_in_use_needs_force_as_long_as_clients_did(alice: Caller) -> None:
    volume = alice.create()
    attach(alice, volume, connector=CONNECTOR)
    asked = {"snapshot": {"volume_id": volume}}
    assert alice.at("3.65").refused("POST", "/snapshots", asked)[0] == 400
    alice.at("3.65").snapshot(volume, force=True)
    alice.snapshot(volume)


def test_snapshots_that_fail(alice: Caller, admin: Caller, cloud: Volumes) -> None:
    volume = alice.create()
    cloud.backend.refuses = "ensure_snapshot"
    snapshot = alice.snapshot(volume)
    assert alice.get(f"/snapshots/{snapshot}")["snapshot"]["status"] == "error"
    assert alice.refused("POST", "/volumes", {"volume": {"size": 1, "snapshot_id": snapshot}})[0] == 400
    alice.done("DELETE", f"/snapshots/{snapshot}")
    alice.gone(f"/snapshots/{snapshot}")
    assert alice.refused("POST", "/snapshots", {"snapshot": {"volume_id": NONE}})[0] == 404
    for _ in range(10):
        alice.done("POST", "/snapshots", {"snapshot": {"volume_id": volume}})
        alice.settled(volume)
    status, why = alice.refused("POST", "/snapshots", {"snapshot": {"volume_id": volume}})
    assert (status, "snapshots" in why) == (413, True)


# --- attachments


def test_an_attachment_from_promise_to_end(alice: Caller, bob: Caller, admin: Caller, cloud: Volumes) -> None:
    volume = alice.create()
    made = attach(alice, volume)
    assert (made["status"], made["connection_info"]) == ("reserved", {})
    assert alice.volume(volume)["status"] == "reserved"
    path = f"/attachments/{made['id']}"
    assert bob.refused("GET", path)[0] == 404
    shown = alice.done("PUT", path, {"attachment": {"connector": CONNECTOR}}, 200)["attachment"]
    info = shown["connection_info"]
    assert (info["driver_volume_type"], info["auth_password"]) == ("iscsi", "secret")
    assert "secret" not in str(alice.get(path))
    alice.done("POST", f"{path}/action", {"os-complete": {}}, 204)
    (held,) = alice.volume(volume)["attachments"]
    assert (held["server_id"], held["host_name"]) == (SERVER, None), "hosts are an admin's to see"
    assert admin.volume(volume)["attachments"][0]["host_name"] == "here"
    assert alice.get(path)["attachment"]["connection_info"] == {}
    assert admin.get(path)["attachment"]["connection_info"]["target_lun"] == 1
    again = {"attachment": {"connector": CONNECTOR | {"host": "there"}}}
    status, why = alice.refused("PUT", path, again)
    assert (status, "here" in why) == (400, False)
    assert alice.refused("GET", "/volumes", params={"sort": "host"})[0] == 400
    assert admin.get("/volumes", sort="host:asc", all_tenants="1")["volumes"]
    assert alice.get("/attachments")["attachments"] == [
        {"id": made["id"], "volume_id": volume, "instance": SERVER, "status": "attached"}
    ]
    assert alice.get("/attachments/detail", instance_id=NONE)["attachments"] == []
    assert alice.refused("DELETE", f"/volumes/{volume}")[0] == 400
    alice.act(f"/volumes/{volume}", "os-extend", new_size=2)
    alice.settled(volume, "in-use")
    assert (
        alice.at("3.41").refused("POST", f"/volumes/{volume}/action", {"os-extend": {"new_size": 3}})[0]
        == 400
    )
    assert alice.done("DELETE", path, status=200) == {"attachments": []}
    assert alice.volume(volume)["status"] == "available"
    until(lambda: not cloud.backend.ways, 60, "a host without its way")


def test_what_no_host_has_may_be_in_use(alice: Caller) -> None:
    """Nova says so of what comes to a server that is shelved and on no host."""
    volume = alice.create()
    made = attach(alice, volume, connector={})  # `openstack volume attachment create` without --connect
    assert (made["status"], made["connection_info"]) == ("reserved", {})
    path = f"/attachments/{made['id']}"
    alice.done("POST", f"{path}/action", {"os-complete": made["id"]}, 204)
    assert alice.volume(volume)["status"] == "in-use"
    shown = alice.done("PUT", path, {"attachment": {"connector": CONNECTOR}}, 200)["attachment"]
    assert (shown["status"], shown["connection_info"]["driver_volume_type"]) == ("attached", "iscsi")
    assert alice.done("DELETE", path, status=200) == {"attachments": []}
    assert alice.volume(volume)["status"] == "available"


def test_a_way_that_cannot_be_made_promises_nothing(alice: Caller, cloud: Volumes) -> None:
    volume = alice.create()
    cloud.backend.away = True
    body = {"attachment": {"volume_uuid": volume, "instance_uuid": SERVER, "connector": CONNECTOR}}
    result = alice.client.simulate_request(
        "POST",
        "/volume/v3/attachments",
        json=body,
        headers={"X-Auth-Token": "alice", "OpenStack-API-Version": "volume 3.70"},
    )
    assert result.status_code == 503
    assert alice.volume(volume)["status"] == "available"
    body["attachment"]["connector"] = {"ip": "10.0.0.1"}
    assert alice.refused("POST", "/attachments", body)[0] == 400


def test_several_servers_have_a_volume_whose_type_says_so(alice: Caller, admin: Caller) -> None:
    specs = {"multiattach": "<is> True"}
    admin.done("POST", "/types", {"volume_type": {"name": "multi", "extra_specs": specs}}, 200)
    volume, single = alice.create(volume_type="multi"), alice.create()
    assert alice.volume(volume)["multiattach"] is True
    first, second = attach(alice, volume, connector=CONNECTOR), None
    alice.done("POST", f"/attachments/{first['id']}/action", {"os-complete": {}}, 204)
    second = attach(alice, volume, connector=CONNECTOR | {"host": "there"}, mode="ro")
    assert second["attach_mode"] == "ro"
    attach(alice, single)
    again = {"attachment": {"volume_uuid": single, "instance_uuid": SERVER}}
    status, why = alice.refused("POST", "/attachments", again)
    assert (status, why) == (
        400,
        f"Invalid volume: Volume {single} status must be available or downloading to reserve, but the "
        "current status is reserved.",
    )


def test_the_actions_of_before_there_were_attachments(alice: Caller, cloud: Volumes) -> None:
    volume = alice.create()
    path = f"/volumes/{volume}"
    alice.act(path, "os-reserve")
    assert alice.volume(volume)["status"] == "attaching"
    alice.act(path, "os-unreserve")
    assert alice.volume(volume)["status"] == "available"
    alice.act(path, "os-reserve")
    info = alice.act(path, "os-initialize_connection", 200, connector=CONNECTOR)["connection_info"]
    assert (info["driver_volume_type"], info["data"]["target_lun"]) == ("iscsi", 1)
    alice.act(path, "os-terminate_connection", connector=CONNECTOR)
    until(lambda: not cloud.backend.ways, 60, "a host without its way")
    alice.act(path, "os-attach", instance_uuid=SERVER, mountpoint="/dev/vdc", mode="rw")
    assert [one["device"] for one in alice.volume(volume)["attachments"]] == ["/dev/vdc"]
    alice.act(path, "os-begin_detaching")
    assert alice.volume(volume)["status"] == "detaching"
    alice.act(path, "os-roll_detaching")
    assert alice.volume(volume)["status"] == "in-use"
    another = {"os-detach": {"attachment_id": alice.volume(volume)["attachments"][0]["attachment_id"]}}
    elsewhere = f"/volumes/{alice.create()}/action"
    assert alice.refused("POST", elsewhere, another)[0] == 400
    assert alice.refused("POST", elsewhere, {"os-detach": {"attachment_id": SERVER}})[0] == 404
    alice.act(path, "os-detach")
    assert alice.volume(volume)["status"] == "available"
    alice.act(path, "os-detach")


# --- types


def test_types(alice: Caller, admin: Caller) -> None:
    made = admin.done("POST", "/types", {"volume_type": {"name": "gold", "description": "d"}}, 200)
    gold = made["volume_type"]["id"]
    path = f"/types/{gold}"
    assert "qos_specs_id" not in made["volume_type"]  # as Cinder: reads alone show it
    assert admin.get(path)["volume_type"]["qos_specs_id"] is None
    assert alice.refused("POST", "/types", {"volume_type": {"name": "x"}})[0] == 403
    assert admin.refused("POST", "/types", {"volume_type": {"name": "gold"}})[0] == 409
    admin.done("POST", f"{path}/extra_specs", {"extra_specs": {"volume_backend_name": "fast"}}, 200)
    assert admin.get(f"{path}/extra_specs/volume_backend_name") == {"volume_backend_name": "fast"}
    assert alice.get(path)["volume_type"]["extra_specs"] == {}
    assert alice.names("/types") == ["gold", "__DEFAULT__"]
    volume = alice.create(volume_type="gold")
    assert alice.volume(volume)["status"] == "error"  # nothing is called fast
    assert admin.refused("DELETE", path)[0] == 400
    alice.done("DELETE", f"/volumes/{volume}")
    admin.done("PUT", f"{path}/extra_specs/volume_backend_name", {"volume_backend_name": "memory"}, 200)
    volume = alice.create(volume_type="gold")
    assert alice.volume(volume)["status"] == "available"
    admin.done("DELETE", f"{path}/extra_specs/volume_backend_name")
    assert admin.refused("DELETE", f"{path}/extra_specs/volume_backend_name")[0] == 404
    admin.done("PUT", path, {"volume_type": {"name": "silver", "is_public": True}}, 200)
    assert alice.volume(volume)["volume_type"] == "silver"
    alice.act(f"/volumes/{volume}", "os-retype", new_type="__DEFAULT__")
    assert alice.volume(volume)["volume_type"] == "__DEFAULT__"
    admin.done("DELETE", path)
    default = alice.get("/types/default")["volume_type"]
    assert default["name"] == "__DEFAULT__"
    assert admin.refused("DELETE", f"/types/{default['id']}")[0] == 400


def test_a_private_type(alice: Caller, bob: Caller, admin: Caller) -> None:
    said = {"name": "secret", "os-volume-type-access:is_public": False}
    made = admin.done("POST", "/types", {"volume_type": said}, 200)["volume_type"]
    path = f"/types/{made['id']}"
    assert alice.names("/types") == ["__DEFAULT__"]
    assert admin.names("/types", is_public="None") == ["secret", "__DEFAULT__"]
    admin.done("POST", f"{path}/action", {"addProjectAccess": {"project": ALICE}})
    assert admin.refused("POST", f"{path}/action", {"addProjectAccess": {"project": ALICE}})[0] == 409
    assert "secret" in alice.names("/types")
    assert admin.get(f"{path}/os-volume-type-access") == {
        "volume_type_access": [{"volume_type_id": made["id"], "project_id": ALICE}]
    }
    volume = alice.create(volume_type="secret")
    assert bob.refused("POST", "/volumes", {"volume": {"size": 1, "volume_type": "secret"}})[0] == 404
    transfer = alice.done("POST", "/volume-transfers", {"transfer": {"volume_id": volume}})["transfer"]
    accept = {"accept": {"auth_key": transfer["auth_key"]}}
    assert bob.refused("POST", f"/volume-transfers/{transfer['id']}/accept", accept)[0] == 400
    admin.done("PUT", f"/default-types/{BOB}", {"default_type": {"volume_type": made["id"]}}, 200)
    assert len(admin.get("/default-types")["default_types"]) == 1
    assert bob.get("/types/default")["volume_type"]["name"] == "secret"
    admin.done("DELETE", f"/default-types/{BOB}", status=204)
    admin.done("POST", f"{path}/action", {"removeProjectAccess": {"project": ALICE}})
    assert "secret" not in alice.names("/types")
    # As `openstack volume type set --public` sends it.
    admin.done("PUT", path, {"volume_type": {"os-volume-type-access:is_public": True}}, 200)
    assert "secret" in alice.names("/types")


# --- transfers


@pytest.mark.parametrize("path", ["/os-volume-transfer", "/volume-transfers"])
def test_a_volume_changes_its_project(alice: Caller, bob: Caller, path: str) -> None:
    volume = alice.create()
    alice.snapshot(volume)
    offer = alice.done("POST", path, {"transfer": {"volume_id": volume, "name": "t"}})["transfer"]
    assert alice.volume(volume)["status"] == "awaiting-transfer"
    assert alice.get(f"{path}/detail")["transfers"][0]["name"] == "t"
    assert bob.get(path)["transfers"] == []
    assert bob.refused("GET", f"{path}/{offer['id']}")[0] == 404
    assert bob.refused("POST", f"{path}/{offer['id']}/accept", {"accept": {"auth_key": "x"}})[0] == 400
    bob.done("POST", f"{path}/{offer['id']}/accept", {"accept": {"auth_key": offer["auth_key"]}})
    assert bob.volume(volume)["status"] == "available"
    assert len(bob.get("/snapshots")["snapshots"]) == 1
    assert alice.refused("GET", f"/volumes/{volume}")[0] == 404
    second = bob.done("POST", path, {"transfer": {"volume_id": volume}})["transfer"]
    bob.done("DELETE", f"{path}/{second['id']}")
    assert bob.volume(volume)["status"] == "available"


# --- quotas and what an operator sees


def test_quotas_are_set_and_counted(alice: Caller, bob: Caller, admin: Caller) -> None:
    alice.create(size=3)
    path = f"/os-quota-sets/{ALICE}"
    assert bob.refused("GET", path)[0] == 403
    assert alice.refused("PUT", path, {"quota_set": {"volumes": 1}})[0] == 403
    shown = admin.done("PUT", path, {"quota_set": {"volumes": 1, "gigabytes___DEFAULT__": 5}}, 200)
    assert (shown["quota_set"]["volumes"], shown["quota_set"]["gigabytes"]) == (1, 1000)
    assert alice.refused("POST", "/volumes", {"volume": {"size": 1}})[0] == 413
    admin.done("PUT", path, {"quota_set": {"volumes": -1}}, 200)
    status, why = alice.refused("POST", "/volumes", {"volume": {"size": 3}})
    assert (status, "gigabytes___DEFAULT__" in why) == (413, True)
    usage = alice.get(path, usage="True")["quota_set"]
    assert usage["gigabytes"] == {"limit": 1000, "in_use": 3, "reserved": 0}
    admin.done("PUT", "/os-quota-class-sets/default", {"quota_class_set": {"snapshots": 2}}, 200)
    assert alice.get(f"{path}/defaults")["quota_set"]["snapshots"] == 2
    admin.done("DELETE", path, status=200)
    assert alice.get(path)["quota_set"]["volumes"] == 10
    for wrong in ({"colours": 1}, {"volumes": -2}, {"volumes": "many"}):
        assert admin.refused("PUT", path, {"quota_set": wrong})[0] == 400
    absolute = alice.get("/limits")["limits"]["absolute"]
    assert (absolute["maxTotalVolumes"], absolute["totalGigabytesUsed"]) == (10, 3)


def test_what_an_operator_sees(alice: Caller, admin: Caller, cloud: Volumes) -> None:
    (service,) = admin.get("/os-services")["services"]
    assert (service["binary"], service["host"], service["state"]) == ("cinder-volume", "box@memory", "up")
    assert alice.refused("GET", "/os-services")[0] == 403
    alice.create(size=2)
    (pool,) = admin.get("/scheduler-stats/get_pools", detail="True")["pools"]
    assert (pool["name"], pool["capabilities"]["allocated_capacity_gb"]) == ("box@memory#memory", 2)
    assert admin.get("/capabilities/box@memory")["volume_backend_name"] == "memory"
    assert alice.get("/os-availability-zone")["availabilityZoneInfo"] == [
        {"zoneName": "nova", "zoneState": {"available": True}}
    ]
    body = {"host": "box@memory", "binary": "cinder-volume"}
    why = {"disabled_reason": "mending"}
    assert admin.done("PUT", "/os-services/disable-log-reason", body | why, 200)["status"] == "disabled"
    volume = alice.create()
    assert alice.volume(volume)["status"] == "error"
    admin.done("PUT", "/os-services/enable", body, 200)
    assert admin.refused("PUT", "/os-services/enable", body | {"host": "x"})[0] == 404


def test_what_there_is_not_says_so(alice: Caller, admin: Caller) -> None:
    assert "os-volume-transfer" in {one["alias"] for one in alice.get("/extensions")["extensions"]}
    for path in ("/backups", "/groups", "/qos-specs", "/clusters", f"/{ALICE}/consistencygroups"):
        assert alice.refused("GET", path)[0] == 404
    assert "no backups" in alice.refused("POST", "/backups", {"backup": {}})[1]
    path = f"/types/{alice.get('/types/default')['volume_type']['id']}/encryption"
    assert admin.get(path) == {}
    assert alice.refused("GET", path)[0] == 403
    assert admin.refused("GET", f"/types/{NONE}/encryption")[0] == 404
    assert "no encryption" in admin.refused("POST", path, {"encryption": {"provider": "luks"}})[1]
    assert admin.refused("GET", f"/{ADMIN}/nonsense")[0] == 404
