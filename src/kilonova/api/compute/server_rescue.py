"""rescue and unrescue: a server boots from another image for a while, with its own disk beside it."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, UnsetType

from kilonova.api.compute import create
from kilonova.api.compute import server_fields as fields
from kilonova.api.compute.server_access import find
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request
from kilonova.domain.errors import BadRequest
from kilonova.domain.servers import Flavor, ImageRef
from kilonova.engine import accept
from kilonova.store import servers
from kilonova.store.database import Row


class Rescue(msgspec.Struct, forbid_unknown_fields=True):
    admin_pass: str | UnsetType = msgspec.field(name="adminPass", default=UNSET)
    image_ref: str | UnsetType = msgspec.field(name="rescue_image_ref", default=UNSET)

    def __post_init__(self) -> None:
        if self.image_ref is not UNSET:
            self.image_ref = fields.uuid("rescue_image_ref", self.image_ref)


def rescue(api: ComputeAPI, request: Request, server_id: str, value: msgspec.Raw) -> Reply:
    """200 with the password. Without an image it is the one that the server was made from."""
    asked = Rescue() if bytes(value).strip() == b"null" else fields.decoded("rescue", value, Rescue)
    context = request.context
    with api.db.read() as conn:
        find(conn, context, server_id, "os-rescue")
    given = None if asked.image_ref is UNSET else create.image_to_boot(api, context, asked.image_ref)
    password = asked.admin_pass if asked.admin_pass is not UNSET else create.random_word(12)

    def prepare(conn: sa.Connection, _state: Row) -> dict[str, Any]:
        spec = servers.spec(conn, server_id)
        image = given or spec.image
        if spec.boots_from_volume and not (image and request.at_least(2, 87) and _is_stable(image)):
            raise BadRequest(
                f"Instance {server_id} cannot be rescued: Cannot rescue a volume-backed instance"
            )
        if image is None:
            raise BadRequest(f"Instance {server_id} cannot be rescued: it was not made from an image")
        _check_size(image, spec.flavor)
        return {"image": msgspec.to_builtins(image), "admin_password": password}

    accept.act(api.db, api.bus, api.config, context, server_id, "rescue", faults=api.faults, prepare=prepare)
    return Reply(200, {"adminPass": password})


def _check_size(image: ImageRef, flavor: Flavor) -> None:
    needed = max(image.size, image.virtual_size or 0)
    if needed > flavor.rescue_gb << 30:
        raise BadRequest(
            f"Image {image.id} is too large to rescue from: it is {needed} bytes, and may be "
            f"{flavor.rescue_gb << 30} bytes."
        )


def _is_stable(image: ImageRef) -> bool:
    """Whether a guest that is rescued with it keeps its own disks where they are."""
    return "hw_rescue_device" in image.properties or "hw_rescue_bus" in image.properties
