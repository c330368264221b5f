"""What users ask for of servers that have volumes, and what goes wrong with it, one at a time."""

from __future__ import annotations

from contextlib import suppress

from tests.running import until

from crash.cluster import NOT_NOW, Cluster
from crash.scenarios import (
    Options,
    Scenario,
    action,
    active,
    create_image,
    delete,
    heard_late,
    id_of,
    images_are_clear,
    in_background,
    settled,
    slow,
    state_of,
)
from crash.volume_scenarios import (
    OF_A_GIBIBYTE,
    PATIENCE,
    Way,
    act,
    ask,
    available,
    create_of_image,
    delete_snapshot,
    id_of_volume,
    other,
    snapshot_state,
    there,
    volume_state,
)


def _volume_of(server: str) -> str:
    """The name of a server's volume."""
    return f"{server}-volume"


def _attachments(cluster: Cluster, server: str) -> str:
    return f"/compute/v2.1/servers/{id_of(cluster, server)}/os-volume_attachments"


def _build_with_volumes(cluster: Cluster, server: str) -> None:
    """Its root is of the image, and goes with it; the other one stays."""
    root = {"uuid": cluster.image_id, "source_type": "image", "boot_index": 0, "delete_on_termination": True}
    blank = {"source_type": "blank", "delete_on_termination": False}
    devices = [one | {"destination_type": "volume", "volume_size": 1} for one in (root, blank)]
    body = {"name": server, "flavorRef": "42", "networks": "none", "block_device_mapping_v2": devices}
    with suppress(*NOT_NOW):
        status, answer = cluster.ask("POST", "/compute/v2.1/servers", {"server": body})
        assert status == 202, answer


def _build_of_volume(cluster: Cluster, server: str) -> None:
    device = {
        "uuid": id_of_volume(cluster, _volume_of(server)),
        "source_type": "volume",
        "destination_type": "volume",
        "boot_index": 0,
    }
    body = {"name": server, "flavorRef": "42", "networks": "none", "block_device_mapping_v2": [device]}
    with suppress(*NOT_NOW):
        status, answer = cluster.ask("POST", "/compute/v2.1/servers", {"server": body})
        assert status == 202, answer


def _boots_from_volume(cluster: Cluster, server: str) -> None:
    """A server without a disk of its own."""
    _bootable(cluster, server)
    settled("active", _build_of_volume)(cluster, server)


def _shelved_root(cluster: Cluster, server: str) -> None:
    _boots_from_volume(cluster, server)
    settled("shelved_offloaded", action("shelve"))(cluster, server)


def _written_by_its_guest(cluster: Cluster, server: str) -> None:
    """From now on the volume is locked as QEMU locks what a guest writes to: no copy of one moment is made of
    it but by the guest's host."""
    _boots_from_volume(cluster, server)
    cluster.written_to(id_of_volume(cluster, _volume_of(server)))


def _nobody_writes(cluster: Cluster, server: str) -> None:
    cluster.written_to("")
    images_are_clear(cluster, server)


def _in_use_with_snapshot(cluster: Cluster, server: str) -> None:
    """A server's volume has a snapshot, which has the server's name."""
    _attached(cluster, server)
    body = {"name": server, "volume_id": id_of_volume(cluster, _volume_of(server))}
    ask(cluster, "POST", "/snapshots", {"snapshot": body})
    available(snapshot_state, cluster, server)


def _rebuild_root(cluster: Cluster, server: str) -> None:
    """Of a volume: by a microversion that gives it the image."""
    path, body = (
        f"/compute/v2.1/servers/{id_of(cluster, server)}/action",
        {"rebuild": {"imageRef": cluster.image_id}},
    )
    with suppress(*NOT_NOW):
        status, answer = cluster.ask("POST", path, body, {"OpenStack-API-Version": "compute 2.93"})
        assert status == 202, answer


def _bootable(cluster: Cluster, server: str) -> None:
    create_of_image(cluster, _volume_of(server))
    available(volume_state, cluster, _volume_of(server))


def _with_volume(cluster: Cluster, server: str) -> None:
    """A server, and a volume for it."""
    active(cluster, server)
    there(cluster, _volume_of(server))


def _attach(cluster: Cluster, server: str) -> None:
    body = {"volumeAttachment": {"volumeId": id_of_volume(cluster, _volume_of(server))}}
    in_background(cluster, "POST", _attachments(cluster, server), body)


