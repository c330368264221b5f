"""How a volume comes to a server that exists, leaves it, or is swapped: accepted like every operation, in one
transaction.

The volume is promised (or begins to be let go of) in that transaction. Who accepts it gives it to the host by
a call and waits a little: most are done then, and the next request finds the server idle. How it ends, the
list of the server's actions and the volume's status say, as in Nova.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from functools import partial

import msgspec
import sqlalchemy as sa
from msgspec import structs

from kilonova.bus.base import Bus
from kilonova.config import Config
from kilonova.domain import actions
from kilonova.domain.block_devices import (
    MOST,
    PREFIXES,
    BlockDevice,
    Destination,
    Source,
    attachment_id_of,
    free_name,
)
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, Forbidden, NotFound, Unavailable
from kilonova.domain.hosts import topic
from kilonova.domain.messages import Nothing, Work
from kilonova.domain.servers import BuildSpec, VmState
from kilonova.domain.volumes import VolumeStatus
from kilonova.engine.accept import accept_for_host, record, refuse_busy, refuse_locked, wrong_state
from kilonova.engine.faults import NO_FAULTS, FaultPoints
from kilonova.engine.interfaces import look_again
from kilonova.store import block_devices, hosts, servers
from kilonova.store.database import Database, Row, after_commit
from kilonova.volume.base import VolumeService

DONE_WITHIN = 5.0
"""Seconds for the host to be done with it, before the caller is told that it goes on."""


class Parts(msgspec.Struct, frozen=True):
    """What these functions work with."""

    db: Database
    bus: Bus
    config: Config
    volumes: VolumeService
    faults: FaultPoints = NO_FAULTS


def attach(
    parts: Parts,
    context: RequestContext,
    server_id: str,
    volume_id: str,
    *,
    tag: str | None = None,
    delete_on_termination: bool = False,
    multiattach: bool = True,
    shelved: bool = True,
) -> BlockDevice:
    """One more volume. ``multiattach``: whether one that others may have too is welcome; ``shelved``: whether
    the server may be shelved. On no host the volume is ``in-use`` at once, as in Nova, and comes with its
    next guest.

    NotFound, BadRequest (the volume is not to be had), Conflict, Forbidden (the guest has no room), and
    Unavailable for a host that is down: nothing was done.
    """
    with parts.db.write(durable=True) as conn:
        allowed = _change_in(shelved)
        server = _ready(conn, context, server_id, actions.ATTACH_VOLUME, allowed, for_update=False)
        _check_host(conn, parts, server)
        is_shared = parts.volumes.volume(context, volume_id).multiattach
        if is_shared and not multiattach:
            raise BadRequest("Multiattach volumes are only supported starting with compute API version 2.60.")
        _refuse_offloaded(server, is_shared, tag)
        device = BlockDevice(
            id=str(uuid.uuid4()),
            source_type=Source.VOLUME,
            destination_type=Destination.VOLUME,
            volume_id=volume_id,
            tag=tag,
            delete_on_termination=delete_on_termination,
        )
        attachment_id = attachment_id_of(device)
        device = structs.replace(device, attachment_id=attachment_id)
        _refuse_again(conn, server_id, volume_id)
        parts.volumes.reserve(context, volume_id, server_id, attachment_id)
        # Volumes come before their server in the order of locks (store/database.py): it may have changed.
        if _ready(conn, context, server_id, actions.ATTACH_VOLUME, allowed).host != server.host:
            raise wrong_state(server_id, actions.ATTACH_VOLUME, server)
        _refuse_again(conn, server_id, volume_id)
        device = _with_name(conn, server_id, device)
        position = block_devices.next_position(conn, server_id)
        block_devices.insert(conn, {server_id: [device]}, position)
        work = None
        if server.host is None:
            parts.volumes.complete(attachment_id, device.device_name)
            record(conn, context, server, actions.ATTACH_VOLUME)
        else:
            payload = {"device_id": device.id, "volume_id": volume_id}
            work = _accept(conn, parts, context, server, actions.ATTACH_VOLUME, payload)
    _hand_over(parts, actions.ATTACH_VOLUME, server.host, work)
    return device


def detach(
    parts: Parts, context: RequestContext, server_id: str, volume_id: str, *, shelved: bool = True
) -> None:
    """Take a volume away. Mostly that is done when this returns; the guest may take its time.

    NotFound if the server has no such volume; Forbidden for its root; Conflict.
    """
    with parts.db.write(durable=True) as conn:
        device = _attached(conn, server_id, volume_id)
        if device.is_root:
            raise Forbidden("Cannot detach a root device volume")
        assert device.attachment_id is not None
        allowed = _change_in(shelved)
        host = _ready(conn, context, server_id, actions.DETACH_VOLUME, allowed, for_update=False).host
        is_there = host is not None and _begin_detaching(parts, device.attachment_id)
        if not is_there:
            parts.volumes.release(device.attachment_id)
        server = _ready(conn, context, server_id, actions.DETACH_VOLUME, allowed)
        if server.host != host:
            raise wrong_state(server_id, actions.DETACH_VOLUME, server)
        if _attached(conn, server_id, volume_id).id != device.id:
            raise not_attached(server_id, volume_id)
        work = None
        if is_there:
            payload = {"device_id": device.id, "volume_id": volume_id}
            work = _accept(conn, parts, context, server, actions.DETACH_VOLUME, payload)
        else:
            block_devices.delete(conn, device.id)
            record(conn, context, server, actions.DETACH_VOLUME)
            if host is not None:
                after_commit(conn, partial(look_again, parts.bus, host, server_id))
    _hand_over(parts, actions.DETACH_VOLUME, host, work)


def _begin_detaching(parts: Parts, attachment_id: str) -> bool:
    """False: somebody forced the volume away, and only the server's record still has it."""
    try:
        parts.volumes.begin_detaching(attachment_id)
    except NotFound:
        return False
    return True


