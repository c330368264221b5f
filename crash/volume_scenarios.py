"""What users ask for of volumes, by themselves and of servers, and what goes wrong with it, one at a time."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.running import until

from crash.cluster import NOT_NOW, OTHER_VOLUMES, Cluster
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

_PATIENCE = 60.0
_OF_A_GIBIBYTE = 180.0
"""Seconds within which a volume is copied into an image, twice."""
Way = Callable[[Cluster, str], None]


# --- volumes by themselves
def volume_state(cluster: Cluster, name: str) -> str:
    return _status(cluster, "volumes", name)


def snapshot_state(cluster: Cluster, name: str) -> str:
    return _status(cluster, "volume_snapshots", name)


def _status(cluster: Cluster, table: str, name: str) -> str:
    """``deleted``: there is none, any more or yet."""
    with cluster.database() as db:
        row = db.execute(f"SELECT status FROM {table} WHERE name = '{name}'").fetchone()
    return row[0] if row is not None else "deleted"


def _id(cluster: Cluster, name: str, table: str = "volumes") -> str:
    with cluster.database() as db:
        row = db.execute(f"SELECT id FROM {table} WHERE name = '{name}'").fetchone()
    assert row is not None, f"{name} was never accepted"
    return str(row[0])


def _ask(cluster: Cluster, method: str, path: str, body: Any = None) -> None:
    """Accepted, or not answered."""
    with suppress(*NOT_NOW):
        status, answer = cluster.ask_volume(method, path, body)
        assert status in (200, 202), answer


def _create(cluster: Cluster, name: str, **more: Any) -> None:
    _ask(cluster, "POST", "/volumes", {"volume": {"name": name, "size": 1, **more}})


def _create_of_image(cluster: Cluster, name: str) -> None:
    _create(cluster, name, imageRef=cluster.image_id)


def _create_of_volume(cluster: Cluster, name: str) -> None:
    _create(cluster, name, source_volid=_id(cluster, _other(name)))


def _create_of_snapshot(cluster: Cluster, name: str) -> None:
    _create(cluster, name, snapshot_id=_id(cluster, _other(name), "volume_snapshots"))


def _delete(cluster: Cluster, name: str) -> None:
    _ask(cluster, "DELETE", f"/volumes/{_id(cluster, name)}?cascade=true")


def _act(verb: str, **said: Any) -> Way:
    def act(cluster: Cluster, name: str) -> None:
        _ask(cluster, "POST", f"/volumes/{_id(cluster, name)}/action", {verb: said})

    return act


def _snapshot(cluster: Cluster, name: str) -> None:
    """Of the volume that belongs to it."""
    body = {"name": name, "volume_id": _id(cluster, _other(name))}
    _ask(cluster, "POST", "/snapshots", {"snapshot": body})


def _delete_snapshot(cluster: Cluster, name: str) -> None:
    _ask(cluster, "DELETE", f"/snapshots/{_id(cluster, name, 'volume_snapshots')}")


def _revert(cluster: Cluster, name: str) -> None:
    snapshot = _id(cluster, _other(name), "volume_snapshots")
    _act("revert", snapshot_id=snapshot)(cluster, name)


def _reimage(cluster: Cluster, name: str) -> None:
    _act("os-reimage", image_id=cluster.image_id)(cluster, name)


def _migrate(cluster: Cluster, name: str) -> None:
    """To the other of the two backends."""
    with cluster.database() as db:
        (host,) = db.execute(f"SELECT host FROM volumes WHERE name = '{name}'").fetchone()
    there = "box@file" if "@other" in host else "box@other"
    _act("os-migrate_volume", host=there)(cluster, name)


def _other(name: str) -> str:
    """What the one of that name is made of, or what is made of it."""
    return f"{name}-other"


def _there(cluster: Cluster, name: str) -> None:
    _create(cluster, name)
    _available(volume_state, cluster, name)


def _other_there(cluster: Cluster, name: str) -> None:
    _there(cluster, _other(name))


def _with_snapshot(cluster: Cluster, name: str) -> None:
    """A volume, and a snapshot of it that has the other name."""
    _there(cluster, name)
    body = {"name": _other(name), "volume_id": _id(cluster, name)}
    _ask(cluster, "POST", "/snapshots", {"snapshot": body})
    _available(snapshot_state, cluster, _other(name))


def _other_with_snapshot(cluster: Cluster, name: str) -> None:
    """A volume of the other name, and a snapshot of it with that name too."""
    _other_there(cluster, name)
    body = {"name": _other(name), "volume_id": _id(cluster, _other(name))}
    _ask(cluster, "POST", "/snapshots", {"snapshot": body})
    _available(snapshot_state, cluster, _other(name))


def _snapshot_there(cluster: Cluster, name: str) -> None:
    _other_there(cluster, name)
    _snapshot(cluster, name)
    _available(snapshot_state, cluster, name)


def _available(state: Callable[[Cluster, str], str], cluster: Cluster, name: str) -> None:
    until(lambda: state(cluster, name) == "available", _PATIENCE, f"{name} to be available")


def _loses(of: Callable[[str], str], *before: Way) -> Way:
    """After that, the bytes of a volume are taken away behind the manager's back."""

    def prepare(cluster: Cluster, name: str) -> None:
        for way in before:
            way(cluster, name)
        volume = _id(cluster, of(name))
        for folder in ("volumes", OTHER_VOLUMES):
            (cluster.state / folder / f"volume-{volume}").unlink(missing_ok=True)
        cluster.lost.add(volume)

    return prepare


