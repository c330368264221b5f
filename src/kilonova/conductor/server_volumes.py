"""The volumes of servers, as hosts ask for them: made and promised for builds, and connected.

What is asked twice is done once: the ids of volumes and attachments follow from those of the block devices.
How they come to their ends: server_volume_ends.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import sqlalchemy as sa
from msgspec import structs

from kilonova.conductor.parts import Parts
from kilonova.domain.actions import SWAP_VOLUME
from kilonova.domain.block_devices import (
    AttachedVolume,
    BlockDevice,
    attachment_id_of,
    bus_of,
    volume_id_of,
)
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import (
    BadRequest,
    BuildAborted,
    NotFound,
    QuotaExceeded,
)
from kilonova.domain.hosts import topic
from kilonova.domain.messages import (
    BlockDevices,
    PrepareBlockDevices,
    ServerVolumes,
    VolumeEnded,
    VolumesChanged,
)
from kilonova.domain.servers import BuildSpec
from kilonova.domain.volumes import Connection, Connector, VolumeWork
from kilonova.engine import lease
from kilonova.engine.interfaces import look_again
from kilonova.store import block_devices, operations, servers, volume_snapshots
from kilonova.store.database import Row
from kilonova.store.repeat import repeated
from kilonova.volume.base import HeldVolume, NewVolume


def prepare_block_devices(parts: Parts, message: PrepareBlockDevices) -> BlockDevices:
    """The document's _prep_block_device: volumes that the build makes are begun, then promised to the server;
    when all are there, the ways to them for the host that asks.

    BuildAborted: a volume cannot be made, or is not to be had.
    """
    parts.faults.reach("build.prepare_volumes.before")
    spec, devices, pending = _prepared(parts, message)
    parts.faults.reach("build.prepare_volumes.after")
    if pending:
        return BlockDevices(devices=devices, pending=pending)
    volumes = _connected(
        parts, spec, devices, message.connector.of(message.host), partial(_check_owned, parts, message)
    )
    _complete(parts, message, devices)
    parts.faults.reach("build.connect_volumes.after")
    return BlockDevices(devices=devices, volumes=volumes)


@repeated
def _prepared(parts: Parts, message: PrepareBlockDevices) -> tuple[BuildSpec, list[BlockDevice], list[str]]:
    """One transaction, while the operation is the host's: nobody deletes the server meanwhile."""
    with parts.db.write() as conn:
        work = _owned(conn, message)
        if work.kind != "build":
            raise BadRequest(f"operation {work.id} is a {work.kind}, not a build")
        spec = servers.for_host(conn, work.server_id).spec
        whole = operations.get(conn, work.id)
        context = _owner(whole.request_id if whole is not None else "", spec)
        devices = [_with_volume(conn, device) for device in block_devices.of_server(conn, work.server_id)]
        made = [device for device in devices if device.is_new_volume]
        try:
            parts.volumes.create(context, [_new_volume(device) for device in made])
            ready = parts.volumes.ready([device.volume_id or "" for device in made])
            if ready.failed:
                raise BuildAborted(" ".join(ready.failed.values()))
            if not ready.pending:
                devices = [_promised(conn, parts, context, work.server_id, device) for device in devices]
        except (BadRequest, NotFound, QuotaExceeded) as error:
            raise BuildAborted(error.message) from error
        return spec, devices, ready.pending


def _with_volume(conn: sa.Connection, device: BlockDevice) -> BlockDevice:
    """A volume that the build makes has its id from now on."""
    if not device.is_new_volume or device.volume_id is not None:
        return device
    volume_id = volume_id_of(device)
    block_devices.change(conn, device.id, volume_id=volume_id)
    return structs.replace(device, volume_id=volume_id)


def _new_volume(device: BlockDevice) -> NewVolume:
    return NewVolume(
        id=device.volume_id or "",
        size_gb=device.volume_size or 0,
        volume_type=device.volume_type,
        image=device.image,
        snapshot_id=device.snapshot_id,
    )


def _promised(
    conn: sa.Connection, parts: Parts, context: RequestContext, server_id: str, device: BlockDevice
) -> BlockDevice:
    if device.volume_id is None or device.attachment_id is not None:
        return device
    attachment_id = attachment_id_of(device)
    parts.volumes.reserve(context, device.volume_id, server_id, attachment_id)
    block_devices.change(conn, device.id, attachment_id=attachment_id)
    return structs.replace(device, attachment_id=attachment_id)


@repeated
def _complete(parts: Parts, message: PrepareBlockDevices, devices: Sequence[BlockDevice]) -> None:
    """The volumes are in use, if the build is still the host's."""
    with parts.db.write() as conn:
        _owned(conn, message)
        for device in devices:
            if device.attachment_id is not None:
                parts.volumes.complete(device.attachment_id, device.device_name)


