"""rebuild: the same server, its disks made anew of an image; also under another name, key or user data."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, structs

from kilonova.api.compute import create, links, server_view
from kilonova.api.compute import create_checks as checks
from kilonova.api.compute import server_fields as fields
from kilonova.api.compute.microversions import pick
from kilonova.api.compute.rebuild_body import LADDER, RebuildRequest
from kilonova.api.compute.server_access import find
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request
from kilonova.domain import codec
from kilonova.domain.errors import BadRequest
from kilonova.domain.servers import BuildSpec, ImageRef, VmState
from kilonova.engine import accept
from kilonova.store import block_devices, quotas, server_lists, servers
from kilonova.store.database import Row


def rebuild(api: ComputeAPI, request: Request, server_id: str, value: msgspec.Raw) -> Reply:
    """202 with the server as it will be, and its new password."""
    asked: RebuildRequest = fields.decoded("rebuild", value, pick(request, LADDER))
    _refuse_unavailable(asked)
    context = request.context
    with api.db.read() as conn:
        server = find(conn, context, server_id, "servers:rebuild")
        limits = quotas.limits(conn, server.project_id, api.config.quota)
        key = create.public_key(conn, context, asked.key_name)
    if asked.metadata is not UNSET:
        checks.metadata_quota(asked.metadata, limits)
    if asked.user_data is not UNSET and asked.user_data is not None:
        checks.user_data(asked.user_data)
    image = create.image_to_boot(api, context, asked.image_ref)
    reimage = _root_to_reimage(api, request, server, image)
    password = asked.admin_pass if asked.admin_pass is not UNSET else create.random_word(12)

    def prepare(conn: sa.Connection, state: Row) -> dict[str, Any]:
        values = _values(asked, servers.get(conn, server_id), servers.spec(conn, server_id), image, key)
        servers.change(conn, server_id, **values)
        goal = VmState.STOPPED if state.vm_state == VmState.STOPPED else VmState.ACTIVE
        return {"goal": goal, "admin_password": password, **reimage}

    accept.act(api.db, api.bus, api.config, context, server_id, "rebuild", faults=api.faults, prepare=prepare)
    return _shown(api, request, server_id, password)


_REIMAGE_SINCE = (2, 93)


def _root_to_reimage(api: ComputeAPI, request: Request, server: Row, image: ImageRef) -> dict[str, Any]:
    """What the operation must know of the volume that the server boots from, if it is to get the image."""
    with api.db.read() as conn:
        devices = block_devices.of_server(conn, server.id)
        boots_from_volume = servers.spec(conn, server.id).boots_from_volume
    root = next((device.volume_id for device in devices if device.is_root), None)
    if not boots_from_volume:
        checks.image_fits(request.context, image, server.flavor)
        return {}
    if root is None:
        raise BadRequest("The server has no volume to boot from.")
    if not request.at_least(*_REIMAGE_SINCE):
        if api.volumes.volume(request.context, root).image_metadata.get("image_id") != image.id:
            raise BadRequest(
                f"Image {image.id} is unacceptable: Unable to rebuild with a different image for a "
                "volume-backed server."
            )
        return {}
    checks.config_drive_known(image.properties)
    checks.memory_fits(image.min_ram, server.flavor)
    api.volumes.check_reimage(request.context, root, image)
    return {"reimage": root, "image": msgspec.to_builtins(image)}


def _refuse_unavailable(asked: RebuildRequest) -> None:
    if asked.preserve_ephemeral:
        raise BadRequest("Preserving the ephemeral disk is not available here")
    if asked.personality:
        raise BadRequest("Personality files are not available here: use user_data or a config drive")
    if asked.trusted_image_certificates:
        raise BadRequest("Image signature verification is not available here")


def _values(
    asked: RebuildRequest, server: Row, spec: BuildSpec, image: ImageRef, public_key: str | None
) -> dict[str, Any]:
    """What of the server's record changes, its spec with it."""
    shared: dict[str, Any] = {
        "name": asked.name if asked.name is not UNSET else server.name,
        "hostname": asked.hostname if asked.hostname is not UNSET else server.hostname,
        "metadata": asked.metadata if asked.metadata is not UNSET else server.metadata,
    }
    if asked.key_name is not UNSET:
        shared["key_name"] = asked.key_name
    if asked.user_data is not UNSET:
        shared["user_data"] = asked.user_data
    own: dict[str, Any] = {
        "description": asked.description,
        "access_ip_v4": asked.access_ipv4,
        "access_ip_v6": asked.access_ipv6,
    }
    values = shared | {name: told for name, told in own.items() if told is not UNSET}
    if asked.disk_config is not UNSET:
        values["auto_disk_config"] = asked.disk_config == "AUTO"
    of_spec: dict[str, Any] = {"public_key": public_key} if asked.key_name is not UNSET else {}
    if spec.boots_from_volume:
        of_spec["image_properties"] = image.properties
    else:
        of_spec["image"] = image
        values |= {"image": image, "image_id": image.id}
    return {**values, "spec": structs.replace(spec, **shared, **of_spec)}


def _shown(api: ComputeAPI, request: Request, server_id: str, password: str) -> Reply:
    with api.db.read() as conn:
        row = server_lists.get(conn, server_id, None, server_view.columns(request))
        view = codec.from_json(server_view.updated(api, conn, request, row), dict[str, Any])
        spec = servers.spec(conn, server_id)
    view["adminPass"] = password
    if request.at_least(2, 54):
        view["key_name"] = spec.key_name
    if request.at_least(2, 57):
        view.pop("OS-EXT-SRV-ATTR:user_data", None)  # the same under the name that it has here
        view["user_data"] = spec.user_data
    location = links.resource(request, "servers", server_id)[0]["href"]
    return Reply(202, {"server": view}, headers={"Location": location})
