"""The actions by which volumes were attached before there were attachments (3.27): hosts by themselves, such
as Ironic's or Cinder's own client, still speak them."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.api.http import Reply, Request, Version
from kilonova.api.volume import policy
from kilonova.api.volume.compute_use import refuse_if_used
from kilonova.api.volume.connectors import ConnectorBody, connector_of
from kilonova.api.volume.state import VolumeAPI
from kilonova.domain.errors import BadRequest
from kilonova.domain.volumes import AttachStatus, VolumeStatus, connection_info
from kilonova.store import volume_attachments
from kilonova.store import volumes as store
from kilonova.store.database import Row
from kilonova.volume.builtin import attachments as rules
from kilonova.volume.builtin.errors import invalid_volume
from kilonova.volume.builtin.volumes import find


class Nothing(msgspec.Struct, frozen=True):
    """``{}``"""


class Attach(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    mountpoint: str
    instance_uuid: str | None = None
    host_name: str | None = None
    mode: str = "rw"


class Detach(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    attachment_id: str | None = None


class ForceDetach(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    attachment_id: str | None = None
    connector: dict[str, Any] | None = None


class Connect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    connector: ConnectorBody


class Disconnect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    connector: ConnectorBody | None
    force: bool = False


def reserve(api: VolumeAPI, request: Request, volume_id: str, _asked: Nothing) -> Reply:
    with api.db.write() as conn:
        volume = find(conn, request.context, volume_id, for_update=True)
        if volume.status != VolumeStatus.AVAILABLE:
            raise invalid_volume(
                f"Volume status must be available to reserve, but the status is {volume.status}."
            )
        store.change(conn, volume_id, status=VolumeStatus.ATTACHING)
    return Reply(202)


def unreserve(api: VolumeAPI, request: Request, volume_id: str, _asked: Nothing) -> Reply:
    with api.db.write() as conn:
        volume = find(conn, request.context, volume_id, for_update=True)
        if volume.status == VolumeStatus.ATTACHING:
            rules.settle(conn, volume)
    return Reply(202)


def attach(api: VolumeAPI, request: Request, volume_id: str, asked: Attach) -> Reply:
    """The volume is there already; this says so."""
    if (asked.instance_uuid is None) == (asked.host_name is None):
        raise BadRequest("Invalid input received: either instance_uuid or host_name must be given.")
    if asked.mode not in ("rw", "ro"):
        raise BadRequest("Invalid input received: mode must be rw or ro.")
    with api.db.write() as conn:
        volume = find(conn, request.context, volume_id, for_update=True)
        if volume.status == VolumeStatus.ATTACHING and not volume_attachments.of_volume(conn, volume_id):
            store.change(conn, volume_id, status=VolumeStatus.AVAILABLE)
        if volume.readonly and asked.mode == "rw":
            raise invalid_volume(f"Volume {volume_id} is readonly: it cannot be attached in mode rw.")
        attachment_id = rules.reserve(conn, request.context, volume_id, asked.instance_uuid, mode=asked.mode)
        if asked.host_name is not None:
            volume_attachments.change(conn, attachment_id, host=asked.host_name)
        rules.complete(conn, attachment_id, asked.mountpoint)
    return Reply(202)


def detach(api: VolumeAPI, request: Request, volume_id: str, asked: Detach) -> Reply:
    """Nothing if nobody has it, as in Cinder."""
    with api.db.write() as conn:
        attachment = _which(conn, request, volume_id, asked.attachment_id)
        if attachment is None:
            return Reply(202)
        refuse_if_used(conn, request.context, attachment)
        rules.release(conn, api.parts, attachment.id, request_id=request.request_id)
    return Reply(202)


def force_detach(api: VolumeAPI, request: Request, volume_id: str, asked: ForceDetach) -> Reply:
    """Of a volume in an error, too: it is what its attachments say then."""
    policy.require_admin(request.context, "volume_extension:volume_admin_actions:force_detach")
    reply = detach(api, request, volume_id, Detach(attachment_id=asked.attachment_id))
    with api.db.write() as conn:
        find(conn, request.context, volume_id, for_update=True)
        status = rules.status_of(volume_attachments.of_volume(conn, volume_id))
        store.change_if(conn, volume_id, [VolumeStatus.ERROR], status=status)
    return reply


def _which(conn: sa.Connection, request: Request, volume_id: str, attachment_id: str | None) -> Row | None:
    """The one that was named, or the only one, if there is one."""
    find(conn, request.context, volume_id)
    held = volume_attachments.of_volume(conn, volume_id)
    if attachment_id is not None:
        held = [one for one in held if one.id == attachment_id]
        if not held:
            rules.find(conn, request.context, attachment_id)
            raise BadRequest("Invalid input received: Mismatched volume and attachment.")
    if len(held) > 1:
        raise invalid_volume("Detach volume failed: More than one attachment, but no attachment_id provided.")
    return held[0] if held else None


def begin_detaching(api: VolumeAPI, request: Request, volume_id: str, _asked: Nothing) -> Reply:
    with api.db.write() as conn:
        volume = find(conn, request.context, volume_id, for_update=True)
        held = volume_attachments.of_volume(conn, volume_id)
        if volume.status != VolumeStatus.IN_USE or not held:
            raise invalid_volume(
                f"Unable to detach volume. Volume status must be 'in-use' and attach_status must be "
                f"'attached' to detach. Currently: status: '{volume.status}'."
            )
        if len(held) == 1:
            rules.begin_detaching(conn, held[0].id)
    return Reply(202)


def roll_detaching(api: VolumeAPI, request: Request, volume_id: str, _asked: Nothing) -> Reply:
    with api.db.write() as conn:
        find(conn, request.context, volume_id, for_update=True)
        for attachment in volume_attachments.of_volume(conn, volume_id):
            rules.roll_detaching(conn, attachment.id)
    return Reply(202)


def initialize_connection(api: VolumeAPI, request: Request, volume_id: str, asked: Connect) -> Reply:
    """The way there, kept in an attachment of the host's if the volume has none for a server."""
    connector = connector_of(asked.connector)
    with api.db.write() as conn:
        volume = find(conn, request.context, volume_id, for_update=True)
        mine = [one for one in volume_attachments.of_volume(conn, volume_id) if one.host == connector.host]
        if mine:
            attachment_id = mine[0].id
        else:
            if volume.status == VolumeStatus.ATTACHING:
                store.change(conn, volume_id, status=VolumeStatus.AVAILABLE)
            attachment_id = rules.reserve(conn, request.context, volume_id, None)
    info = connection_info(rules.connect(api.parts, attachment_id, connector))
    kind = info.pop("driver_volume_type")
    data = {**info, "access_mode": "rw", "encrypted": False}
    return Reply(body={"connection_info": {"driver_volume_type": kind, "data": data}})


