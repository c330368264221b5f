"""Volumes: what is made, shown, listed, changed, deleted."""

from __future__ import annotations

import io

import pytest
from falcon.testing import TestClient
from tests.functional.volume.conftest import ADMIN, ALICE, LATEST, Caller
from tests.running import until
from tests.statements import sent
from tests.volume_store import Volumes

from kilonova.domain.context import RequestContext
from kilonova.store import orphans, volumes

GIB = 1 << 30
IMAGER = RequestContext(request_id="r", user_id="alice", project_id=ALICE, roles=frozenset({"member"}))


def image(cloud: Volumes, **values: object) -> str:
    made = cloud.images.create(
        IMAGER,
        {"name": "i", "disk_format": "raw", "container_format": "bare", "hw_disk_bus": "scsi", **values},
    )
    cloud.images.upload(IMAGER, made.id, io.BytesIO(b"\0" * 1024))
    return made.id


def test_versions_are_told_to_everybody(client: TestClient) -> None:
    assert client.simulate_get("/volume").status_code == 300
    (version,) = client.simulate_get("/volume/v3").json["versions"]
    assert (version["id"], version["min_version"], version["version"]) == ("v3.0", "3.0", LATEST)


def test_a_volume_from_its_making_to_its_end(alice: Caller, cloud: Volumes) -> None:
    asked = {"size": 2, "name": "v", "description": "d", "metadata": {"k": "w"}}
    made = alice.done("POST", "/volumes", {"volume": asked})["volume"]
    assert made["status"] == "creating"
    assert not [name for name in made if name.startswith("os-vol-")]  # as Cinder: shown, not said by a create
    alice.settled(made["id"])
    shown = alice.volume(made["id"])
    assert {
        "name": "v",
        "description": "d",
        "size": 2,
        "status": "available",
        "bootable": "false",
        "metadata": {"k": "w"},
        "volume_type": "__DEFAULT__",
        "attachments": [],
        "encrypted": False,
        "multiattach": False,
        "os-vol-tenant-attr:tenant_id": ALICE,
    }.items() <= shown.items()
    assert "os-vol-host-attr:host" not in shown
    alice.done("DELETE", f"/volumes/{made['id']}")
    alice.gone(f"/volumes/{made['id']}")
    assert cloud.backend.made == {}


def test_the_projects_id_may_be_in_the_url(alice: Caller) -> None:
    volume = alice.create(name="v")
    assert alice.get(f"/{ALICE}/volumes/{volume}")["volume"]["id"] == volume
    assert alice.refused("GET", f"/{ADMIN}/volumes/{volume}") == (400, "Malformed request url")


def test_a_volume_of_an_image(alice: Caller, cloud: Volumes) -> None:
    image_id = image(cloud, min_disk=2)
    said = {"size": 1, "imageRef": image_id}
    status, why = alice.refused("POST", "/volumes", {"volume": said})
    assert (status, "minDisk" in why) == (400, True)
    made = alice.done("POST", "/volumes", {"volume": {"size": 2, "imageRef": image_id}})["volume"]
    assert "volume_image_metadata" not in made
    alice.settled(volume := made["id"])
    shown = alice.volume(volume)
    assert shown["bootable"] == "true"
    assert shown["volume_image_metadata"]["image_id"] == image_id
    assert shown["volume_image_metadata"]["hw_disk_bus"] == "scsi"
    assert cloud.backend.made[volume] == (2, f"image {image_id}")


def test_a_volume_of_another_and_of_a_snapshot(alice: Caller, bob: Caller, cloud: Volumes) -> None:
    first = alice.create(size=2)
    cloud.backend.made[first] = (2, "data")
    snapshot = alice.snapshot(first, name="s")
    clone, restored = alice.create(size=3, source_volid=first), alice.create(size=2, snapshot_id=snapshot)
    assert cloud.backend.made[clone] == (3, "data")
    assert cloud.backend.made[restored] == (2, "data")
    assert alice.volume(clone)["source_volid"] == first
    assert alice.volume(restored)["snapshot_id"] == snapshot
    for source in ({"source_volid": first}, {"snapshot_id": snapshot}):
        assert alice.refused("POST", "/volumes", {"volume": {"size": 1, **source}})[0] == 400
        assert bob.refused("POST", "/volumes", {"volume": {"size": 3, **source}})[0] == 404