def _itself(name: str) -> str:
    return name


def _while_nobody_works(way: Way) -> Way:
    """The manager does not get to it in time."""

    def run(cluster: Cluster, name: str) -> None:
        cluster.services["volume-1"].send(signal.SIGSTOP)
        way(cluster, name)

    return run


def _goes_on(cluster: Cluster, name: str) -> None:
    with suppress(AssertionError):
        until(lambda: volume_state(cluster, name) != "creating", _PATIENCE, f"{name} to end")
    cluster.services["volume-1"].send(signal.SIGCONT)


_TWO_BACKENDS: dict[str, Options] = {
    "volume": {"volume.backends.other": {"driver": "file", "shared": True, "path": OTHER_VOLUMES}}
}
_NO_TIME: dict[str, Options] = {"api": {"volume": {"operation_timeout": 2.0}}}


# --- volumes of servers
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
        "uuid": _id(cluster, _volume_of(server)),
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
    cluster.written_to(_id(cluster, _volume_of(server)))


def _nobody_writes(cluster: Cluster, server: str) -> None:
    cluster.written_to("")
    images_are_clear(cluster, server)


def _in_use_with_snapshot(cluster: Cluster, server: str) -> None:
    """A server's volume has a snapshot, which has the server's name."""
    _attached(cluster, server)
    body = {"name": server, "volume_id": _id(cluster, _volume_of(server))}
    _ask(cluster, "POST", "/snapshots", {"snapshot": body})
    _available(snapshot_state, cluster, server)


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
    _create_of_image(cluster, _volume_of(server))
    _available(volume_state, cluster, _volume_of(server))


def _with_volume(cluster: Cluster, server: str) -> None:
    """A server, and a volume for it."""
    active(cluster, server)
    _there(cluster, _volume_of(server))


def _attach(cluster: Cluster, server: str) -> None:
    body = {"volumeAttachment": {"volumeId": _id(cluster, _volume_of(server))}}
    in_background(cluster, "POST", _attachments(cluster, server), body)


def _detach(cluster: Cluster, server: str) -> None:
    volume = _id(cluster, _volume_of(server))
    in_background(cluster, "DELETE", f"{_attachments(cluster, server)}/{volume}", None)


def _swap(cluster: Cluster, server: str) -> None:
    old, new = _id(cluster, _volume_of(server)), _id(cluster, _other(server))
    body = {"volumeAttachment": {"volumeId": new}}
    in_background(cluster, "PUT", f"{_attachments(cluster, server)}/{old}", body)


def _attached(cluster: Cluster, server: str) -> None:
    _with_volume(cluster, server)
    _attach(cluster, server)
    volume = _volume_of(server)
    until(lambda: volume_state(cluster, volume) == "in-use", _PATIENCE, f"{volume} to be attached")


def _attached_and_another(cluster: Cluster, server: str) -> None:
    _attached(cluster, server)
    _there(cluster, _other(server))


def _attached_and_off(cluster: Cluster, server: str) -> None:
    _attached(cluster, server)
    action("os-stop")(cluster, server)
    until(lambda: state_of(cluster, server) == "stopped", _PATIENCE, f"{server} to stop")