def server_volumes(parts: Parts, message: ServerVolumes) -> BlockDevices:
    """Of a server on the host that asks, whose guest is about to be started: the ways are asked for anew."""
    _check_placed(parts, message)
    parts.faults.reach("server_volumes.check.after")
    with parts.db.read() as conn:
        server = servers.for_host(conn, message.server_id)
        devices = block_devices.of_server(conn, message.server_id)
        held = _held(parts, message.server_id)
    own = [device for device in devices if device.attachment_id in held]  # not what was forced away
    parts.faults.reach("volume_connect.begin.before")
    volumes = _connected(
        parts,
        server.spec,
        own,
        message.connector.of(message.host),
        check_server=partial(_check_placed, parts, message),
    )
    return BlockDevices(devices=devices, volumes=volumes)


@repeated
def _volume_of(parts: Parts, message: PrepareBlockDevices) -> tuple[BuildSpec, BlockDevice]:
    with parts.db.write() as conn:
        work = _owned(conn, message)
        found = operations.get(conn, work.id)
        payload = {} if found is None else found.payload
        devices = block_devices.of_server(conn, work.server_id)
        device = next((one for one in devices if one.id == payload.get("device_id")), None)
        if device is None:
            raise NotFound("The volume left the server.")
        spec = servers.for_host(conn, work.server_id).spec
        return spec, swapped(device, payload) if work.kind == SWAP_VOLUME else device


def swapped(device: BlockDevice, payload: dict[str, str]) -> BlockDevice:
    """As it will be when the guest has the new volume."""
    return structs.replace(device, volume_id=payload["volume_id"], attachment_id=payload["attachment_id"])


def connect_volume(parts: Parts, message: PrepareBlockDevices) -> BlockDevices:
    """The one volume that an attach or a swap brings to the host that asks."""
    spec, device = _volume_of(parts, message)
    parts.faults.reach("volume_connect.begin.before")
    volumes = _connected(
        parts, spec, [device], message.connector.of(message.host), partial(_check_owned, parts, message)
    )
    return BlockDevices(devices=[device], volumes=volumes)


def _connected(
    parts: Parts,
    spec: BuildSpec,
    devices: Sequence[BlockDevice],
    connector: Connector,
    check: Callable[[], object] = lambda: None,
    check_server: Callable[[], object] = lambda: None,
) -> list[AttachedVolume]:
    """Not in a transaction: each is asked of its volume's manager. ``check`` or ``check_server`` raises if
    the host may not have them any more: who asks late must not take them from the host that has them now."""
    held = _held(parts, spec.server_id)
    found = []
    for device in devices:
        if device.attachment_id is not None and device.volume_id is not None:
            connection = parts.volumes.connect(device.attachment_id, connector, check, check_server)
            found.append(_attached(spec, device, connection, held[device.attachment_id]))
    return found


def _held(parts: Parts, server_id: str) -> dict[str, HeldVolume]:
    """By attachment."""
    return {one.attachment_id: one for one in parts.volumes.held(server_id)}


def _check_owned(parts: Parts, message: PrepareBlockDevices) -> None:
    with parts.db.write() as conn:
        _owned(conn, message)


def _check_placed(parts: Parts, message: ServerVolumes) -> None:
    with parts.db.write() as conn:
        if servers.get(conn, message.server_id, for_update=True).host != message.host:
            raise NotFound(f"Instance {message.server_id} is not on {message.host}")


def _attached(
    spec: BuildSpec, device: BlockDevice, connection: Connection, held: HeldVolume
) -> AttachedVolume:
    return AttachedVolume(
        volume_id=held.volume_id,
        connection=connection,
        device_name=device.device_name.removeprefix("/dev/"),
        disk_bus=bus_of(device, spec.properties.get("hw_disk_bus", "virtio")),
        boot_index=device.boot_index,
        shareable=held.multiattach,
        read_only=held.read_only,
    )


def sizes(parts: Parts, conn: sa.Connection, server_id: str) -> dict[str, int]:
    """The volumes that the guest should have now: id → GiB. Of what was forced away it is to let go."""
    held = _held(parts, server_id)
    own = [device.attachment_id for device in block_devices.of_server(conn, server_id)]
    return {held[one].volume_id: held[one].size_gb for one in own if one in held}


def volume_ended(parts: Parts, message: VolumeEnded) -> None:
    """An operation of a volume, or of a snapshot, ended: the hosts that wait for it, or whose guests have the
    volume, hear of that."""
    with parts.db.read() as conn:
        volume_id = message.id
        if message.kind == VolumeWork.SNAPSHOT_CREATE:
            snapshot = volume_snapshots.get(conn, message.id)
            volume_id = volume_id if snapshot is None else snapshot.volume_id
        placed = block_devices.hosts_of_volume(conn, volume_id)
    for server_id, host in placed:
        if message.kind == VolumeWork.EXTEND:
            look_again(parts.bus, host, server_id)
        else:
            parts.bus.cast(topic(host), "volumes_changed", VolumesChanged())


def _owned(conn: sa.Connection, message: PrepareBlockDevices) -> Row:
    return lease.held(conn, message.operation_id, message.epoch, operations.agent(message.host))


def _owner(request_id: str, spec: BuildSpec) -> RequestContext:
    """As whom the build makes its volumes."""
    return RequestContext(
        request_id=request_id,
        user_id=spec.user_id,
        project_id=spec.project_id,
        roles=frozenset({"member"}),
    )