@pytest.mark.parametrize(
    "said",
    [
        {"size": 0},
        {"size": "much"},
        {"size": 2**40},
        {},
        {"size": 1, "colour": "red"},
        {"size": 1, "name": "n" * 256},
        {"size": 1, "metadata": {"k" * 256: "v"}},
        {"size": 1, "metadata": {"k": 5}},
        {"size": 1, "availability_zone": "moon"},
        {"size": 1, "imageRef": "no-image"},
        {"size": 1, "imageRef": "3bdd1b0c-6f8a-4a25-93f5-7a8a1a7b6a01"},
        {"size": 1, "backup_id": "3bdd1b0c-6f8a-4a25-93f5-7a8a1a7b6a01"},
        {"size": 1, "multiattach": True},
        {
            "size": 1,
            "snapshot_id": "3bdd1b0c-6f8a-4a25-93f5-7a8a1a7b6a01",
            "source_volid": "3bdd1b0c-6f8a-4a25-93f5-7a8a1a7b6a01",
        },
    ],
)
def test_what_no_volume_can_be(alice: Caller, said: dict[str, object]) -> None:
    assert alice.refused("POST", "/volumes", {"volume": said})[0] == 400
    assert alice.get("/volumes")["volumes"] == []


def test_a_type_that_there_is_not(alice: Caller) -> None:
    said = {"size": 1, "volume_type": "gold"}
    assert alice.refused("POST", "/volumes", {"volume": said}) == (
        404,
        "Volume type gold could not be found.",
    )


def test_who_may_what(alice: Caller, bob: Caller, reader: Caller, admin: Caller) -> None:
    volume = alice.create()
    assert bob.refused("GET", f"/volumes/{volume}") == (404, f"Volume {volume} could not be found.")
    assert reader.volume(volume)["id"] == volume
    assert reader.refused("DELETE", f"/volumes/{volume}")[0] == 403
    assert reader.refused("POST", "/volumes", {"volume": {"size": 1}})[0] == 403
    assert admin.volume(volume)["os-vol-host-attr:host"] == "box@memory#memory"
    assert bob("GET", "/volumes", params={"all_tenants": "1"}).json["volumes"] == []
    assert len(admin.get("/volumes", all_tenants="1")["volumes"]) == 1
    assert admin.get("/volumes")["volumes"] == []


def test_quotas(alice: Caller, cloud: Volumes) -> None:
    status, why = alice.refused("POST", "/volumes", {"volume": {"size": 1001}})
    assert (status, "gigabytes" in why) == (413, True)
    for _ in range(10):
        alice.done("POST", "/volumes", {"volume": {"size": 1}})
    status, why = alice.refused("POST", "/volumes", {"volume": {"size": 1}})
    assert (status, why) == (413, "Maximum number of volumes allowed (10) exceeded for quota 'volumes'.")


def test_no_backend_is_an_error_that_says_so(alice: Caller, cloud: Volumes) -> None:
    cloud.backend.away = True
    assert cloud.manager is not None
    cloud.manager.report()
    volume = alice.create()
    assert alice.volume(volume)["status"] == "error"
    (message,) = alice.get("/messages")["messages"]
    assert message["resource_uuid"] == volume
    assert "available" in message["user_message"]
    alice.done("DELETE", f"/volumes/{volume}")
    assert alice.get("/volumes")["volumes"] == []


def test_a_failure_is_told(alice: Caller, cloud: Volumes) -> None:
    cloud.backend.refuses = "ensure_volume"
    volume = alice.create()
    assert alice.volume(volume)["status"] == "error"
    (message,) = alice.get("/messages")["messages"]
    assert "ensure_volume: no" in message["user_message"]
    alice.done("DELETE", f"/messages/{message['id']}", status=204)
    assert alice.get("/messages")["messages"] == []