def _extend_online(cluster: Cluster, server: str) -> None:
    _act("os-extend", new_size=2)(cluster, _volume_of(server))


def _guest_sees_it(cluster: Cluster, server: str) -> None:
    """Its host hears of it, or looks by itself when it compares."""
    volume = _id(cluster, _volume_of(server))
    with cluster.database() as db:
        query = f"SELECT host, id FROM servers WHERE name = '{server}'"
        host, ident = db.execute(query).fetchone()

    def sees() -> bool:
        return cluster.volumes_of_guest(host, ident).get(volume) == 2

    until(sees, _PATIENCE, f"the guest to see that {volume} has grown")


def _lost(cluster: Cluster, server: str) -> None:
    """As if it had left the server while the host was away: the record knows nothing of it."""
    volume, ident = _id(cluster, _volume_of(server)), id_of(cluster, server)
    with cluster.database() as db:
        db.execute(f"DELETE FROM block_device_mappings WHERE volume_id = '{volume}'")
        db.commit()
    listed = cluster.ask_volume("GET", f"/attachments?volume_id={volume}")[1]["attachments"]
    for attachment in listed:
        _ask(cluster, "DELETE", f"/attachments/{attachment['id']}")
    with suppress(*NOT_NOW):
        events = {"events": [{"name": "network-changed", "server_uuid": ident}]}
        status, answer = cluster.ask("POST", "/compute/v2.1/os-server-external-events", events)
        assert status == 200, answer


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


def _of_volume(
    name: str, goal: str, run: Way, prepare: Way = lambda _cluster, _name: None, **more: Any
) -> Scenario:
    return Scenario(name, goal, run, prepare, state=volume_state, **more)


VOLUME_SCENARIOS = [
    _of_volume("volume-create", "available", _create),
    _of_volume("volume-create-of-image", "available", _create_of_image),
    _of_volume("volume-create-of-volume", "available", _create_of_volume, _other_there),
    _of_volume("volume-delete", "deleted", _delete, _there),
    Scenario("snapshot-create", "available", _snapshot, _other_there, state=snapshot_state),
    Scenario("snapshot-delete", "deleted", _delete_snapshot, _snapshot_there, state=snapshot_state),
    _of_volume("volume-create-of-snapshot", "available", _create_of_snapshot, _other_with_snapshot),
    _of_volume("volume-delete-with-snapshots", "deleted", _delete, _with_snapshot),
    _of_volume("volume-extend", "available", _act("os-extend", new_size=2), _there),
    _of_volume(
        "volume-upload",
        "available",
        _act("os-volume_upload_image", image_name="i"),
        _there,
        settles=_OF_A_GIBIBYTE,
    ),
    _of_volume("volume-revert", "available", _revert, _with_snapshot),
    _of_volume("volume-reimage", "available", _reimage, _there),
    _of_volume("volume-migrate", "available", _migrate, _there, options=_TWO_BACKENDS),
    _of_volume("volume-migrate-fails", "available", _migrate, _loses(_itself, _there), options=_TWO_BACKENDS),
    _of_volume("volume-create-fails", "error", _create_of_volume, _loses(_other, _other_there)),
    _of_volume(
        "volume-extend-fails",
        "error_extending",
        _act("os-extend", new_size=2),
        _loses(_itself, _there),
    ),
    _of_volume(
        "volume-upload-fails",
        "available",
        _act("os-volume_upload_image", image_name="i"),
        _loses(_itself, _there),
    ),
    Scenario("snapshot-create-fails", "error", _snapshot, _loses(_other, _other_there), state=snapshot_state),
    _of_volume(
        "volume-create-takes-too-long",
        "error",
        _while_nobody_works(_create),
        again=_goes_on,
        options=_NO_TIME,
        late="available",
    ),
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
        "create-image-of-root-volume", "active", create_image, _boots_from_volume, finally_=images_are_clear
    ),
    Scenario("create-image-by-guest", "active", create_image, _written_by_its_guest, finally_=_nobody_writes),
    Scenario(
        "create-image-by-guest-fails",
        "active",
        create_image,
        _written_by_its_guest,
        {"compute": {"fake": {"step_failures": {"copy_volume": 1.0}}}},
        finally_=_nobody_writes,
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
        _delete_snapshot,
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
]
