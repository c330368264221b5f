"""A volume's way to another backend: by a new type (retype), or as an admin says (migrate).

Its bytes are copied by one manager, which works with both backends; then one transaction says that it is
there, and begins to clear away what is left where it was. If it is not to be, what was copied is cleared away
so. As long as anything of it waits to be cleared away on a backend, the volume does not go there.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest
from kilonova.domain.volumes import MigrationStatus, VolumeStatus, VolumeWork
from kilonova.store import operations, volume_attachments, volume_backends, volume_snapshots, volume_types
from kilonova.store import volumes as store
from kilonova.store.database import Row
from kilonova.volume.builtin import copies, quotas
from kilonova.volume.builtin.backends import Choice, is_true, location, serves
from kilonova.volume.builtin.errors import invalid_input, invalid_volume, wrong_status
from kilonova.volume.builtin.parts import Parts
from kilonova.volume.builtin.volumes import find, is_read, owner, set_off

NEVER, ON_DEMAND = "never", "on-demand"


def retype(
    conn: sa.Connection,
    parts: Parts,
    context: RequestContext,
    volume_id: str,
    new_type: str,
    policy: str = NEVER,
) -> None:
    """Give it another type: at once where that type's volumes may be where it is; else it is copied to a
    backend that takes them, if the policy says so. BadRequest, OverQuota."""
    volume = find(conn, context, volume_id, for_update=True)
    if volume.status not in (VolumeStatus.AVAILABLE, VolumeStatus.IN_USE):
        raise invalid_volume(
            f"Retype needs volume to be in available or in-use state, not be part of an active migration or "
            f"a consistency group, requested type has to be different that the one from the volume, "
            f"current status {volume.status}."
        )
    kind = volume_types.find(conn, new_type, owner(context))
    if kind is None:
        raise invalid_input(f"Invalid volume_type passed: {new_type}.")
    if kind.id == volume.volume_type_id:
        raise invalid_input(f"New volume_type same as original: {kind.id}.")
    multiattach = is_true(kind.extra_specs.get("multiattach"))
    if volume.status == VolumeStatus.IN_USE and multiattach != volume.multiattach:
        raise invalid_volume("Multiattach of a volume cannot change while it is in use.")
    there = _backend_of(conn, volume)
    stays = there is not None and serves(there, kind.extra_specs)
    if not stays and policy != ON_DEMAND:
        raise no_valid_backend(
            f"Current host not valid for volume {volume_id} with type {kind.id}, migration not allowed"
        )
    _take_quota(conn, parts, volume, kind)
    if stays:
        store.change(conn, volume_id, volume_type_id=kind.id, multiattach=multiattach)
        volume_snapshots.retype(conn, volume_id, kind.id)
        return
    _check_movable(conn, volume, "retype")
    place = _choose(conn, parts, volume, kind.extra_specs, volume_backends.every(conn))
    if place is None:
        raise no_valid_backend(f"No other backend of the volume's manager takes volumes of type {kind.name}")
    _set_off(conn, parts, context, volume, VolumeStatus.RETYPING, place, kind.id)


def migrate(conn: sa.Connection, parts: Parts, context: RequestContext, volume_id: str, host: str) -> None:
    """Copy it to that backend (``name@backend`` or ``name@backend#pool``), its type staying the same.
    BadRequest."""
    volume = find(conn, context, volume_id, for_update=True)
    found = [one for one in volume_backends.every(conn) if host in (one.host, location(one))]
    if not found:
        raise BadRequest(f"Invalid host: No available service named {host}")
    if location(found[0]) == volume.host:
        raise _not_movable(volume)
    _check_movable(conn, volume, "migrate")
    kind = volume_types.get(conn, volume.volume_type_id)
    assert kind is not None
    place = _choose(conn, parts, volume, kind.extra_specs, found)
    if place is None:
        raise no_valid_backend(f"Cannot place volume {volume_id} on {host}")
    _set_off(conn, parts, context, volume, VolumeStatus.MAINTENANCE, place, None)


def forget(conn: sa.Connection, volume: Row) -> None:
    """How its last move ended. BadRequest while it is on its way."""
    if volume.migration_status == MigrationStatus.MIGRATING:
        raise invalid_volume(f"Volume {volume.id} is being migrated.")
    store.change(conn, volume.id, migration_status=None)


def no_valid_backend(reason: str) -> BadRequest:
    return BadRequest(f"No valid backend was found. {reason}")


def _backend_of(conn: sa.Connection, volume: Row) -> Row | None:
    return next((one for one in volume_backends.every(conn) if location(one) == volume.host), None)


def _take_quota(conn: sa.Connection, parts: Parts, volume: Row, kind: Row) -> None:
    """Of the new type alone: the project has the volume already."""
    quotas.lock(conn, volume.project_id)
    own = quotas.amounts(kind.name, volumes=1, gigabytes=volume.size)
    more = {name: amount for name, amount in own.items() if name not in quotas.COUNTED}
    quotas.check(conn, parts.config, volume.project_id, more)


def _check_movable(conn: sa.Connection, volume: Row, what: str) -> None:
    if volume.status != VolumeStatus.AVAILABLE or volume.host is None:
        raise wrong_status(f"{what} with a copy", volume.id, "available", volume.status)
    if (
        volume_snapshots.of_volume(conn, volume.id)
        or volume_attachments.of_volume(conn, volume.id)
        or is_read(conn, volume.id)
    ):
        raise _not_movable(volume)


def _not_movable(volume: Row) -> BadRequest:
    return invalid_volume(
        f"Volume {volume.id} status must be available, must not be migrating, have snapshots, be replicated, "
        "be part of a group, be what another volume is made of, and destination host/cluster must be "
        "different than the current one"
    )


def _choose(
    conn: sa.Connection, parts: Parts, volume: Row, extra_specs: dict[str, str], among: Sequence[Row]
) -> str | None:
    """The fitting one with the most room, of those that the volume's manager works with; in its zone."""
    manager = volume.host.partition("@")[0]
    near = {
        location(one)
        for one in among
        if location(one) != volume.host
        and one.host.partition("@")[0] == manager
        and operations.open_of_server(conn, copies.copy_id(volume.id, location(one))) is None
    }
    place = Choice(conn, parts.config, near).place(volume.size, extra_specs, volume.availability_zone)
    return None if place is None else place[0]


def _set_off(
    conn: sa.Connection,
    parts: Parts,
    context: RequestContext,
    volume: Row,
    status: VolumeStatus,
    host: str,
    new_type_id: str | None,
) -> None:
    set_off(
        conn,
        parts,
        context,
        volume,
        VolumeWork.MOVE,
        status,
        {"host": host},
        new_host=host,
        new_type_id=new_type_id,
        migration_status=MigrationStatus.MIGRATING,
    )
