"""/servers/{id}/os-volume_attachments: the volumes of a server, shown, attached, swapped and detached.

An attachment is known by its volume's id.
"""

from __future__ import annotations

from typing import Annotated, Any, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kilonova.api.compute import microversions, policy, queries
from kilonova.api.compute import server_fields as fields
from kilonova.api.compute.create_devices import MULTIATTACH_SINCE
from kilonova.api.compute.server_access import find
from kilonova.api.compute.server_fields import Tag
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.compute.turns import Turns
from kilonova.api.http import Reply, Request, Route, Version
from kilonova.domain.block_devices import BlockDevice
from kilonova.domain.errors import BadRequest
from kilonova.engine import server_volumes
from kilonova.store import block_devices, servers

_turns = Turns()
"""Attaches of one server wait for each other: clients ask for several at once (Terraform does)."""
_STRICT_LIST: Version = (2, 75)
_SHELVED_SINCE: Version = (2, 20)
"""Volumes of shelved servers change."""

DevicePath = Annotated[str, Meta(max_length=255, pattern=r"(^/dev/x{0,1}[a-z]{0,1}d{0,1})([a-z]+)[0-9]*\Z")]


class Attachment(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``device`` is taken, and not obeyed: a guest names its disks itself."""

    volume_id: str = msgspec.field(name="volumeId")
    device: DevicePath | None = None
    tag = cast("str | None", None)
    delete_on_termination = cast("bool | str", False)

    def __post_init__(self) -> None:
        self.volume_id = fields.uuid("volumeId", self.volume_id)


class TaggedAttachment(Attachment, forbid_unknown_fields=True, kw_only=True):
    """Since 2.49."""

    tag: Tag | None = None


class EndingAttachment(TaggedAttachment, forbid_unknown_fields=True, kw_only=True):
    """Since 2.79."""

    delete_on_termination: bool | str = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.delete_on_termination = fields.truth("delete_on_termination", self.delete_on_termination)


class Update(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    volume_id: str = msgspec.field(name="volumeId")
    device = cast("str | UnsetType | None", UNSET)
    tag = cast("str | UnsetType | None", UNSET)
    delete_on_termination = cast("bool | str | UnsetType", UNSET)
    server_id = cast("str | UnsetType", UNSET)
    id = cast("str | UnsetType", UNSET)

    def __post_init__(self) -> None:
        self.volume_id = fields.uuid("volumeId", self.volume_id)
        if self.delete_on_termination is not UNSET:
            self.delete_on_termination = fields.truth("delete_on_termination", self.delete_on_termination)


class Update285(Update, forbid_unknown_fields=True, kw_only=True):
    """What the attachment shows may be said; only delete_on_termination may be new."""

    device: DevicePath | UnsetType | None = UNSET
    tag: Tag | UnsetType = UNSET
    delete_on_termination: bool | str | UnsetType = UNSET
    server_id: str | UnsetType = msgspec.field(name="serverId", default=UNSET)
    id: str | UnsetType = UNSET


class Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    attachment: Attachment = msgspec.field(name="volumeAttachment")


class TaggedBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    attachment: TaggedAttachment = msgspec.field(name="volumeAttachment")


class EndingBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    attachment: EndingAttachment = msgspec.field(name="volumeAttachment")


class UpdateBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    attachment: Update = msgspec.field(name="volumeAttachment")


class UpdateBody285(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    attachment: Update285 = msgspec.field(name="volumeAttachment")


_BODIES: dict[Version, type[Body] | type[TaggedBody] | type[EndingBody]] = {
    (2, 1): Body,
    (2, 49): TaggedBody,
    (2, 79): EndingBody,
}
_UPDATES: dict[Version, type[UpdateBody] | type[UpdateBody285]] = {
    (2, 1): UpdateBody,
    (2, 85): UpdateBody285,
}


def listed(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    queries.check(request, ("limit", "offset"), _STRICT_LIST)
    offset, limit = _offset(request), queries.limit(request)
    with api.db.read() as conn:
        servers.get(conn, server_id, policy.owner_filter(request.context))
        found = block_devices.of_server(conn, server_id)
    page = [device for device in found if _shows(device)][offset : offset + limit]
    views = [_view(request, server_id, device) for device in page]
    return Reply(body={"volumeAttachments": views})


def show(api: ComputeAPI, request: Request, server_id: str, volume_id: str) -> Reply:
    queries.check(request)
    with api.db.read() as conn:
        servers.get(conn, server_id, policy.owner_filter(request.context))
        device = block_devices.find(conn, server_id, volume_id)
    if device is None or not _shows(device):
        raise server_volumes.not_attached(server_id, volume_id)
    return Reply(body={"volumeAttachment": _view(request, server_id, device)})


def attach(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    with api.db.read() as conn:
        find(conn, request.context, server_id, "os-volumes-attachments:create")
    body = request.json(microversions.pick(request, _BODIES))
    asked = body.attachment
    with _turns.of(server_id):
        device = server_volumes.attach(
            api.server_volumes,
            request.context,
            server_id,
            asked.volume_id,
            tag=asked.tag,
            delete_on_termination=bool(asked.delete_on_termination),
            multiattach=request.at_least(*MULTIATTACH_SINCE),
            shelved=request.at_least(*_SHELVED_SINCE),
        )
    if request.at_least(2, 101):
        return Reply(202)
    # As Nova, which forgot that 2.89 took the id away.
    view = _view(request, server_id, device)
    for name in ("attachment_id", "bdm_uuid"):
        view.pop(name, None)
    return Reply(body={"volumeAttachment": {"id": asked.volume_id} | view})


def update(api: ComputeAPI, request: Request, server_id: str, volume_id: str) -> Reply:
    """Another volume in its place (for admins), or what becomes of it when the server goes."""
    context = request.context
    asked = request.json(microversions.pick(request, _UPDATES)).attachment
    swaps = not request.at_least(2, 85) or asked.volume_id != volume_id
    with api.db.read() as conn:
        find(conn, context, server_id, f"os-volumes-attachments:{'swap' if swaps else 'update'}")
    if swaps:
        policy.require_admin(context, "os-volumes-attachments:swap")
    parts = api.server_volumes
    with _turns.of(server_id):
        ends = None
        if request.at_least(2, 85):
            ends = _ends(api, server_id, volume_id, asked)
        if swaps:
            server_volumes.swap(parts, context, server_id, volume_id, asked.volume_id, ends)
        elif ends is not None:
            server_volumes.update(parts, context, server_id, volume_id, ends)
    return Reply(202)


def _ends(api: ComputeAPI, server_id: str, volume_id: str, asked: Update) -> bool | None:
    """Whether it is to go with the server, if that is said. BadRequest: something else is to change, too."""
    with api.db.read() as conn:
        device = block_devices.find(conn, server_id, volume_id)
    if device is None:
        raise server_volumes.not_attached(server_id, volume_id)
    same = {"id": volume_id, "serverId": server_id, "device": device.device_name, "tag": device.tag}
    said = {"id": asked.id, "serverId": asked.server_id, "device": asked.device, "tag": asked.tag}
    for name, value in said.items():
        if value is not UNSET and value != same[name]:
            raise BadRequest(f"The {name} property is not mutable")
    return None if asked.delete_on_termination is UNSET else bool(asked.delete_on_termination)


def detach(api: ComputeAPI, request: Request, server_id: str, volume_id: str) -> Reply:
    with api.db.read() as conn:
        find(conn, request.context, server_id, "os-volumes-attachments:delete")
    with _turns.of(server_id):
        server_volumes.detach(
            api.server_volumes,
            request.context,
            server_id,
            volume_id,
            shelved=request.at_least(*_SHELVED_SINCE),
        )
    return Reply(202)


def _shows(device: BlockDevice) -> bool:
    return device.volume_id is not None and device.attachment_id is not None


def _view(request: Request, server_id: str, device: BlockDevice) -> dict[str, Any]:
    view: dict[str, Any] = {"volumeId": device.volume_id, "serverId": server_id, "device": device.device_name}
    if not request.at_least(2, 89):
        view["id"] = device.volume_id
    if request.at_least(2, 70):
        view["tag"] = device.tag
    if request.at_least(2, 79):
        view["delete_on_termination"] = device.delete_on_termination
    if request.at_least(2, 89):
        view |= {"attachment_id": device.attachment_id, "bdm_uuid": device.id}
    return view


def _offset(request: Request) -> int:
    value = request.query("offset") or "0"
    if not value.isascii() or not value.isdecimal() or len(value) > 9:
        raise BadRequest(
            f"Invalid input for query parameters offset. Value: {value}. It must be a number, 0 or more"
        )
    return int(value)


_ALL = "/servers/{server_id}/os-volume_attachments"
_ONE = _ALL + "/{volume_id}"

ROUTES = [
    Route("GET", _ALL, listed),
    Route("POST", _ALL, attach),
    Route("GET", _ONE, show),
    Route("PUT", _ONE, update),
    Route("DELETE", _ONE, detach),
]
