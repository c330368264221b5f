"""createImage and createBackup: an image is registered, its server's host gives it its bytes later.

The image and the operation are one transaction: whatever dies, the image gets its bytes or is gone.
"""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.api.compute import create_checks
from kilonova.api.compute import server_fields as fields
from kilonova.api.compute.server_access import find
from kilonova.api.compute.server_fields import Metadata
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.compute.volume_images import Snapshots
from kilonova.api.http import Reply, Request
from kilonova.domain.errors import BadRequest
from kilonova.domain.servers import BuildSpec, ImageRef, VmState
from kilonova.engine import accept
from kilonova.store import quotas, servers
from kilonova.store.database import Row

_NOT_INHERITED = frozenset({"cache_in_nova", "bittorrent"})
_NOT_INHERITED_PREFIXES = ("img_signature", "os_glance")
_STOPPED_IN_THE_MIDST = (VmState.PAUSED, VmState.SUSPENDED)
"""Its file systems may have something left to write, and nobody can ask it to."""


class CreateImage(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    metadata: Metadata = {}

    def __post_init__(self) -> None:
        fields.name("name", self.name)


class CreateBackup(CreateImage, forbid_unknown_fields=True, kw_only=True):
    backup_type: str
    rotation: int | str

    def __post_init__(self) -> None:
        super().__post_init__()
        fields.text("backup_type", self.backup_type)
        self.rotation = fields.integer("rotation", self.rotation, 0)


def create_image(api: ComputeAPI, request: Request, server_id: str, value: msgspec.Raw) -> Reply:
    """202; since 2.45 with the image's id in the body, before in the header Location."""
    asked = fields.decoded("createImage", value, CreateImage)
    image_id = _begin(api, request, server_id, "create_image", "servers:create_image", asked, {}, {})
    if request.at_least(2, 45):
        return Reply(202, {"image_id": image_id})
    return Reply(202, headers=_location(request, image_id))


def create_backup(api: ComputeAPI, request: Request, server_id: str, value: msgspec.Raw) -> Reply:
    """As create_image(); nothing tells of an image that goes as soon as it is there (``rotation`` 0)."""
    asked = fields.decoded("createBackup", value, CreateBackup)
    payload = {
        "rotation": asked.rotation,
        "backup_type": asked.backup_type,
        "owner": request.context.project_id,
    }
    properties = {"image_type": "backup", "backup_type": asked.backup_type}
    rule = "os-create-backup"
    image_id = _begin(api, request, server_id, "create_backup", rule, asked, payload, properties)
    if request.at_least(2, 45):
        return Reply(202, {"image_id": image_id if asked.rotation else None})
    return Reply(202, headers=_location(request, image_id) if asked.rotation else {})


def register(
    api: ComputeAPI,
    request: Request,
    conn: sa.Connection,
    server_id: str,
    name: str,
    properties: dict[str, str],
) -> str:
    """A queued image of this server, its id; in the caller's transaction."""
    server = servers.get(conn, server_id)
    spec = servers.spec(conn, server_id)
    if server.image is not None:
        values = _values(request, server, server.image, name, properties)
        values["min_disk"] = max(server.image.min_disk, server.flavor.root_gb)
    elif spec.boots_from_volume:
        values = _values(request, server, _of_root_volume(spec), name, properties)
    else:
        raise BadRequest("A server that was not made from an image cannot become one here")
    return api.images.create(request.context, values).id


def _of_root_volume(spec: BuildSpec) -> ImageRef:
    """What stands for the image of a server that boots from a volume. How large its disks are, and what
    memory they need, their snapshots say."""
    return ImageRef(id="", disk_format="", size=0, properties=spec.properties)


def _begin(
    api: ComputeAPI,
    request: Request,
    server_id: str,
    action: str,
    rule: str,
    asked: CreateImage,
    payload: dict[str, Any],
    properties: dict[str, str],
) -> str:
    context = request.context
    with api.db.read() as conn:
        server = find(conn, context, server_id, rule)
        limits = quotas.limits(conn, server.project_id, api.config.quota)
        spec = servers.spec(conn, server_id)
    create_checks.metadata_quota(asked.metadata, limits)
    backed = spec.boots_from_volume
    if backed and action == "create_backup":
        raise BadRequest("Backup is not supported for volume-backed instances.")
    in_order = spec.must_be_in_order
    snapshots = Snapshots(api, context, server_id, asked.name, in_order) if backed else None
    made: list[str] = []

    def prepare(conn: sa.Connection, state: Row) -> dict[str, Any]:
        if spec.must_be_in_order and state.vm_state in _STOPPED_IN_THE_MIDST:
            raise BadRequest(
                f"The image of instance {server_id} says os_require_quiesce: its file systems cannot be held "
                f"still while it is {state.vm_state}"
            )
        own = asked.metadata | {"image_type": "snapshot"} | properties
        more: dict[str, Any] = {}
        if snapshots is not None:
            own |= snapshots.listed(conn)
            more["snapshots"] = snapshots.ids
        made.append(register(api, request, conn, server_id, asked.name, own))
        return {"image_id": made[0], **more}

    accept.act(
        api.db,
        api.bus,
        api.config,
        context,
        server_id,
        action,
        payload,
        faults=api.faults,
        prepare=prepare,
        before=None if snapshots is None else snapshots.taken,
    )
    return made[0]


def _values(
    request: Request, server: Row, base: ImageRef, name: str, properties: dict[str, str]
) -> dict[str, Any]:
    """What it takes over of the image that the server was made from, and what it says of itself."""
    inherited = {
        key: text
        for key, text in base.properties.items()
        if key not in _NOT_INHERITED and not key.startswith(_NOT_INHERITED_PREFIXES)
    }
    context = request.context
    return {
        **inherited,
        "base_image_ref": base.id,
        "boot_roles": ",".join(sorted(context.roles)),
        "image_location": "snapshot",
        "image_state": "available",
        "instance_uuid": server.id,
        "owner_id": server.project_id,
        "user_id": context.user_id,
        **properties,
        "name": name,
        "visibility": "private",
        "disk_format": "qcow2",
        "container_format": "bare",
        "min_disk": base.min_disk,
        "min_ram": base.min_ram,
    }


def _location(request: Request, image_id: str) -> dict[str, str]:
    root = request.url.removesuffix("/compute/v2.1")
    return {"Location": f"{root}/image/v2/images/{image_id}"}
