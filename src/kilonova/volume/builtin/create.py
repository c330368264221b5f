"""How volumes come to be: checked, counted, given a backend, and begun, all of one request or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, Conflict
from kilonova.domain.servers import ImageRef
from kilonova.domain.volumes import (
    Blank,
    FromImage,
    FromSnapshot,
    FromVolume,
    SnapshotStatus,
    Source,
    VolumeStatus,
    VolumeWork,
)
from kilonova.store import volume_messages, volume_snapshots, volume_types, volumes
from kilonova.store.database import Row
from kilonova.volume.builtin import quotas
from kilonova.volume.builtin.backends import NO_BACKEND, Choice, is_true
from kilonova.volume.builtin.errors import (
    invalid_input,
    invalid_snapshot,
    snapshot_not_found,
    volume_not_found,
    wrong_status,
)
from kilonova.volume.builtin.parts import Parts, begin

GIB = 1 << 30


class NewRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A volume to be, with its type found and its source checked."""

    id: str
    name: str | None
    description: str | None
    size_gb: int
    kind: Row
    """Its type."""
    zone: str | None
    source: Source
    host: str | None = None
    """Its source's, where it must be too."""
    bootable: bool = False
    metadata: dict[str, str] = {}
    image_metadata: dict[str, str] = {}


def create(conn: sa.Connection, parts: Parts, context: RequestContext, new: Sequence[NewRecord]) -> list[str]:
    """Write them, each with its operation. OverQuota, Conflict (an id is taken): none was.

    The ids of those that no backend takes: they are in error, and say so.
    """
    assert context.project_id is not None
    _take_quota(conn, parts, context.project_id, new)
    choice, nowhere = Choice(conn, parts.config), []
    zones = choice.zones() | {parts.config.default_availability_zone}
    for one in new:
        if one.zone is not None and one.zone not in zones:
            raise invalid_input(f"Availability zone '{one.zone}' is invalid.")
        if one.host is not None:
            if not choice.follow(one.host, one.kind.extra_specs):
                raise invalid_input(
                    "Invalid volume_type provided: (requested type is not compatible; recommend omitting the "
                    "type argument)."
                )
            place: tuple[str, str] | None = (one.host, one.zone or parts.config.default_availability_zone)
        else:
            place = choice.place(one.size_gb, one.kind.extra_specs, one.zone)
        _write(conn, parts, context, one, place)
        if place is None:
            nowhere.append(one.id)
    return nowhere


def _take_quota(conn: sa.Connection, parts: Parts, project_id: str, new: Sequence[NewRecord]) -> None:
    quotas.lock(conn, project_id)
    more: Counter[str] = Counter()
    for one in new:
        more += quotas.amounts(one.kind.name, volumes=1, gigabytes=one.size_gb)
    quotas.check(conn, parts.config, project_id, more, max((one.size_gb for one in new), default=0))


def _write(
    conn: sa.Connection,
    parts: Parts,
    context: RequestContext,
    one: NewRecord,
    place: tuple[str, str] | None,
) -> None:
    host, zone = place or (None, one.zone or parts.config.default_availability_zone)
    source, project_id = one.source, context.project_id
    assert project_id is not None
    row = {
        "id": one.id,
        "project_id": project_id,
        "user_id": context.user_id,
        "name": one.name,
        "description": one.description,
        "status": VolumeStatus.CREATING if host is not None else VolumeStatus.ERROR,
        "message": None if host is not None else NO_BACKEND,
        "size": one.size_gb,
        "volume_type_id": one.kind.id,
        "availability_zone": zone,
        "host": host,
        "bootable": one.bootable,
        "multiattach": is_true(one.kind.extra_specs.get("multiattach")),
        "image_id": source.image.id if isinstance(source, FromImage) else None,
        "snapshot_id": source.snapshot_id if isinstance(source, FromSnapshot) else None,
        "source_volid": source.volume_id if isinstance(source, FromVolume) else None,
        "metadata": one.metadata,
        "image_metadata": one.image_metadata,
        "created_at": now(),
    }
    if not volumes.insert(conn, row):
        raise Conflict(f"There is a volume {one.id} already.")
    if host is None:
        made = volumes.get(conn, one.id)
        assert made is not None
        volume_messages.insert(conn, "VOLUME", made, context.request_id, "VOLUME_VOLUME_001_003", NO_BACKEND)
        return
    payload = {"source": source}
    begin(conn, parts, context, VolumeWork.CREATE, one.id, project_id, host, payload)


# --- what a new volume is made of