def test_lists(alice: Caller, cloud: Volumes) -> None:
    for name, size in (("a", 3), ("b", 1), ("c", 2)):
        alice.create(name=name, size=size, metadata={"letter": name, "quo'te": 'x"y'})
    assert alice.names("/volumes") == ["c", "b", "a"]
    assert alice.names("/volumes", sort="size:asc") == ["b", "c", "a"]
    assert alice.names("/volumes", sort="size:asc" + ",size:desc" * 2100) == ["b", "c", "a"]
    assert alice.names("/volumes", sort_key="name", sort_dir="asc") == ["a", "b", "c"]
    assert alice.names("/volumes", name="b") == ["b"]
    assert alice.names("/volumes", **{"name~": "B"}) == ["b"]
    assert alice.names("/volumes", status="error") == []
    assert alice.names("/volumes", size="3") == ["a"]
    assert alice.names("/volumes", metadata="{'letter': 'c'}") == ["c"]
    assert alice.names("/volumes", bootable="true") == []
    assert alice.names("/volumes", volume_type="__DEFAULT__", limit="2", offset="1") == ["b", "a"]
    assert alice.names("/volumes", created_at="gt:2020-01-01T00:00:00,lt:2020-01-02T00:00:00") == []
    page = alice.get("/volumes/detail", limit="2", sort="name:asc", with_count="true")
    assert [one["name"] for one in page["volumes"]] == ["a", "b"]
    assert page["count"] == 3
    (link,) = page["volumes_links"]
    rest = alice.get(link["href"].partition("/volume/v3")[2])
    assert [one["name"] for one in rest["volumes"]] == ["c"]
    assert alice.get("/volumes/summary")["volume-summary"] == {
        "total_count": 3,
        "total_size": 6,
        "metadata": {"letter": ["a", "b", "c"], "quo'te": ['x"y']},
    }
    for wrong in (
        {"colour": "red"},
        {"limit": "-1"},
        {"sort": "nonsense"},
        {"sort": "name:up"},
        {"metadata": "["},
        {"created_at": "gt:never"},
    ):
        assert alice.refused("GET", "/volumes", params=wrong)[0] == 400


def test_the_next_page_is_where_this_one_is(alice: Caller) -> None:
    alice.create()
    for root in ("", f"/{ALICE}"):
        (link,) = alice.get(f"{root}/volumes", limit="1")["volumes_links"]
        assert link["href"].partition("?")[0].endswith(f"/volume/v3{root}/volumes")


def test_a_list_after_what_is_not_there(alice: Caller) -> None:
    for path in ("/volumes", "/snapshots/detail", "/attachments", "/types"):
        assert alice.refused("GET", path, params={"marker": "x"}) == (404, "marker x not found")


def test_who_writes_is_told_less_than_who_looks(alice: Caller, admin: Caller, cloud: Volumes) -> None:
    """Cinder's extensions add to what is shown, not to the answer of a POST or PUT."""
    image_id = image(cloud)
    made = admin.done("POST", "/volumes", {"volume": {"size": 1, "imageRef": image_id}})["volume"]
    admin.settled(made["id"])
    changed = admin.done("PUT", f"/volumes/{made['id']}", {"volume": {"name": "n"}}, 200)["volume"]
    shown = admin.volume(made["id"])
    extra = {"volume_image_metadata", "os-vol-tenant-attr:tenant_id", "os-vol-host-attr:host"}
    extra |= {"os-vol-mig-status-attr:migstat", "os-vol-mig-status-attr:name_id"}
    assert set(shown) - set(made) == set(shown) - set(changed) == extra
    kind = admin.done("POST", "/types", {"volume_type": {"name": "t"}}, 200)["volume_type"]
    assert "qos_specs_id" not in kind
    assert admin.get(f"/types/{kind['id']}")["volume_type"]["qos_specs_id"] is None


def test_a_snapshot_that_says_it_goes_and_does_not_may_be_forced(alice: Caller, admin: Caller) -> None:
    snapshot = alice.snapshot(alice.create())
    path = f"/snapshots/{snapshot}"
    admin.done("POST", f"{path}/action", {"os-reset_status": {"status": "deleting"}})
    alice.done("DELETE", path)
    assert alice.get(path)["snapshot"]["status"] == "deleting"
    admin.act(path, "os-force_delete")
    alice.gone(path)