def swap(
    parts: Parts,
    context: RequestContext,
    server_id: str,
    volume_id: str,
    new_id: str,
    delete_on_termination: bool | None = None,
) -> None:
    """The guest goes on with the new volume, which will hold all that the other does. What becomes of it when
    the server goes may be said at once.

    NotFound if the server has no such volume; BadRequest: the new one is none, too small or in use; Conflict.
    """
    with parts.db.write(durable=True) as conn:
        device = _attached(conn, server_id, volume_id)
        assert device.attachment_id is not None
        allowed = actions.VOLUMES_SWAP_IN
        server = _ready(conn, context, server_id, actions.SWAP_VOLUME, allowed, for_update=False)
        _check_host(conn, parts, server)
        _check_swap(parts, context, volume_id, new_id)
        attachment_id = str(uuid.uuid4())
        parts.volumes.begin_detaching(device.attachment_id)
        parts.volumes.reserve(context, new_id, server_id, attachment_id)
        if _ready(conn, context, server_id, actions.SWAP_VOLUME, allowed).host != server.host:
            raise wrong_state(server_id, actions.SWAP_VOLUME, server)
        payload = {
            "device_id": device.id,
            "old_volume_id": volume_id,
            "volume_id": new_id,
            "attachment_id": attachment_id,
        }
        if delete_on_termination is not None:
            block_devices.change(conn, device.id, delete_on_termination=delete_on_termination)
        work = _accept(conn, parts, context, server, actions.SWAP_VOLUME, payload)
    _hand_over(parts, actions.SWAP_VOLUME, server.host, work)


def _check_swap(parts: Parts, context: RequestContext, volume_id: str, new_id: str) -> None:
    old = parts.volumes.volume(context, volume_id)
    try:
        new = parts.volumes.volume(context, new_id)
    except NotFound as error:
        raise BadRequest(error.message) from error
    if new.status != VolumeStatus.AVAILABLE:
        raise BadRequest("Invalid volume: New volume must be detached in order to swap.")
    if new.size_gb < old.size_gb:
        raise BadRequest("Invalid volume: New volume must be the same size or larger.")
    if old.multiattach:
        raise BadRequest(
            "Swapping multi-attach volumes with more than one read/write attachment is not supported."
        )


def update(
    parts: Parts, context: RequestContext, server_id: str, volume_id: str, delete_on_termination: bool
) -> None:
    """Whether the volume goes when the server goes. NotFound, Conflict."""
    with parts.db.write() as conn:
        refuse_locked(context, server_id, servers.state(conn, server_id, for_update=True))
        device = _attached(conn, server_id, volume_id)
        block_devices.change(conn, device.id, delete_on_termination=delete_on_termination)


def extended(parts: Parts, server_id: str) -> None:
    """A volume of the server has grown: its host lets the guest see it. If that word is lost, the guest sees
    it when its devices are compared with the record next, or when it starts."""
    with parts.db.read() as conn:
        host = servers.state(conn, server_id).host
    if host is not None:
        look_again(parts.bus, host, server_id)
        parts.faults.reach("refresh_interfaces.ring.after")


