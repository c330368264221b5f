"""What users ask for of volumes by themselves, and what goes wrong with it, one at a time."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.running import until

from crash.cluster import NOT_NOW, OTHER_VOLUMES, TWO_BACKENDS, Cluster
from crash.scenarios import Options, Scenario

PATIENCE = 60.0
OF_A_GIBIBYTE = 180.0
"""Seconds within which a volume is copied into an image, twice."""
Way = Callable[[Cluster, str], None]


def volume_state(cluster: Cluster, name: str) -> str:
    return _status(cluster, "volumes", name)


def snapshot_state(cluster: Cluster, name: str) -> str:
    return _status(cluster, "volume_snapshots", name)


def _status(cluster: Cluster, table: str, name: str) -> str:
    """``deleted``: there is none, any more or yet."""
    with cluster.database() as db:
        row = db.execute(f"SELECT status FROM {table} WHERE name = '{name}'").fetchone()
    return row[0] if row is not None else "deleted"


def id_of_volume(cluster: Cluster, name: str, table: str = "volumes") -> str:
    with cluster.database() as db:
        row = db.execute(f"SELECT id FROM {table} WHERE name = '{name}'").fetchone()
    assert row is not None, f"{name} was never accepted"
    return str(row[0])


def ask(cluster: Cluster, method: str, path: str, body: Any = None) -> None:
    """Accepted, or not answered."""
    with suppress(*NOT_NOW):
        status, answer = cluster.ask_volume(method, path, body)
        assert status in (200, 202), answer


def _create(cluster: Cluster, name: str, **more: Any) -> None:
    ask(cluster, "POST", "/volumes", {"volume": {"name": name, "size": 1, **more}})


def create_of_image(cluster: Cluster, name: str) -> None:
    _create(cluster, name, imageRef=cluster.image_id)


def _create_of_volume(cluster: Cluster, name: str) -> None:
    _create(cluster, name, source_volid=id_of_volume(cluster, other(name)))


def _create_of_snapshot(cluster: Cluster, name: str) -> None:
    _create(cluster, name, snapshot_id=id_of_volume(cluster, other(name), "volume_snapshots"))


def _delete(cluster: Cluster, name: str) -> None:
    ask(cluster, "DELETE", f"/volumes/{id_of_volume(cluster, name)}?cascade=true")


def act(verb: str, **said: Any) -> Way:
    def run(cluster: Cluster, name: str) -> None:
        ask(cluster, "POST", f"/volumes/{id_of_volume(cluster, name)}/action", {verb: said})

    return run


def _snapshot(cluster: Cluster, name: str) -> None:
    """Of the volume that belongs to it."""
    body = {"name": name, "volume_id": id_of_volume(cluster, other(name))}
    ask(cluster, "POST", "/snapshots", {"snapshot": body})


def delete_snapshot(cluster: Cluster, name: str) -> None:
    ask(cluster, "DELETE", f"/snapshots/{id_of_volume(cluster, name, 'volume_snapshots')}")


def _revert(cluster: Cluster, name: str) -> None:
    snapshot = id_of_volume(cluster, other(name), "volume_snapshots")
    act("revert", snapshot_id=snapshot)(cluster, name)


def _reimage(cluster: Cluster, name: str) -> None:
    act("os-reimage", image_id=cluster.image_id)(cluster, name)


def _migrate(cluster: Cluster, name: str) -> None:
    """To the other of the two backends."""
    act("os-migrate_volume", host=f"box@{_elsewhere(cluster, name)}")(cluster, name)


def _elsewhere(cluster: Cluster, name: str) -> str:
    """That one's name."""
    with cluster.database() as db:
        (host,) = db.execute(f"SELECT host FROM volumes WHERE name = '{name}'").fetchone()
    return "file" if "@other" in host else "other"


def _there_and_a_type(cluster: Cluster, name: str) -> None:
    """The type, of the volume's own name, is for the other of the two backends."""
    there(cluster, name)
    specs = {"volume_backend_name": _elsewhere(cluster, name)}
    ask(cluster, "POST", "/types", {"volume_type": {"name": name, "extra_specs": specs}})


def _retype(cluster: Cluster, name: str) -> None:
    act("os-retype", new_type=name, migration_policy="on-demand")(cluster, name)


def _is_of_its_type(cluster: Cluster, name: str) -> None:
    """And there; the type goes again, for it is nobody's any more when the volume has gone."""
    (found,) = [one for one in cluster.volumes() if one["name"] == name]
    at = found["os-vol-host-attr:host"]
    assert (found["volume_type"], found["migration_status"]) == (name, "success"), found
    assert f"@{_type_of(cluster, name)}#" in at, f"{at} is not where its type is"


def _type_of(cluster: Cluster, name: str) -> str:
    """The backend that volumes of a type are on."""
    (found,) = [one for one in cluster.ask_volume("GET", "/types")[1]["volume_types"] if one["name"] == name]
    return str(found["extra_specs"]["volume_backend_name"])


def _offer(cluster: Cluster, name: str) -> str:
    """To another project: the key that takes it; the same one if it is asked for again."""
    headers = {"OpenStack-API-Version": "volume 3.70", "Idempotency-Key": f'"{name}"'}
    body = {"transfer": {"volume_id": id_of_volume(cluster, name)}}
    status, answer = cluster.ask_any("POST", "/volume/v3/volume-transfers", body, headers)
    assert status == 202, answer
    return f"{answer['transfer']['id']} {answer['transfer']['auth_key']}"