def terminate_connection(api: VolumeAPI, request: Request, volume_id: str, asked: Disconnect) -> Reply:
    """Conflict, whatever the connector is, for a volume that a server has."""
    with api.db.write() as conn:
        find(conn, request.context, volume_id)
        held = volume_attachments.of_volume(conn, volume_id)
        for attachment in held:
            refuse_if_used(conn, request.context, attachment)
        host = None if asked.connector is None else connector_of(asked.connector).host
        for attachment in held:
            unused = attachment.status in (AttachStatus.RESERVED, AttachStatus.ATTACHING)
            if attachment.server_id is None and unused and host in (None, attachment.host):
                rules.release(conn, api.parts, attachment.id, request_id=request.request_id)
    return Reply(202)


ACTIONS: dict[str, tuple[type[msgspec.Struct], Any, Version | None]] = {
    "os-reserve": (Nothing, reserve, None),
    "os-unreserve": (Nothing, unreserve, None),
    "os-attach": (Attach, attach, None),
    "os-detach": (Detach, detach, None),
    "os-force_detach": (ForceDetach, force_detach, None),
    "os-begin_detaching": (Nothing, begin_detaching, None),
    "os-roll_detaching": (Nothing, roll_detaching, None),
    "os-initialize_connection": (Connect, initialize_connection, None),
    "os-terminate_connection": (Disconnect, terminate_connection, None),
}
