"""What can become of a volume, and of a server's volumes, well and badly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.functional.builds.cloud import IMAGE, PATIENCE, Cloud
from tests.running import until

from kilonova.domain.errors import BuildFailed

_NEWEST = {"OpenStack-API-Version": "volume 3.70"}
_ROOT = {
    "uuid": IMAGE,
    "source_type": "image",
    "destination_type": "volume",
    "volume_size": 1,
    "boot_index": 0,
    "delete_on_termination": True,
}


def volumes_from_their_making_to_their_end(cloud: Cloud) -> None:
    cloud.keep_volumes()
    volume = _made(cloud, imageRef=IMAGE)
    snapshot = _snapshot(cloud, volume)
    _made(cloud, snapshot_id=snapshot)
    copy = _made(cloud, source_volid=volume)
    _act(cloud, volume, "revert", snapshot_id=snapshot)
    _act(cloud, copy, "os-extend", new_size=2)
    _act(cloud, copy, "os-reimage", image_id=IMAGE)
    _act(cloud, copy, "os-volume_upload_image", image_name="i")
    assert _ask(cloud, "DELETE", f"/snapshots/{snapshot}")[0] == 202
    until(lambda: _ask(cloud, "GET", f"/snapshots/{snapshot}")[0] == 404, PATIENCE, "the snapshot to go")
    _snapshot(cloud, volume)
    _snapshot(cloud, volume)
    _deleted(cloud, f"{volume}?cascade=true")


def volumes_that_cannot_be(cloud: Cloud) -> None:
    cloud.keep_volumes()
    volume = _made(cloud)
    for verb, does in (
        ("ensure_volume", lambda: _made(cloud)),
        ("ensure_snapshot", lambda: _snapshot(cloud, volume)),
        ("open", lambda: _act(cloud, volume, "os-volume_upload_image", image_name="i")),
        ("extend", lambda: _act(cloud, volume, "os-extend", new_size=2)),
    ):
        cloud.store.refuses = verb
        does()
        cloud.store.refuses = ""
    cloud.bus.lost["perform"] = 1
    assert _ask(cloud, "POST", "/volumes", {"volume": {"size": 1}})[0] == 202
    until(lambda: not cloud.bus.lost["perform"], PATIENCE, "the loss")
    cloud.deadlines_pass()
    cloud.sweep()
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


def a_server_with_volumes(cloud: Cloud) -> None:
    cloud.keep_volumes()
    first, second = _made(cloud), _made(cloud, size=2)
    body = {"name": "vm", "imageRef": "", "flavorRef": "42", "networks": "none"}
    blank = {"source_type": "blank", "destination_type": "volume", "volume_size": 1}
    body["block_device_mapping_v2"] = [_ROOT, blank | {"delete_on_termination": True}]  # type: ignore[assignment]
    status, answer = cloud.ask("POST", "/compute/v2.1/servers", {"server": body})
    assert status == 202, answer
    server = answer["server"]["id"]
    until(lambda: (cloud.server(server) or {}).get("status") == "ACTIVE", 3 * PATIENCE, "the build")
    cloud.settled(server)
    _attach(cloud, server, first)
    _act(cloud, first, "os-extend", new_size=2)
    driver = cloud.where(server).driver
    until(lambda: driver.volume_sizes(server).get(first) == 2, PATIENCE, "the guest to see it")
    path = f"/compute/v2.1/servers/{server}/os-volume_attachments"
    swap = {"volumeAttachment": {"volumeId": second}}
    assert cloud.ask("PUT", f"{path}/{first}", swap, "admin")[0] == 202
    cloud.settled(server)
    for action in ("os-stop", "os-start"):
        assert cloud.act(server, action) == 202
        cloud.settled(server)
    assert cloud.ask("DELETE", f"{path}/{second}")[0] == 202
    cloud.settled(server)
    _attach(cloud, server, first)
    extended = {"name": "volume-extended", "server_uuid": server, "tag": first}
    path = "/compute/v2.1/os-server-external-events"
    assert cloud.ask("POST", path, {"events": [extended]}, caller="admin")[0] == 200
    ((attachment,),) = cloud.sql("SELECT attachment_id FROM block_device_mappings WHERE volume_id = ?", first)
    cloud.sql("DELETE FROM block_device_mappings WHERE volume_id = ?", first)
    cloud.volumes.release(attachment)
    changed = {"name": "network-changed", "server_uuid": server}
    assert cloud.ask("POST", path, {"events": [changed]}, caller="admin")[0] == 200
    until(lambda: first not in driver.volumes(server), PATIENCE, "the guest to let go of it")
    cloud.delete(server)
    cloud.gone(server)
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


def volumes_that_do_not_come_nor_go(cloud: Cloud) -> None:
    cloud.keep_volumes()
    server, volume = cloud.active(), _made(cloud)
    cloud.where(server).driver.failures["attach_volume"] = [BuildFailed("no")]
    _attach(cloud, server, volume)
    cloud.bus.refused["change_volumes"] = 1
    _attach(cloud, server, volume)
    cloud.deadlines_pass()
    cloud.leases_run_out()
    cloud.sweep()
    cloud.settled(server)
    cloud.bus.refused["change_volumes"] = 1
    _attach(cloud, server, volume)
    cloud.leases_run_out()
    cloud.sweep()
    cloud.settled(server)
    cloud.bus.refused["change_volumes"] = 1
    path = f"/compute/v2.1/servers/{server}/os-volume_attachments/{volume}"
    assert cloud.ask("DELETE", path)[0] == 202
    cloud.deadlines_pass()
    cloud.sweep()
    cloud.settled(server)
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


def a_server_that_boots_from_a_volume(cloud: Cloud) -> None:
    """Another image on its root, snapshots that its guest makes, or does not, and a while on no host."""
    cloud.keep_volumes()
    body = {"name": "vm", "imageRef": "", "flavorRef": "42", "networks": "none"}
    body["block_device_mapping_v2"] = [_ROOT]  # type: ignore[assignment]
    status, answer = cloud.ask("POST", "/compute/v2.1/servers", {"server": body})
    assert status == 202, answer
    server = answer["server"]["id"]
    until(lambda: (cloud.server(server) or {}).get("status") == "ACTIVE", 3 * PATIENCE, "the build")
    _does(cloud, server, "rebuild", {"imageRef": IMAGE})
    _does(cloud, server, "createImage", {"name": "s"})
    (snapshot,) = cloud.store.snaps
    assert _ask(cloud, "DELETE", f"/snapshots/{snapshot}")[0] == 202
    until(lambda: _ask(cloud, "GET", f"/snapshots/{snapshot}")[0] == 404, PATIENCE, "the snapshot to go")
    cloud.store.written = True
    _does(cloud, server, "createImage", {"name": "s"})
    cloud.where(server).driver.failures["copy_volume"] = [BuildFailed("no")]
    _does(cloud, server, "createImage", {"name": "s"})
    cloud.store.written = False
    _does(cloud, server, "shelve")
    comes, goes = _made(cloud), _made(cloud)
    path = f"/compute/v2.1/servers/{server}/os-volume_attachments"
    headers = {"OpenStack-API-Version": "compute 2.20"}
    for volume in (comes, goes):
        attachment = {"volumeAttachment": {"volumeId": volume}}
        assert cloud.ask("POST", path, attachment, headers=headers)[0] == 200
    assert cloud.ask("DELETE", f"{path}/{goes}", headers=headers)[0] == 202
    _does(cloud, server, "unshelve")
    until(lambda: not cloud.unexplained(), PATIENCE, "all to be explained")


VOLUME_STORIES: list[Callable[[Cloud], None]] = [
    volumes_from_their_making_to_their_end,
    volumes_that_cannot_be,
    a_server_with_volumes,
    volumes_that_do_not_come_nor_go,
    a_server_that_boots_from_a_volume,
]


def _ask(cloud: Cloud, method: str, path: str, body: Any = None, caller: str = "member") -> Any:
    return cloud.ask(method, f"/volume/v3{path}", body, caller, _NEWEST)


def _made(cloud: Cloud, size: int = 1, **more: str) -> str:
    """The id of a volume that is there, or in error."""
    status, answer = _ask(cloud, "POST", "/volumes", {"volume": {"size": size, **more}})
    assert status == 202, answer
    _settled(cloud, answer["volume"]["id"])
    return str(answer["volume"]["id"])


def _snapshot(cloud: Cloud, volume: str) -> str:
    status, answer = _ask(cloud, "POST", "/snapshots", {"snapshot": {"volume_id": volume}})
    assert status == 202, answer
    _settled(cloud, answer["snapshot"]["id"])
    return str(answer["snapshot"]["id"])


def _act(cloud: Cloud, volume: str, name: str, **said: object) -> None:
    status, answer = _ask(cloud, "POST", f"/volumes/{volume}/action", {name: said})
    assert status in (200, 202), answer
    _settled(cloud, volume)


def _deleted(cloud: Cloud, path: str) -> None:
    status, answer = _ask(cloud, "DELETE", f"/volumes/{path}")
    assert status == 202, answer
    _settled(cloud, path.partition("?")[0])


def _attach(cloud: Cloud, server: str, volume: str) -> None:
    """Begun; how it ends, the test sees."""
    path = f"/compute/v2.1/servers/{server}/os-volume_attachments"
    status, answer = cloud.ask("POST", path, {"volumeAttachment": {"volumeId": volume}})
    assert status == 200, answer
    if not cloud.bus.refused["change_volumes"] and not cloud._busy(server):
        cloud.settled(server)


def _does(cloud: Cloud, server: str, action: str, value: object = None) -> None:
    """By a microversion in which a rebuild is of the root volume too."""
    path, body = f"/compute/v2.1/servers/{server}/action", {action: value}
    status, answer = cloud.ask("POST", path, body)
    assert status == 202, answer
    until(lambda: not cloud._busy(server), 3 * PATIENCE, f"{action}: {cloud.trace()}")


def _settled(cloud: Cloud, of: str) -> None:
    """No operation of a volume or a snapshot is open."""
    until(lambda: not cloud._busy(of), PATIENCE, f"{of} to settle: {cloud.trace()}")