def from_image(image: ImageRef, size_gb: int) -> tuple[FromImage, dict[str, str]]:
    """The source, and what the volume remembers of it. BadRequest: the volume is too small."""
    virtual = -(-max(image.virtual_size or 0, image.size if image.disk_format == "raw" else 0) // GIB)
    if virtual > size_gb:
        raise invalid_input(f"Size of specified image {virtual}GB is larger than volume size {size_gb}GB.")
    if image.min_disk > size_gb:
        raise invalid_input(
            f"Volume size {size_gb}GB cannot be smaller than the image minDisk size {image.min_disk}GB."
        )
    return FromImage(image=image), image_metadata(image)


def image_metadata(image: ImageRef) -> dict[str, str]:
    """As Cinder keeps it of an image (volume_glance_metadata)."""
    known = {
        "image_id": image.id,
        "image_name": image.name,
        "container_format": image.container_format,
        "disk_format": image.disk_format,
        "min_disk": str(image.min_disk),
        "min_ram": str(image.min_ram),
        "size": str(image.size),
    }
    return {**image.properties, **known}


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """Of a volume or a snapshot that a new volume is made of: what the new one takes over."""

    source: Source
    size_gb: int
    volume_type_id: str
    host: str
    zone: str
    bootable: bool
    image_metadata: Mapping[str, str]


def from_snapshot(
    conn: sa.Connection, project_id: str | None, snapshot_id: str, size_gb: int | None
) -> Copied:
    """NotFound; BadRequest if it cannot be used now, or the volume would be too small for it. It stays as it
    is until the transaction ends."""
    snapshot = volume_snapshots.get(conn, snapshot_id, project_id, for_update=True)
    if snapshot is None:
        raise snapshot_not_found(snapshot_id)
    if snapshot.status != SnapshotStatus.AVAILABLE:
        raise invalid_snapshot(
            f"Originating snapshot status must be one of 'available' values, not {snapshot.status}"
        )
    volume = volumes.get(conn, snapshot.volume_id)
    if volume is None:
        raise snapshot_not_found(snapshot_id)
    size = snapshot.size if size_gb is None else size_gb
    if size < snapshot.size:
        raise invalid_input(
            f"Volume size '{size}'GB cannot be smaller than the snapshot size {snapshot.size}GB. "
            "They must be >= original snapshot size."
        )
    return Copied(
        source=FromSnapshot(snapshot_id=snapshot_id, volume_id=snapshot.volume_id),
        size_gb=size,
        volume_type_id=snapshot.volume_type_id,
        host=volume.host,
        zone=volume.availability_zone,
        bootable=snapshot.bootable,
        image_metadata=snapshot.image_metadata,
    )


_COPIED_IN = (VolumeStatus.AVAILABLE, VolumeStatus.IN_USE)


def from_volume(conn: sa.Connection, project_id: str | None, volume_id: str, size_gb: int | None) -> Copied:
    """The same of a volume."""
    volume = volumes.get(conn, volume_id, project_id, for_update=True)
    if volume is None:
        raise volume_not_found(volume_id)
    if volume.status not in _COPIED_IN or volume.host is None:
        raise wrong_status("copy it", volume_id, "available or in-use", volume.status)
    size = volume.size if size_gb is None else size_gb
    if size < volume.size:
        raise invalid_input(
            f"Volume size '{size}'GB cannot be smaller than original volume size {volume.size}GB. "
            "They must be >= original volume size."
        )
    return Copied(
        source=FromVolume(volume_id=volume_id),
        size_gb=size,
        volume_type_id=volume.volume_type_id,
        host=volume.host,
        zone=volume.availability_zone,
        bootable=volume.bootable,
        image_metadata=volume.image_metadata,
    )


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants: of image, snapshot and volume at most one."""

    id: str
    name: str | None = None
    description: str | None = None
    size_gb: int | None = None
    volume_type: str | None = None
    zone: str | None = None
    image: ImageRef | None = None
    snapshot_id: str | None = None
    source_volid: str | None = None
    metadata: dict[str, str] = {}


def record(conn: sa.Connection, parts: Parts, context: RequestContext, kind: Row, asked: Asked) -> NewRecord:
    """``kind``: the type that it gets if it is not its source's and none was asked for."""
    owner = None if context.is_admin else context.project_id
    values: dict[str, Any] = {
        "id": asked.id,
        "name": asked.name,
        "description": asked.description,
        "metadata": asked.metadata,
    }
    if asked.snapshot_id is None and asked.source_volid is None:
        if asked.size_gb is None:
            raise BadRequest("Invalid input received: Invalid volume size provided for create request: None")
        source: Source = Blank()
        remembered: dict[str, str] = {}
        if asked.image is not None:
            source, remembered = from_image(asked.image, asked.size_gb)
        return NewRecord(
            size_gb=asked.size_gb,
            kind=kind,
            zone=asked.zone,
            source=source,
            bootable=asked.image is not None,
            image_metadata=remembered,
            **values,
        )
    if asked.snapshot_id is not None:
        copied = from_snapshot(conn, owner, asked.snapshot_id, asked.size_gb)
    else:
        assert asked.source_volid is not None
        copied = from_volume(conn, owner, asked.source_volid, asked.size_gb)
    if asked.zone is not None and asked.zone != copied.zone:
        raise invalid_input("Volume must be in the same availability zone as its source.")
    own = kind if asked.volume_type is not None else volume_types.get(conn, copied.volume_type_id)
    return NewRecord(
        size_gb=copied.size_gb,
        kind=own or kind,
        zone=copied.zone,
        source=copied.source,
        host=copied.host,
        bootable=copied.bootable,
        image_metadata=dict(copied.image_metadata),
        **values,
    )