def _offered(cluster: Cluster, name: str) -> None:
    with suppress(*NOT_NOW):
        _offer(cluster, name)


def _taken(cluster: Cluster, name: str) -> None:
    """The answer with its key was perhaps lost."""
    offer, key = _offer(cluster, name).split()
    status, answer = cluster.ask_volume(
        "POST", f"/volume-transfers/{offer}/accept", {"accept": {"auth_key": key}}
    )
    assert status == 202, answer


def other(name: str) -> str:
    """What the one of that name is made of, or what is made of it."""
    return f"{name}-other"


def there(cluster: Cluster, name: str) -> None:
    _create(cluster, name)
    available(volume_state, cluster, name)


def _other_there(cluster: Cluster, name: str) -> None:
    there(cluster, other(name))


def _with_snapshot(cluster: Cluster, name: str) -> None:
    """A volume, and a snapshot of it that has the other name."""
    there(cluster, name)
    body = {"name": other(name), "volume_id": id_of_volume(cluster, name)}
    ask(cluster, "POST", "/snapshots", {"snapshot": body})
    available(snapshot_state, cluster, other(name))


def _other_with_snapshot(cluster: Cluster, name: str) -> None:
    """A volume of the other name, and a snapshot of it with that name too."""
    _other_there(cluster, name)
    body = {"name": other(name), "volume_id": id_of_volume(cluster, other(name))}
    ask(cluster, "POST", "/snapshots", {"snapshot": body})
    available(snapshot_state, cluster, other(name))


def _snapshot_there(cluster: Cluster, name: str) -> None:
    _other_there(cluster, name)
    _snapshot(cluster, name)
    available(snapshot_state, cluster, name)


def available(state: Callable[[Cluster, str], str], cluster: Cluster, name: str) -> None:
    until(lambda: state(cluster, name) == "available", PATIENCE, f"{name} to be available")


def _loses(of: Callable[[str], str], *before: Way) -> Way:
    """After that, the bytes of a volume are taken away behind the manager's back."""

    def prepare(cluster: Cluster, name: str) -> None:
        for way in before:
            way(cluster, name)
        volume = id_of_volume(cluster, of(name))
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
        until(lambda: volume_state(cluster, name) != "creating", PATIENCE, f"{name} to end")
    cluster.services["volume-1"].send(signal.SIGCONT)


_TWO_BACKENDS: dict[str, Options] = {"volume": TWO_BACKENDS}
_NO_TIME: dict[str, Options] = {"api": {"volume": {"operation_timeout": 2.0}}}


def _of_volume(
    name: str, goal: str, run: Way, prepare: Way = lambda _cluster, _name: None, **more: Any
) -> Scenario:
    return Scenario(name, goal, run, prepare, state=volume_state, **more)


VOLUME_SCENARIOS = [
    _of_volume("volume-create", "available", _create),
    _of_volume("volume-create-of-image", "available", create_of_image),
    _of_volume("volume-create-of-volume", "available", _create_of_volume, _other_there),
    _of_volume("volume-delete", "deleted", _delete, there),
    Scenario("snapshot-create", "available", _snapshot, _other_there, state=snapshot_state),
    Scenario("snapshot-delete", "deleted", delete_snapshot, _snapshot_there, state=snapshot_state),
    _of_volume("volume-create-of-snapshot", "available", _create_of_snapshot, _other_with_snapshot),
    _of_volume("volume-delete-with-snapshots", "deleted", _delete, _with_snapshot),
    _of_volume("volume-extend", "available", act("os-extend", new_size=2), there),
    _of_volume(
        "volume-upload",
        "available",
        act("os-volume_upload_image", image_name="i"),
        there,
        settles=OF_A_GIBIBYTE,
    ),
    _of_volume("volume-revert", "available", _revert, _with_snapshot),
    _of_volume("volume-reimage", "available", _reimage, there),
    _of_volume("volume-migrate", "available", _migrate, there, options=_TWO_BACKENDS),
    _of_volume(
        "volume-retype",
        "available",
        _retype,
        _there_and_a_type,
        options=_TWO_BACKENDS,
        finally_=_is_of_its_type,
    ),
    _of_volume("volume-transfer", "available", _offered, there, again=_taken),
    _of_volume("volume-migrate-fails", "available", _migrate, _loses(_itself, there), options=_TWO_BACKENDS),
    _of_volume("volume-create-fails", "error", _create_of_volume, _loses(other, _other_there)),
    _of_volume(
        "volume-extend-fails",
        "error_extending",
        act("os-extend", new_size=2),
        _loses(_itself, there),
    ),
    _of_volume(
        "volume-upload-fails",
        "available",
        act("os-volume_upload_image", image_name="i"),
        _loses(_itself, there),
    ),
    Scenario("snapshot-create-fails", "error", _snapshot, _loses(other, _other_there), state=snapshot_state),
    _of_volume(
        "volume-create-takes-too-long",
        "error",
        _while_nobody_works(_create),
        again=_goes_on,
        options=_NO_TIME,
        late="available",
    ),
]
