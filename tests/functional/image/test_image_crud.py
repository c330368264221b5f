"""Create, show, update, delete; tags, activation; what each kind of caller may do."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import TestClient

from .conftest import ALICE, BOB, Caller


def test_versions_need_no_token(client: TestClient) -> None:
    choices = client.simulate_get("/image")
    assert choices.status_code == 300
    current = choices.json["versions"][0]
    assert (current["id"], current["status"]) == ("v2.7", "CURRENT")
    assert current["links"][0]["href"].endswith("/image/v2/")
    assert client.simulate_get("/image/").json == choices.json
    assert client.simulate_get("/image/versions").json == choices.json


def test_the_rest_needs_one(client: TestClient) -> None:
    for path in ("/image/v2/images", "/image/v2/schemas/image", "/image/v2/nothing"):
        assert client.simulate_get(path).status_code == 401
        assert client.simulate_get(path, headers={"X-Auth-Token": "stolen"}).status_code == 401


def test_no_tasks_are_done_to_an_image(alice: Caller, bob: Caller) -> None:
    path = f"/v2/images/{alice.create()['id']}/tasks"
    assert alice("GET", path).json == {"tasks": []}
    assert bob("GET", path).status_code == 404


def test_a_new_image_is_queued(alice: Caller) -> None:
    made = alice.create(name="cirros", min_disk=1, min_ram=64, tags=["b", "a", "b"], hw_disk_bus="virtio")
    assert made["status"] == "queued"
    assert made["visibility"] == "shared"
    assert made["owner"] == ALICE
    assert made["tags"] == ["a", "b"]
    assert made["hw_disk_bus"] == "virtio"
    assert made["size"] is made["checksum"] is made["os_hash_value"] is None
    assert made["file"] == f"/v2/images/{made['id']}/file"
    assert alice.show(made["id"]) == made


def test_a_user_may_choose_the_id_and_never_again(alice: Caller, bob: Caller) -> None:
    chosen = str(uuid.uuid4())
    assert alice.create(id=chosen)["id"] == chosen
    assert bob("POST", "/v2/images", json={"id": chosen}).status_code == 409
    assert alice("DELETE", f"/v2/images/{chosen}").status_code == 204
    assert bob("POST", "/v2/images", json={"id": chosen}).status_code == 409


@pytest.mark.parametrize(
    "body",
    [
        {"name": 5},
        {"name": "x" * 256},
        {"name": "nul\0"},
        {"id": "../../etc/passwd"},
        {"id": "x"},
        {"disk_format": "exe"},
        {"container_format": "zip"},
        {"visibility": "secret"},
        {"min_disk": -1},
        {"min_ram": 2**31},
        {"min_ram": 10**30},
        {"min_disk": "1"},
        {"min_disk": True},
        {"protected": "yes"},
        {"tags": "a"},
        {"tags": [1]},
        {"tags": ["x" * 256]},
        {"property": 5},
        {"property": None},
        {"property": {"a": "b"}},
        {"property": "nul\0"},
        {"x" * 256: "y"},
        {"": "y"},
        [],
        "x",
        None,
    ],
)
def test_wrong_values_are_400(alice: Caller, body: Any) -> None:
    assert alice("POST", "/v2/images", json=body).status_code == 400
    assert alice.names() == []


@pytest.mark.parametrize("raw", [b"", b"{", b"[" * 5000, b"\xff\xfe", b'{"name": "\\ud800"}'])
def test_bodies_that_are_no_json_are_400(alice: Caller, raw: bytes) -> None:
    assert alice("POST", "/v2/images", body=raw).status_code == 400


def test_a_huge_body_is_413(alice: Caller) -> None:
    assert alice("POST", "/v2/images", json={"name": "x", "p": "y" * 200_000}).status_code == 413


SET_BY_THE_SERVICE = (
    *("status", "size", "checksum", "os_hash_value", "created_at", "self", "file", "schema"),
    *("direct_url", "locations", "location", "deleted", "os_glance_x", "stores"),
)


@pytest.mark.parametrize("name", SET_BY_THE_SERVICE)
def test_what_the_service_sets_is_403(alice: Caller, name: str) -> None:
    assert alice("POST", "/v2/images", json={name: "x"}).status_code == 403
    made = alice.create()
    change = {"op": "add", "path": f"/{name}", "value": "x"}
    assert alice.patch(made["id"], change).status_code == 403


def test_odd_names_are_only_names(alice: Caller) -> None:
    for name in ("<x>&'\"</x>", "$(reboot); `id`", "../../x", "имя 名前 🚀", " ", ""):
        made = alice.create(name=name, odd=name)
        assert alice.show(made["id"])["name"] == name
        assert alice.show(made["id"])["odd"] == name


def test_limits_of_one_image(alice: Caller) -> None:
    many = {f"p{n}": "v" for n in range(129)}
    assert alice("POST", "/v2/images", json=many).status_code == 413
    assert alice("POST", "/v2/images", json={"tags": [f"t{n}" for n in range(129)]}).status_code == 413


def test_who_may_create(reader: Caller, unscoped: Caller, alice: Caller, admin: Caller) -> None:
    assert reader("POST", "/v2/images", json={"name": "x"}).status_code == 403
    assert unscoped("POST", "/v2/images", json={"name": "x"}).status_code == 403
    assert alice("POST", "/v2/images", json={"owner": BOB}).status_code == 403
    assert alice("POST", "/v2/images", json={"visibility": "public"}).status_code == 403
    assert admin.create(owner=BOB, visibility="public")["owner"] == BOB
    assert alice.create(visibility="community")["visibility"] == "community"


def test_others_see_what_is_offered(alice: Caller, bob: Caller, unscoped: Caller, admin: Caller) -> None:
    own = {kind: alice.create(visibility=kind)["id"] for kind in ("private", "shared", "community")}
    own["public"] = admin.create(visibility="public")["id"]
    for kind, image_id in own.items():
        seen = 200 if kind in ("public", "community") else 404
        assert bob("GET", f"/v2/images/{image_id}").status_code == seen
        assert unscoped("GET", f"/v2/images/{image_id}").status_code == seen
        assert admin("GET", f"/v2/images/{image_id}").status_code == 200


def test_others_change_nothing(alice: Caller, bob: Caller, reader: Caller) -> None:
    offered, hidden = alice.create(visibility="community")["id"], alice.create()["id"]
    change = {"op": "replace", "path": "/name", "value": "mine"}
    for image_id, caller, status in ((offered, bob, 403), (hidden, bob, 404), (hidden, reader, 403)):
        path = f"/v2/images/{image_id}"
        assert caller.patch(image_id, change).status_code == status
        assert caller("DELETE", path).status_code == status
        assert caller.upload(image_id, b"x").status_code == status
        assert caller("PUT", f"{path}/tags/t").status_code == status
        assert caller("POST", f"{path}/actions/deactivate").status_code == status
        assert caller("POST", f"{path}/members", json={"member": BOB}).status_code == status
    assert alice.show(offered)["name"] == "i"


def test_unknown_images_are_404(alice: Caller) -> None:
    for image_id in (str(uuid.uuid4()), "x", "..", "%2e%2e%2fetc", "a" * 5000, "1%00"):
        path = f"/v2/images/{image_id}"
        assert alice("GET", path).status_code == 404
        assert alice("DELETE", path).status_code == 404
        assert alice("GET", f"{path}/file").status_code == 404
        assert alice("GET", f"{path}/members").status_code == 404
        assert alice("PUT", f"{path}/tags/t").status_code == 404
        assert alice.upload(image_id, b"x").status_code == 404


def test_patch_changes_attributes_and_properties(alice: Caller) -> None:
    made = alice.create(old="1", kept="2")
    result = alice.patch(
        made["id"],
        {"op": "replace", "path": "/name", "value": "new"},
        {"op": "add", "path": "/min_disk", "value": 3},
        {"op": "add", "path": "/a~1b~0c", "value": "x"},
        {"op": "remove", "path": "/old"},
        {"op": "replace", "path": "/tags", "value": ["z", "y", "z"]},
        {"op": "replace", "path": "/protected", "value": True},
        {"op": "replace", "path": "/name", "value": None},
    )
    assert result.status_code == 200
    shown = alice.show(made["id"])
    assert result.json == shown
    assert (shown["name"], shown["min_disk"], shown["a/b~c"], shown["kept"]) == (None, 3, "x", "2")
    assert shown["tags"] == ["y", "z"]
    assert shown["protected"] is True
    assert "old" not in shown


def test_a_patch_is_all_or_nothing(alice: Caller) -> None:
    made = alice.create()
    good, bad = {"op": "add", "path": "/name", "value": "new"}, {"op": "remove", "path": "/none"}
    assert alice.patch(made["id"], good, bad).status_code == 409
    assert alice.show(made["id"]) == made


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        ({"op": "replace", "path": "/none", "value": "x"}, 409),
        ({"op": "remove", "path": "/none"}, 409),
        ({"op": "remove", "path": "/name"}, 403),
        ({"op": "add", "path": "/owner", "value": BOB}, 403),
        ({"op": "add", "path": "/visibility", "value": "public"}, 403),
        ({"op": "add", "path": "/locations/-", "value": {"url": "file:///etc/passwd", "metadata": {}}}, 403),
        ({"op": "add", "path": "/id", "value": "x"}, 403),
        ({"op": "move", "path": "/name", "from": "/x"}, 400),
        ({"op": "add", "path": "/name"}, 400),
        ({"op": "add", "path": "name", "value": "x"}, 400),
        ({"op": "add", "path": "/", "value": "x"}, 400),
        ({"op": "add", "path": "/a/b", "value": "x"}, 400),
        ({"op": "add", "path": "/a~2", "value": "x"}, 400),
        ({"op": "add", "path": 5, "value": "x"}, 400),
        ({"op": "add", "value": "x"}, 400),
        ({"op": ["add"], "path": "/name", "value": "x"}, 400),
        ({"op": "add", "path": "/name", "value": 5}, 400),
        ({"op": "add", "path": "/x", "value": 5}, 400),
        ({"op": "add", "path": "/min_ram", "value": -5}, 400),
        ({"path": "/name", "value": "x"}, 400),
        ("add", 400),
    ],
)
def test_patches_that_are_refused(alice: Caller, operation: Any, status: int) -> None:
    made = alice.create()
    assert alice.patch(made["id"], operation).status_code == status
    assert alice.show(made["id"]) == made


def test_a_patch_says_its_dialect(alice: Caller) -> None:
    made = alice.create()
    for kind in ("application/json", "application/json-patch+json", ""):
        result = alice.patch_raw(made["id"], "[]", kind)
        assert result.status_code == 415
        assert "v2.1-json-patch" in result.json["message"]
    assert alice.patch(made["id"], {"replace": "/name", "value": "d"}, dialect="v2.0").json["name"] == "d"
    assert alice.patch(made["id"], {"add": "/name", "value": "e"}, dialect="v2.0").status_code == 409
    both = {"add": "/x", "remove": "/y", "value": "e"}
    assert alice.patch(made["id"], both, dialect="v2.0").status_code == 400
    wrong = alice.patch_raw(made["id"], "{}", "application/openstack-images-v2.1-json-patch")
    assert wrong.status_code == 400


def test_formats_are_fixed_once_there_is_data(alice: Caller) -> None:
    made = alice.create(disk_format=None)
    assert alice.upload(made["id"], b"x").status_code == 400
    change = {"op": "replace", "path": "/disk_format", "value": "raw"}
    assert alice.patch(made["id"], change).status_code == 200
    assert alice.upload(made["id"], b"x").status_code == 204
    assert alice.patch(made["id"], change).status_code == 403


def test_an_admin_gives_an_image_away(admin: Caller, alice: Caller, bob: Caller) -> None:
    made = alice.create()
    assert admin.patch(made["id"], {"op": "add", "path": "/owner", "value": BOB}).status_code == 200
    assert alice("GET", f"/v2/images/{made['id']}").status_code == 404
    assert bob.show(made["id"])["owner"] == BOB


def test_tags(alice: Caller) -> None:
    made = alice.create(tags=["a"])
    path = f"/v2/images/{made['id']}/tags"
    assert alice("PUT", f"{path}/b%20c").status_code == 204
    assert alice("PUT", f"{path}/b%20c").status_code == 204
    assert alice.show(made["id"])["tags"] == ["a", "b c"]
    assert alice("DELETE", f"{path}/a").status_code == 204
    assert alice("DELETE", f"{path}/a").status_code == 404
    assert alice("PUT", f"{path}/{'x' * 256}").status_code == 400
    assert alice("PUT", f"{path}/a%00b").status_code == 400
    assert alice.show(made["id"])["tags"] == ["b c"]


def test_a_protected_image_stays(alice: Caller, admin: Caller) -> None:
    made = alice.create(protected=True)
    assert alice("DELETE", f"/v2/images/{made['id']}").status_code == 403
    assert admin("DELETE", f"/v2/images/{made['id']}").status_code == 403
    alice.patch(made["id"], {"op": "replace", "path": "/protected", "value": False})
    assert alice("DELETE", f"/v2/images/{made['id']}").status_code == 204
    assert alice("DELETE", f"/v2/images/{made['id']}").status_code == 404


def test_delete_takes_the_bytes(alice: Caller, folder: Path) -> None:
    made = alice.create_active()
    assert [file.name for file in folder.iterdir()] == [made["id"]]
    assert alice("DELETE", f"/v2/images/{made['id']}").status_code == 204
    assert alice("GET", f"/v2/images/{made['id']}").status_code == 404
    assert alice("GET", f"/v2/images/{made['id']}/file").status_code == 404
    assert list(folder.iterdir()) == []


def test_a_deactivated_image_gives_no_bytes(alice: Caller, admin: Caller) -> None:
    made = alice.create_active(b"secret")
    path = f"/v2/images/{made['id']}"
    for _ in range(2):
        assert alice("POST", f"{path}/actions/deactivate").status_code == 204
    assert alice.show(made["id"])["status"] == "deactivated"
    assert alice("GET", f"{path}/file").status_code == 403
    assert admin("GET", f"{path}/file").content == b"secret"
    for _ in range(2):
        assert alice("POST", f"{path}/actions/reactivate").status_code == 204
    assert alice("GET", f"{path}/file").content == b"secret"
    queued = alice.create()["id"]
    assert alice("POST", f"/v2/images/{queued}/actions/deactivate").status_code == 403
    assert alice("POST", f"/v2/images/{queued}/actions/explode").status_code == 404


def test_schemas(alice: Caller) -> None:
    shown = alice.show(alice.create(custom="x")["id"])
    schema = alice("GET", "/v2/schemas/image").json
    assert shown.keys() - {"custom"} == schema["properties"].keys()
    assert schema["properties"]["disk_format"]["enum"][:3] == [None, "raw", "qcow2"]
    for name in ("images", "member", "members"):
        assert alice("GET", f"/v2/schemas/{name}").json["name"] == name
    assert alice("GET", "/v2/schemas/tasks").status_code == 404


def test_info_is_truthful(alice: Caller) -> None:
    assert alice("GET", "/v2/info/import").json["import-methods"]["value"] == []
    for method, path in (("GET", "/v2/info/stores"), ("GET", "/v2/tasks"), ("GET", "/v2/cache")):
        assert alice(method, path).status_code == 404
    made = alice.create()
    for path in ("import", "stage"):
        assert alice("POST", f"/v2/images/{made['id']}/{path}", json={}).status_code == 404
    assert alice("PUT", "/v2/images").status_code == 405
