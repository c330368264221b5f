"""Volumes, snapshots and attachments as the API shows them, of many at once: what belongs to them comes with
one query a kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.api.http import Request
from kilonova.api.volume import queries
from kilonova.domain.clock import iso8601_micro
from kilonova.domain.volumes import AttachStatus, connection_info
from kilonova.store import volume_attachments, volume_types
from kilonova.store.database import Row
from kilonova.volume.builtin.attachments import known_connection

View = dict[str, Any]


def volumes(conn: sa.Connection, request: Request, rows: Sequence[Row]) -> list[View]:
    """In detail."""
    held = volume_attachments.of_volumes(conn, [row.id for row in rows])
    types = volume_types.every(conn)
    return [_volume(request, row, types, held[row.id]) for row in rows]


def volume(conn: sa.Connection, request: Request, row: Row) -> View:
    return volumes(conn, request, [row])[0]


def written(conn: sa.Connection, request: Request, row: Row) -> View:
    """As the answer to who made or changed it: without what Cinder's extensions add to one that is shown."""
    view = volume(conn, request, row)
    return {name: value for name, value in view.items() if name not in _ADDED}


_ADDED = frozenset(
    {
        "volume_image_metadata",
        "os-vol-tenant-attr:tenant_id",
        "os-vol-host-attr:host",
        "os-vol-mig-status-attr:migstat",
        "os-vol-mig-status-attr:name_id",
    }
)


def volume_summary(request: Request, row: Row) -> View:
    return {"id": row.id, "name": row.name, "links": queries.links(request, "volumes", row.id)}


def _volume(request: Request, row: Row, types: Mapping[str, Row], held: Sequence[Row]) -> View:
    kind = types.get(row.volume_type_id)
    view: View = {
        "id": row.id,
        "status": row.status,
        "size": row.size,
        "availability_zone": row.availability_zone,
        "created_at": iso8601_micro(row.created_at),
        "updated_at": iso8601_micro(row.updated_at),
        "name": row.name,
        "description": row.description,
        "volume_type": None if kind is None else kind.name,
        "snapshot_id": row.snapshot_id,
        "source_volid": row.source_volid,
        "metadata": _shown_metadata(row, held),
        "links": queries.links(request, "volumes", row.id),
        "user_id": row.user_id,
        "bootable": str(bool(row.bootable)).lower(),
        "encrypted": False,
        "replication_status": None,
        "consistencygroup_id": None,
        "multiattach": bool(row.multiattach),
        "attachments": [_in_volume(request, one) for one in held if one.status in _SHOWN],
        "migration_status": row.migration_status,
        "os-vol-tenant-attr:tenant_id": row.project_id,
    }
    if row.image_metadata:
        view["volume_image_metadata"] = row.image_metadata
    if request.context.is_admin:
        view["os-vol-host-attr:host"] = row.host
        view["os-vol-mig-status-attr:migstat"] = row.migration_status
        view["os-vol-mig-status-attr:name_id"] = None
    return view | _newer(request, row)


_SHOWN = (AttachStatus.ATTACHED, AttachStatus.DETACHING)


def _newer(request: Request, row: Row) -> View:
    """What later microversions show."""
    view: View = {}
    if request.at_least(3, 13):
        view["group_id"] = None
    if request.at_least(3, 21) and request.context.is_admin:
        view["provider_id"] = None
    if request.at_least(3, 48):
        # No lock of hosts is needed to connect volumes, whichever target they have.
        view["shared_targets"] = None if request.at_least(3, 69) else False
        view["service_uuid"] = None
    if request.at_least(3, 61) and request.context.is_admin:
        view["cluster_name"] = None
    if request.at_least(3, 63):
        view["volume_type_id"] = row.volume_type_id
    if request.at_least(3, 65):
        view["consumes_quota"] = True
    return view


def _shown_metadata(row: Row, held: Sequence[Row]) -> dict[str, str]:
    """With what Cinder shows there of its own."""
    shown = dict(row.metadata)
    if row.readonly is not None:
        shown["readonly"] = str(bool(row.readonly))
    attached = [one.attach_mode for one in held if one.status in _SHOWN]
    if attached:
        shown["attached_mode"] = attached[0]
    return shown


def sees_hosts(request: Request) -> bool:
    """Hosts' names, and paths on them, are for admins and services, as in Cinder."""
    return request.context.is_admin or request.context.is_service


def _in_volume(request: Request, attachment: Row) -> View:
    return {
        "id": attachment.volume_id,
        "attachment_id": attachment.id,
        "volume_id": attachment.volume_id,
        "server_id": attachment.server_id,
        "host_name": attachment.host if sees_hosts(request) else None,
        "device": attachment.mountpoint,
        "attached_at": iso8601_micro(attachment.attached_at),
    }


def snapshot(request: Request, row: Row, detail: bool = True) -> View:
    view: View = {
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "volume_id": row.volume_id,
        "status": row.status,
        "size": row.size,
        "created_at": iso8601_micro(row.created_at),
        "updated_at": iso8601_micro(row.updated_at),
        "metadata": row.metadata,
    }
    if detail:
        view["os-extended-snapshot-attributes:project_id"] = row.project_id
        view["os-extended-snapshot-attributes:progress"] = "100%" if row.status == "available" else "0%"
    if detail and request.at_least(3, 14):
        view["group_snapshot_id"] = None
    if request.at_least(3, 41):
        view["user_id"] = row.user_id
    if request.at_least(3, 65):
        view["consumes_quota"] = True
    return view


def attachment_summary(row: Row) -> View:
    return {"id": row.id, "volume_id": row.volume_id, "instance": row.server_id, "status": row.status}


def attachment(request: Request, row: Row) -> View:
    """Its connection as it was given last, without what is secret in it."""
    known = known_connection(row) if sees_hosts(request) else None
    info = {} if known is None else connection_info(known) | {"access_mode": row.attach_mode}
    return attachment_summary(row) | {
        "attach_mode": row.attach_mode,
        "attached_at": iso8601_micro(row.attached_at) or "",
        "detached_at": "",
        "connection_info": info,
    }