def _detach(cluster: Cluster, server: str) -> None:
    volume = id_of_volume(cluster, _volume_of(server))
    in_background(cluster, "DELETE", f"{_attachments(cluster, server)}/{volume}", None)


def _swap(cluster: Cluster, server: str) -> None:
    old, new = id_of_volume(cluster, _volume_of(server)), id_of_volume(cluster, other(server))
    body = {"volumeAttachment": {"volumeId": new}}
    in_background(cluster, "PUT", f"{_attachments(cluster, server)}/{old}", body)


def _attached(cluster: Cluster, server: str) -> None:
    _with_volume(cluster, server)
    _attach(cluster, server)
    volume = _volume_of(server)
    until(lambda: volume_state(cluster, volume) == "in-use", PATIENCE, f"{volume} to be attached")


def _attached_and_another(cluster: Cluster, server: str) -> None:
    _attached(cluster, server)
    there(cluster, other(server))


def _attached_and_off(cluster: Cluster, server: str) -> None:
    _attached(cluster, server)
    action("os-stop")(cluster, server)
    until(lambda: state_of(cluster, server) == "stopped", PATIENCE, f"{server} to stop")


def _attached_and_written(cluster: Cluster, server: str) -> None:
    """As _written_by_its_guest, of one that is not its root."""
    _attached(cluster, server)
    cluster.written_to(id_of_volume(cluster, _volume_of(server)))


def _upload_in_use(cluster: Cluster, server: str) -> None:
    """To an image that has the server's name."""
    act("os-volume_upload_image", image_name=server, force=True)(cluster, _volume_of(server))


def _uploaded(cluster: Cluster, server: str) -> None:
    """As whole as it was asked for, and the volume is in use again; not even the snapshot is left."""
    cluster.written_to("")
    _volume_is("in-use")(cluster, server)
    found = cluster.ask("GET", f"/image/v2/images?name={server}")[1]["images"]
    assert [(image["status"], image["size"]) for image in found] == [("active", 1 << 30)], found
    assert cluster.ask("DELETE", f"/image/v2/images/{found[0]['id']}")[0] == 204


def _extend_online(cluster: Cluster, server: str) -> None:
    act("os-extend", new_size=2)(cluster, _volume_of(server))


def _guest_sees_it(cluster: Cluster, server: str) -> None:
    """Its host hears of it, or looks by itself when it compares."""
    volume = id_of_volume(cluster, _volume_of(server))
    with cluster.database() as db:
        query = f"SELECT host, id FROM servers WHERE name = '{server}'"
        host, ident = db.execute(query).fetchone()

    def sees() -> bool:
        return cluster.volumes_of_guest(host, ident).get(volume) == 2

    until(sees, PATIENCE, f"the guest to see that {volume} has grown")


def _lost(cluster: Cluster, server: str) -> None:
    """As if it had left the server while the host was away: the record knows nothing of it."""
    volume, ident = id_of_volume(cluster, _volume_of(server)), id_of(cluster, server)
    with cluster.database() as db:
        db.execute(f"DELETE FROM block_device_mappings WHERE volume_id = '{volume}'")
        db.commit()
    listed = cluster.ask_volume("GET", f"/attachments?volume_id={volume}")[1]["attachments"]
    for attachment in listed:
        ask(cluster, "DELETE", f"/attachments/{attachment['id']}")
    with suppress(*NOT_NOW):
        events = {"events": [{"name": "network-changed", "server_uuid": ident}]}
        status, answer = cluster.ask("POST", "/compute/v2.1/os-server-external-events", events)
        assert status == 200, answer


def _lost_by_guest(cluster: Cluster, server: str) -> None:
    """As if the guest had let go of it when nobody could hear of that any more: the record has it."""
    host = cluster.services["compute-1"]
    host.kill()
    cluster.take_volumes_of_guest(id_of(cluster, server))
    host.begin()


def _volume_is(*states: str) -> Way:
    """In the end, whatever became of what was asked for."""

    def look(cluster: Cluster, server: str) -> None:
        found = volume_state(cluster, _volume_of(server))
        assert found in states, f"the volume is {found}, not {' or '.join(states)}"

    return look


def _volumes_are(count: int) -> Way:
    """So many are left of the server's."""

    def look(cluster: Cluster, _server: str) -> None:
        states = [volume["status"] for volume in cluster.volumes()]
        assert set(states) <= {"available"}, states
        assert len(states) >= count, states

    return look