def test_what_is_in_an_error_is_available_when_it_was_forced_away(alice: Caller, admin: Caller) -> None:
    volume = in_use(alice)
    reset(admin, volume, "error")
    (held,) = alice.volume(volume)["attachments"]
    admin.act(f"/volumes/{volume}", "os-force_detach", attachment_id=held["attachment_id"], connector=None)
    shown = alice.volume(volume)
    assert (shown["status"], shown["attachments"]) == ("available", [])
    alice.act(f"/volumes/{volume}", "os-detach")
    assert alice.volume(volume)["status"] == "available"


def test_limits_of_what_there_never_is_are_kept(admin: Caller) -> None:
    """Clients and Tempest set all at once."""
    path = f"/os-quota-sets/{ALICE}"
    admin.done("PUT", path, {"quota_set": {"backups": 5, "volumes": 6}}, 200)
    shown = admin.get(path, usage="true")["quota_set"]
    assert shown["backups"] == {"limit": 5, "in_use": 0, "reserved": 0}
    admin.done("DELETE", path, status=200)
    assert admin.get(path)["quota_set"]["backups"] == 0


def test_a_snapshot_of_nothing(alice: Caller) -> None:
    assert alice.refused("POST", "/snapshots", {"snapshot": {"volume_id": None}})[0] == 404


def test_a_list_asks_as_much_for_many_as_for_one(alice: Caller, cloud: Volumes) -> None:
    alice.create()
    with sent(cloud.db) as few:
        alice.get("/volumes/detail")
    for _ in range(4):
        alice.create()
    with sent(cloud.db) as many:
        alice.get("/volumes/detail")
    assert len(few) == len(many)


def test_names_and_metadata_change(alice: Caller, bob: Caller) -> None:
    volume = alice.create(name="v", metadata={"a": "1"})
    path = f"/volumes/{volume}"
    alice.done("PUT", path, {"volume": {"name": "w", "description": None}}, 200)
    assert alice.volume(volume)["name"] == "w"
    assert alice.refused("PUT", path, {"volume": {}})[0] == 400
    assert bob.refused("PUT", path, {"volume": {"name": "x"}})[0] == 404
    metadata = f"{path}/metadata"
    assert alice.done("POST", metadata, {"metadata": {"b": "2"}}, 200) == {"metadata": {"a": "1", "b": "2"}}
    assert alice.done("PUT", f"{metadata}/a", {"meta": {"a": "3"}}, 200) == {"meta": {"a": "3"}}
    assert alice.get(f"{metadata}/a") == {"meta": {"a": "3"}}
    alice.done("DELETE", f"{metadata}/a", status=200)
    assert alice.refused("GET", f"{metadata}/a")[0] == 404
    assert alice.refused("PUT", f"{metadata}/a", {"meta": {"b": "3"}})[0] == 400
    assert alice.done("PUT", metadata, {"metadata": {}}, 200) == {"metadata": {}}
    image_metadata = alice.act(path, "os-set_image_metadata", 200, metadata={"os_distro": "x"})
    assert image_metadata == {"metadata": {"os_distro": "x"}}
    assert alice.act(path, "os-show_image_metadata", 200) == image_metadata
    assert alice.names("/volumes", glance_metadata="{'os_distro': 'x'}") == ["w"]
    alice.act(path, "os-unset_image_metadata", 200, key="os_distro")
    assert "volume_image_metadata" not in alice.volume(volume)


def test_what_is_held_is_not_deleted(alice: Caller, admin: Caller, cloud: Volumes) -> None:
    volume = alice.create()
    snapshot = alice.snapshot(volume)
    status, why = alice.refused("DELETE", f"/volumes/{volume}")
    assert (status, why.startswith("Invalid volume: Volume status must be available or error")) == (400, True)
    assert admin.refused("POST", f"/volumes/{volume}/action", {"os-force_delete": {}})[0] == 400
    alice.done("DELETE", f"/volumes/{volume}?cascade=True")
    alice.gone(f"/volumes/{volume}")
    assert alice.refused("GET", f"/snapshots/{snapshot}")[0] == 404
    assert (cloud.backend.made, cloud.backend.snaps) == ({}, {})


def test_a_delete_that_fails_may_be_forced(alice: Caller, admin: Caller, cloud: Volumes) -> None:
    volume = alice.create()
    cloud.backend.refuses = "delete"
    alice.done("DELETE", f"/volumes/{volume}")
    alice.settled(volume, "error_deleting")
    assert alice.refused("DELETE", f"/volumes/{volume}")[0] == 400
    cloud.backend.refuses = ""
    assert alice.refused("POST", f"/volumes/{volume}/action", {"os-force_delete": {}})[0] == 403
    admin.act(f"/volumes/{volume}", "os-force_delete")
    alice.gone(f"/volumes/{volume}")