def not_attached(server_id: str, volume_id: str) -> NotFound:
    return NotFound(f"Instance {server_id} is not attached to volume {volume_id}")


def _attached(conn: sa.Connection, server_id: str, volume_id: str) -> BlockDevice:
    """NotFound unless the server has it, or will have it soon."""
    device = block_devices.find(conn, server_id, volume_id)
    if device is None or device.attachment_id is None:
        raise not_attached(server_id, volume_id)
    return device


def _refuse_again(conn: sa.Connection, server_id: str, volume_id: str) -> None:
    if block_devices.find(conn, server_id, volume_id) is not None:
        raise BadRequest(f"Invalid volume: volume {volume_id} already attached")


def _with_name(conn: sa.Connection, server_id: str, device: BlockDevice) -> BlockDevice:
    """Forbidden if there is no name, and no room, left."""
    spec = servers.spec(conn, server_id)
    bus = spec.properties.get("hw_disk_bus", "virtio")
    bus = bus if bus in PREFIXES else "virtio"
    taken = [other.device_name for other in block_devices.of_server(conn, server_id)]
    name = free_name(taken + _own_names(spec, bus), bus)
    if not name:
        raise Forbidden(
            f"The maximum allowed number of disk devices ({MOST}) to attach to a single instance has been "
            "exceeded."
        )
    return structs.replace(device, device_name=f"/dev/{name}")


def _own_names(spec: BuildSpec, bus: str) -> list[str]:
    """Of the server's own disks: the hypervisor names them first."""
    if spec.has_block_devices:
        return []  # they are in the table
    is_cd = spec.image is not None and spec.image.disk_format == "iso"
    count = (not is_cd) + len(spec.ephemeral_disks) + (spec.swap_size_mb > 0)
    names: list[str] = []
    for _ in range(count):
        names.append(free_name(names, bus))
    return names


def _check_host(conn: sa.Connection, parts: Parts, server: Row) -> None:
    """If it is on one."""
    if server.host is not None and not hosts.is_up(conn, server.host, parts.config.compute.service_down_time):
        raise Unavailable(f"The host of instance {server.id} does not answer now")


def _refuse_offloaded(server: Row, is_shared: bool, tag: str | None) -> None:
    """What Nova does not promise to a server that is on no host."""
    if server.host is not None:
        return
    if is_shared:
        raise BadRequest("Attaching multiattach volumes is not supported for shelved-offloaded instances.")
    if tag is not None:
        raise BadRequest("Tagged volume attachment is not supported for shelved-offloaded instances.")


def _change_in(shelved: bool) -> frozenset[VmState]:
    return actions.VOLUMES_CHANGE_IN_220 if shelved else actions.VOLUMES_CHANGE_IN


def _ready(
    conn: sa.Connection,
    context: RequestContext,
    server_id: str,
    action: str,
    allowed: frozenset[VmState],
    for_update: bool = True,
) -> Row:
    """The server, locked, if its volumes may change now."""
    server = servers.get(conn, server_id, for_update=for_update)
    refuse_locked(context, server_id, server)
    is_nowhere = server.host is None and server.vm_state != VmState.SHELVED_OFFLOADED
    if server.task_state is not None or server.vm_state not in allowed or is_nowhere:
        raise wrong_state(server_id, action, server)
    refuse_busy(conn, server_id, action)
    return server


def _accept(
    conn: sa.Connection,
    parts: Parts,
    context: RequestContext,
    server: Row,
    action: str,
    payload: dict[str, str],
) -> Work:
    limits = parts.config.operations
    timeout = limits.copy_timeout if action == actions.SWAP_VOLUME else limits.action_timeout
    return accept_for_host(conn, parts.config, context, server, action, timeout, payload)


def _hand_over(parts: Parts, kind: str, host: str | None, work: Work | None) -> None:
    """Returns when the host is done with it, or has not answered in time: the record knows what was done.
    Nothing for a server that is on no host."""
    parts.faults.reach(f"{kind}.accept.after")
    if host is None or work is None:
        return
    with suppress(Unavailable):
        parts.bus.call(topic(host), "change_volumes", work, Nothing, timeout=DONE_WITHIN)
    parts.faults.reach(f"{kind}.call.after")