_CANNOT: dict[str, Options] = {"compute": {"fake": {"step_failures": {"attach_volume": 1.0}}}}
_CANNOT_BUILD: dict[str, Options] = {
    "compute": {"fake": {"step_failures": {"ensure_paused": 1.0}}},
    "conductor": {"operations": {"max_attempts": 2}},
}
_BY_ITSELF = 120.0
_IF_NOT_YET_THERE = frozenset({"build.wait_for_volumes.before"})
"""A server's host waits only for a snapshot that its volume's manager has not made by then; for a volume that
a build makes it always does."""


SERVER_VOLUME_SCENARIOS = [
    Scenario("build-with-volumes", "active", _build_with_volumes),
    Scenario(
        "delete-with-volumes",
        "deleted",
        delete,
        settled("active", _build_with_volumes),
        finally_=_volumes_are(1),
    ),
    Scenario("build-of-volume", "active", _build_of_volume, _bootable, finally_=_volume_is("in-use")),
    Scenario(
        "rebuild-of-root-volume", "active", _rebuild_root, _boots_from_volume, finally_=_volume_is("in-use")
    ),
    Scenario(
        "create-image-of-root-volume",
        "active",
        create_image,
        _boots_from_volume,
        finally_=images_are_clear,
        perhaps=_IF_NOT_YET_THERE,
    ),
    Scenario(
        "create-image-by-guest",
        "active",
        create_image,
        _written_by_its_guest,
        finally_=_nobody_writes,
        perhaps=_IF_NOT_YET_THERE,
    ),
    Scenario(
        "create-image-by-guest-fails",
        "active",
        create_image,
        _written_by_its_guest,
        {"compute": {"fake": {"step_failures": {"copy_volume": 1.0}}}},
        finally_=_nobody_writes,
        perhaps=_IF_NOT_YET_THERE,
    ),
    Scenario(
        "shelve-of-root-volume",
        "shelved_offloaded",
        action("shelve"),
        _boots_from_volume,
        finally_=_volume_is("reserved"),
    ),
    Scenario(
        "unshelve-of-root-volume",
        "active",
        action("unshelve"),
        _shelved_root,
        finally_=_volume_is("in-use"),
    ),
    Scenario(
        "snapshot-delete-of-what-is-in-use",
        "deleted",
        delete_snapshot,
        _in_use_with_snapshot,
        state=snapshot_state,
    ),
    Scenario(
        "build-with-volumes-fails", "error", _build_with_volumes, options=_CANNOT_BUILD, settles=_BY_ITSELF
    ),
    Scenario("attach-volume", "active", _attach, _with_volume, finally_=_volume_is("in-use", "available")),
    Scenario("detach-volume", "active", _detach, _attached, finally_=_volume_is("in-use", "available")),
    Scenario(
        "swap-volume", "active", _swap, _attached_and_another, finally_=_volume_is("in-use", "available")
    ),
    Scenario("volume-extend-online", "active", _extend_online, _attached, finally_=_guest_sees_it),
    Scenario(
        "volume-upload-of-what-is-in-use",
        "active",
        _upload_in_use,
        _attached,
        settles=OF_A_GIBIBYTE,
        finally_=_uploaded,
    ),
    Scenario(
        "volume-upload-by-guest",
        "active",
        _upload_in_use,
        _attached_and_written,
        settles=OF_A_GIBIBYTE,
        finally_=_uploaded,
    ),
    Scenario("start-with-volume", "active", action("os-start"), _attached_and_off),
    Scenario(
        "attach-volume-heard-late",
        "active",
        heard_late(_attach),
        _with_volume,
        finally_=_volume_is("in-use", "available"),
    ),
    Scenario(
        "attach-volume-fails", "active", _attach, _with_volume, _CANNOT, finally_=_volume_is("available")
    ),
    Scenario(
        "attach-volume-takes-too-long",
        "active",
        _attach,
        _with_volume,
        slow("attach_volume", "action_timeout"),
        finally_=_volume_is("in-use", "available"),
    ),
    Scenario(
        "detach-volume-takes-too-long",
        "active",
        _detach,
        _attached,
        slow("detach_volume", "action_timeout"),
        finally_=_volume_is("in-use", "available"),
    ),
    Scenario(
        "volume-that-left",
        "active",
        _lost,
        _attached,
        settles=_BY_ITSELF,
        finally_=_volume_is("available"),
    ),
    Scenario(
        "volume-that-the-guest-lost",
        "active",
        _lost_by_guest,
        _attached,
        settles=_BY_ITSELF,
        finally_=_volume_is("in-use"),
    ),
]