def test_a_volume_grows(alice: Caller, cloud: Volumes) -> None:
    volume = alice.create(size=2)
    path = f"/volumes/{volume}"
    alice.act(path, "os-extend", new_size=3)
    alice.settled(volume, "available")
    assert alice.volume(volume)["size"] == 3
    assert cloud.backend.made[volume][0] == 3
    assert alice.refused("POST", f"{path}/action", {"os-extend": {"new_size": 3}}) == (
        400,
        "Invalid input received: New size for extend must be greater than current size. "
        "(current: 3, extended: 3).",
    )
    assert alice.refused("POST", f"{path}/action", {"os-extend": {"new_size": 1001}})[0] == 413
    cloud.backend.refuses = "extend"
    alice.act(path, "os-extend", new_size=4)
    alice.settled(volume, "error_extending")
    assert alice.volume(volume)["size"] == 3


def test_an_extension_counts_at_once(alice: Caller, cloud: Volumes) -> None:
    volume = alice.create(size=2)
    cloud.backend.hold = "extend"
    alice.act(f"/volumes/{volume}", "os-extend", new_size=900)
    assert cloud.backend.held.wait(30)
    assert alice.refused("POST", "/volumes", {"volume": {"size": 101}})[0] == 413
    cloud.backend.go.set()
    alice.settled(volume, "available")


def reset(admin: Caller, volume: str, status: str) -> None:
    admin.done("POST", f"/volumes/{volume}/action", {"os-reset_status": {"status": status}})


def test_a_status_that_an_admin_sets_ends_what_is_under_way(
    alice: Caller, admin: Caller, cloud: Volumes
) -> None:
    volume = alice.create()
    path = f"/volumes/{volume}"
    cloud.backend.hold = "extend"
    alice.act(path, "os-extend", new_size=3)
    assert cloud.backend.held.wait(30)
    reset(admin, volume, "available")
    cloud.backend.hold = ""
    alice.act(path, "os-extend", new_size=2)
    alice.settled(volume, "available")
    assert alice.volume(volume)["size"] == 2
    cloud.backend.refuses = "open"
    alice.act(path, "os-volume_upload_image", image_name="i")
    reset(admin, volume, "error")
    assert made_images(cloud) == 0
    assert alice.volume(volume)["status"] == "error"


def test_a_status_is_not_set_of_what_is_being_deleted(alice: Caller, admin: Caller, cloud: Volumes) -> None:
    volume = alice.create()
    path = f"/volumes/{volume}"
    cloud.backend.away = True
    alice.done("DELETE", path)
    reset = {"os-reset_status": {"status": "available"}}
    status, why = admin.refused("POST", f"{path}/action", reset)
    assert (status, "being deleted" in why) == (400, True)


def test_a_status_that_an_admin_sets_takes_the_offer_back(
    alice: Caller, bob: Caller, admin: Caller, cloud: Volumes
) -> None:
    volume = alice.create()
    offer = alice.done("POST", "/volume-transfers", {"transfer": {"volume_id": volume}})["transfer"]
    reset(admin, volume, "available")
    accept = f"/volume-transfers/{offer['id']}/accept", {"accept": {"auth_key": offer["auth_key"]}}
    assert bob.refused("POST", *accept)[0] == 404
    offer = alice.done("POST", "/volume-transfers", {"transfer": {"volume_id": volume}})["transfer"]
    with cloud.db.write() as conn:  # it has changed hands since
        volumes.change(conn, volume, project_id=ADMIN)
    accept = f"/volume-transfers/{offer['id']}/accept", {"accept": {"auth_key": offer["auth_key"]}}
    assert bob.refused("POST", *accept)[0] == 400


def test_states_that_volumes_do_not_have_are_not_set(alice: Caller, admin: Caller) -> None:
    path = f"/volumes/{alice.create()}/action"
    for said in ({"migration_status": "migrating"}, {"attach_status": "attached"}, {"attach_status": "x"}):
        assert admin.refused("POST", path, {"os-reset_status": said})[0] == 400
    admin.done("POST", path, {"os-reset_status": {"migration_status": "none", "attach_status": "detached"}})


def test_a_volume_that_is_deleted_is_not_copied_any_more(
    alice: Caller, admin: Caller, cloud: Volumes
) -> None:
    volume = alice.create()
    cloud.backend.endless = True
    alice.act(f"/volumes/{volume}", "os-volume_upload_image", image_name="i")
    assert cloud.backend.held.wait(30)
    admin.act(f"/volumes/{volume}", "os-force_delete")
    alice.gone(f"/volumes/{volume}")
    cloud.images.bury()
    assert made_images(cloud) == 0


def test_a_volume_becomes_an_image(alice: Caller, cloud: Volumes) -> None:
    volume = alice.create(imageRef=image(cloud))
    said = {"image_name": "copy", "disk_format": "raw", "container_format": "bare", "force": False}
    told = alice.act(f"/volumes/{volume}", "os-volume_upload_image", **said)["os-volume_upload_image"]
    assert told["status"] == "uploading"
    alice.settled(volume, "available")
    made = cloud.images.show(IMAGER, told["image_id"])
    assert (made.status, made.name, made.properties["hw_disk_bus"]) == ("active", "copy", "scsi")
    cloud.backend.refuses = "open"
    told = alice.act(f"/volumes/{volume}", "os-volume_upload_image", **said)["os-volume_upload_image"]
    alice.settled(volume, "available")
    assert [one["event_id"] for one in alice.get("/messages")["messages"]] == ["VOLUME_VOLUME_003_001"]
    assert made_images(cloud) == 2, "the source and the copy"
    wrong = {"os-volume_upload_image": said | {"disk_format": "vmdk"}}
    assert alice.refused("POST", f"/volumes/{volume}/action", wrong)[0] == 400


def in_use(alice: Caller, **said: object) -> str:
    """A volume that a server's host has."""
    volume = alice.create(**said)
    body = {"volume_uuid": volume, "instance_uuid": "3bdd1b0c-6f8a-4a25-93f5-7a8a1a7b6a01"}
    connector = {"host": "here", "ip": "10.0.0.1", "initiator": "iqn.1993-08.org.debian:01:x"}
    made = alice.done("POST", "/attachments", {"attachment": body | {"connector": connector}}, 200)
    alice.done("POST", f"/attachments/{made['attachment']['id']}/action", {"os-complete": {}}, 204)
    return volume


def test_of_a_volume_in_use_a_snapshot_becomes_an_image(alice: Caller, cloud: Volumes) -> None:
    """What a guest writes meanwhile is not in it, nor is half of it."""
    volume = in_use(alice)
    path = f"/volumes/{volume}"
    status, why = alice.refused("POST", f"{path}/action", {"os-volume_upload_image": {"image_name": "i"}})
    assert (status, "status must be available" in why) == (400, True)
    told = alice.act(path, "os-volume_upload_image", image_name="i", force=True)["os-volume_upload_image"]
    alice.settled(volume, "in-use")
    assert cloud.images.show(IMAGER, told["image_id"]).status == "active"
    assert cloud.backend.opened == [(volume, told["image_id"])]
    assert cloud.backend.snaps == {}
    assert alice.get("/snapshots")["snapshots"] == []


@pytest.mark.parametrize("how", ["failed", "reset"])
def test_of_an_image_that_is_not_to_be_no_snapshot_is_left(
    alice: Caller, admin: Caller, cloud: Volumes, how: str
) -> None:
    volume = in_use(alice)
    path = f"/volumes/{volume}"
    if how == "failed":
        cloud.backend.refuses = "open"
        alice.act(path, "os-volume_upload_image", image_name="i", force=True)
        alice.settled(volume, "in-use")
    else:
        cloud.backend.endless = True
        told = alice.act(path, "os-volume_upload_image", image_name="i", force=True)
        assert cloud.backend.held.wait(30)
        image_id = told["os-volume_upload_image"]["image_id"]
        with cloud.db.read() as conn:
            assert orphans.known_snapshots(conn, {image_id}) == {image_id}
        reset(admin, volume, "in-use")
        assert alice.volume(volume)["status"] == "in-use"
    until(lambda: cloud.backend.snaps == {}, 60, "no snapshot")
    cloud.images.bury()
    assert made_images(cloud) == 0


def test_what_will_not_become_an_image_leaves_none(alice: Caller, admin: Caller, cloud: Volumes) -> None:
    """Not if it is refused, nor if it fails and is protected, nor if the volume is deleted meanwhile."""
    volume = alice.create()
    path = f"/volumes/{volume}"
    cloud.backend.hold = "extend"
    alice.act(path, "os-extend", new_size=2)
    said = {"os-volume_upload_image": {"image_name": "i"}}
    assert alice.refused("POST", f"{path}/action", said)[0] == 400
    assert made_images(cloud) == 0
    cloud.backend.hold = ""
    cloud.backend.go.set()
    alice.settled(volume, "available")
    cloud.backend.refuses = "open"
    alice.act(path, "os-volume_upload_image", image_name="i", protected=True)
    alice.settled(volume, "available")
    assert made_images(cloud) == 0
    cloud.backend.refuses = ""
    assert cloud.manager is not None
    cloud.manager.close()
    alice.act(path, "os-volume_upload_image", image_name="i")
    admin.act(path, "os-force_delete")
    assert made_images(cloud) == 0


def made_images(cloud: Volumes) -> int:
    with cloud.db.read() as conn:
        return int(conn.exec_driver_sql("SELECT count(*) FROM images WHERE deleted_at IS NULL").scalar_one())


def test_a_volume_that_is_being_copied_does_not_grow(alice: Caller, cloud: Volumes) -> None:
    """Its copy would find it larger than it is to be itself, and fail."""
    volume = alice.create()
    cloud.backend.hold = "ensure_volume"
    said = {"volume": {"size": 1, "source_volid": volume}}
    copy = alice.done("POST", "/volumes", said)["volume"]["id"]
    extend = {"os-extend": {"new_size": 2}}
    status, message = alice.refused("POST", f"/volumes/{volume}/action", extend)
    assert (status, "another volume is being made of it" in message) == (400, True)
    cloud.backend.hold = ""
    cloud.backend.go.set()
    alice.settled(copy, "available")
    alice.act(f"/volumes/{volume}", "os-extend", new_size=2)
    alice.settled(volume, "available")


def test_a_volume_goes_back_to_its_newest_snapshot(alice: Caller, cloud: Volumes) -> None:
    volume = alice.create()
    cloud.backend.made[volume] = (1, "old")
    first, second = alice.snapshot(volume), alice.snapshot(volume)
    cloud.backend.made[volume] = (1, "new")
    path = f"/volumes/{volume}"
    assert alice.refused("POST", f"{path}/action", {"revert": {"snapshot_id": first}})[0] == 400
    alice.act(path, "revert", snapshot_id=second)
    alice.settled(volume, "available")
    assert cloud.backend.made[volume] == (1, "old")


def test_a_snapshot_stays_while_its_volume_goes_back_to_it(
    alice: Caller, admin: Caller, cloud: Volumes
) -> None:
    volume = alice.create()
    snapshot = alice.snapshot(volume)
    cloud.backend.hold = "revert"
    alice.act(f"/volumes/{volume}", "revert", snapshot_id=snapshot)
    assert cloud.backend.held.wait(30)
    status, why = alice.refused("DELETE", f"/snapshots/{snapshot}")
    assert (status, "reverted" in why) == (400, True)
    assert admin.refused("POST", f"/snapshots/{snapshot}/action", {"os-force_delete": {}})[0] == 400
    cloud.backend.go.set()
    alice.settled(volume, "available")
    alice.done("DELETE", f"/snapshots/{snapshot}")


def test_what_a_volume_holds_stays_while_it_is_copied(alice: Caller, cloud: Volumes) -> None:
    volume, image_id = alice.create(), image(cloud)
    snapshot = alice.snapshot(volume)
    plain = alice.create()
    cloud.backend.hold = "ensure_volume"
    for source in (volume, plain):
        alice.done("POST", "/volumes", {"volume": {"size": 1, "source_volid": source}})
    assert cloud.backend.held.wait(30)
    reverted = {"revert": {"snapshot_id": snapshot}}
    assert alice.refused("POST", f"/volumes/{volume}/action", reverted)[0] == 400
    reimaged = {"os-reimage": {"image_id": image_id}}
    assert alice.refused("POST", f"/volumes/{plain}/action", reimaged)[0] == 400
    cloud.backend.go.set()


def test_a_volume_gets_another_image(alice: Caller, cloud: Volumes) -> None:
    volume, image_id = alice.create(), image(cloud)
    alice.act(f"/volumes/{volume}", "os-reimage", image_id=image_id)
    alice.settled(volume, "available")
    assert cloud.backend.made[volume] == (1, f"image {image_id}")
    assert alice.volume(volume)["bootable"] == "true"


def test_flags(alice: Caller, admin: Caller) -> None:
    volume = alice.create()
    path = f"/volumes/{volume}"
    alice.act(path, "os-set_bootable", 200, bootable=True)
    alice.act(path, "os-update_readonly_flag", readonly=True)
    shown = alice.volume(volume)
    assert (shown["bootable"], shown["metadata"]) == ("true", {"readonly": "True"})
    assert alice.refused("POST", f"{path}/action", {"os-reset_status": {"status": "error"}})[0] == 403
    assert admin.refused("POST", f"{path}/action", {"os-reset_status": {"status": "fine"}})[0] == 400
    admin.done("POST", f"{path}/action", {"os-reset_status": {"status": "error"}})
    assert alice.volume(volume)["status"] == "error"
    for wrong in ({"os-migrate_volume": {}}, {"dance": {}}, {}, {"a": 1, "b": 2}):
        assert admin.refused("POST", f"{path}/action", wrong)[0] == 400


def test_a_microversion_shows_what_it_has(alice: Caller) -> None:
    volume = alice.create()
    old = alice.at("3.0").volume(volume)
    assert not {"group_id", "volume_type_id", "shared_targets", "consumes_quota"} & set(old)
    assert alice.at("3.48").volume(volume)["shared_targets"] is False
    assert alice.at("3.70").volume(volume)["shared_targets"] is None
    assert alice.at("3.26").refused("GET", "/attachments")[0] == 404
    assert alice.at("3.71").refused("GET", "/volumes")[0] == 406
    assert alice.at("three").refused("GET", "/volumes")[0] == 400


def test_nothing_is_left_of_a_volume_that_is_deleted_while_it_is_made(
    alice: Caller, admin: Caller, cloud: Volumes
) -> None:
    cloud.backend.hold = "ensure_volume"
    volume = alice.done("POST", "/volumes", {"volume": {"size": 1}})["volume"]["id"]
    assert cloud.backend.held.wait(30)
    admin.act(f"/volumes/{volume}", "os-force_delete")
    alice.gone(f"/volumes/{volume}")
    until(lambda: not cloud.backend.made, 60, "nothing left")


def test_a_text_that_no_database_stores_is_refused(alice: Caller) -> None:
    volume = alice.create()
    nul = "a\0b"
    bodies: list[tuple[str, str, dict[str, object]]] = [
        ("POST", "/volumes", {"volume": {"size": 1, "name": nul}}),
        ("POST", "/volumes", {"volume": {"size": 1, "metadata": {nul: "v"}}}),
        ("PUT", f"/volumes/{volume}", {"volume": {"description": nul}}),
        ("PUT", f"/volumes/{volume}/metadata/k", {"meta": {"k": nul}}),
        ("POST", "/snapshots", {"snapshot": {"volume_id": volume, "name": nul}}),
        ("POST", "/attachments", {"attachment": {"volume_uuid": volume, "instance_uuid": nul}}),
        ("POST", "/volume-transfers", {"transfer": {"volume_id": volume, "name": nul}}),
        ("POST", f"/volumes/{volume}/action", {"os-set_image_metadata": {"metadata": {"k": nul}}}),
        ("POST", f"/volumes/{volume}/action", {"os-volume_upload_image": {"image_name": nul}}),
    ]
    for method, path, body in bodies:
        status, why = alice.refused(method, path, body)
        assert (status, "NUL" in why) == (400, True), (path, status, why)
    backslash = "C:\\u0000"  # which says it, and has none
    alice.done("PUT", f"/volumes/{volume}", {"volume": {"name": backslash}}, 200)
    assert alice.volume(volume)["name"] == backslash
