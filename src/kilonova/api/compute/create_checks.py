"""Checks of POST /servers that need no more than the request, the flavor and the image.

What a later part of Kilonova will do is refused here in so many words: never a silent success.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta

from kilonova.api.compute.create_body import Device, ServerRequest
from kilonova.domain import codec
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, Forbidden, QuotaExceeded
from kilonova.domain.servers import Flavor, ImageRef

_GIB = 1 << 30
_DEEPEST = 8


def refuse_unavailable(asked: ServerRequest) -> None:
    """BadRequest for what the API of Nova takes and this deployment does not have."""
    if asked.personality:
        raise BadRequest("Personality files are not available here: use user_data or a config drive")
    if asked.trusted_image_certificates:
        raise BadRequest("Image signature verification is not available here")
    if asked.block_device_mapping:
        raise BadRequest("Block Device Mapping is Invalid: volumes are not available here")


def user_data(text: str | None) -> None:
    """BadRequest unless it is base64, or nothing."""
    if text is None:
        return
    try:
        base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest("User data needs to be valid base 64.") from error


def metadata_quota(metadata: Mapping[str, str], limits: Mapping[str, int]) -> None:
    """QuotaExceeded if there are more items than the project may have."""
    allowed = limits["metadata_items"]
    if 0 <= allowed < len(metadata):
        raise QuotaExceeded(f"Maximum number of metadata items exceeds {allowed}")


_Uuid = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\Z")]


class _KnownHints(msgspec.Struct, kw_only=True):
    """The hints whose form Nova checks; others are anybody's."""

    group: _Uuid | Sequence[_Uuid] | None = None
    different_host: _Uuid | Sequence[_Uuid] | None = None
    same_host: str | Sequence[_Uuid] | None = None
    query: str | dict[str, Any] | None = None
    target_cell: str | None = None
    different_cell: str | Sequence[str] | None = None
    build_near_host_ip: str | None = None
    cidr: Annotated[str, Meta(pattern=r"^/[0-9a-f.:]+\Z")] | None = None


_UNHEARD = ("different_host", "same_host", "query", "target_cell", "different_cell", "build_near_host_ip")
"""Hints that demand something of the host, and that no filter of ours looks at."""


def scheduler_hints(hints: dict[str, Any]) -> dict[str, Any]:
    """The hints, well formed. There are no server groups, so that none can be asked for."""
    if not hints:
        return {}
    try:
        known = codec.convert(hints, _KnownHints)
    except msgspec.ValidationError as error:
        raise BadRequest(f"Invalid input for os:scheduler_hints: {error}") from error
    if known.group:
        raise BadRequest(f"Instance group {hints['group']} could not be found.")
    if asked := [name for name in _UNHEARD if getattr(known, name)]:
        raise BadRequest(f"The scheduler hint {asked[0]} is not available here")
    if _depth(hints) > _DEEPEST:
        raise BadRequest("Invalid input for os:scheduler_hints: it nests too deep")
    return hints


def _depth(value: Any, level: int = 0) -> int:
    if level > _DEEPEST or not isinstance(value, dict | list) or not value:
        return level
    return max(_depth(child, level + 1) for child in (value.values() if isinstance(value, dict) else value))


def image_fits(context: RequestContext, image: ImageRef, flavor: Flavor) -> None:
    """The flavor has the memory and the disk that the image needs; Nova's messages."""
    drive = image.properties.get("img_config_drive", "optional")
    if drive not in {"optional", "mandatory"}:
        raise BadRequest(f"Image's config drive option '{drive}' is invalid.")
    if flavor.memory_mb < image.min_ram:
        raise BadRequest("Flavor's memory is too small for requested image.")
    if flavor.root_gb == 0:
        if not context.is_admin:
            raise Forbidden("Only volume-backed servers are allowed for flavors with zero disk.")
        return
    disk, needed = flavor.root_gb * _GIB, max(image.size, image.virtual_size or 0)
    if needed > disk:
        raise BadRequest(
            f"Flavor's disk is too small for requested image. Flavor disk is {disk} bytes, "
            f"image is {needed} bytes."
        )
    if image.min_disk * _GIB > disk:
        raise BadRequest(
            "Flavor's disk is smaller than the minimum size specified in image metadata. "
            f"Flavor disk is {disk} bytes, minimum size is {image.min_disk * _GIB} bytes."
        )


def devices(asked: ServerRequest, flavor: Flavor) -> None:
    """block_device_mapping_v2 may describe the disks that the server gets anyway: the image as the local
    root, the flavor's ephemeral disk and swap. BadRequest for any other."""
    local = {"root": 0, "ephemeral": 0, "swap": 0}
    for device in asked.block_device_mapping_v2:
        if device.no_device:
            continue
        local[_kind(device, asked, flavor)] += 1
    if asked.block_device_mapping_v2 and local["root"] == 0:
        raise BadRequest(
            "Block Device Mapping is Invalid: Boot sequence for the instance and image/block device "
            "mapping combination is not valid."
        )
    if any(count > 1 for count in local.values()):
        raise BadRequest(
            "Block Device Mapping is Invalid: You specified more local devices than the limit allows"
        )


def _kind(device: Device, asked: ServerRequest, flavor: Flavor) -> str:
    """root, ephemeral or swap."""
    if device.source_type is UNSET:
        raise _invalid("Some required fields are missing")
    if device.source_type in {"volume", "snapshot"} or device.destination_type == "volume":
        raise _invalid("volumes are not available here")
    if device.volume_type is not None:
        raise _invalid("Specifying a volume_type with destination_type=local is not supported.")
    if device.tag is not None:
        raise _invalid("tags of disks are not available here")
    if device.source_type == "image":
        if not device.uuid:
            raise _invalid("Missing device UUID.")
        if device.boot_index != 0 or device.uuid != asked.image_ref:
            raise _invalid("Mapping image to local is not supported.")
        return "root"
    if device.uuid:
        raise _invalid("Invalid device UUID.")
    return _flavor_disk(device, flavor)


def _flavor_disk(device: Device, flavor: Flavor) -> str:
    swap = device.guest_format == "swap"
    size, own = device.volume_size or None, flavor.swap_mb if swap else flavor.ephemeral_gb
    if swap and int(size or 0) > own:
        raise BadRequest("Swap drive requested is larger than instance type allows.")
    if not swap and int(size or own) > own:
        raise BadRequest(
            "Ephemeral disks requested are larger than the instance type allows. If no size is given in "
            "one block device mapping, flavor ephemeral size will be used."
        )
    if own == 0 or (size is not None and size != own):
        raise _invalid(f"a {'swap' if swap else 'ephemeral'} disk has the flavor's size here, which is {own}")
    return "swap" if swap else "ephemeral"


def _invalid(details: str) -> BadRequest:
    return BadRequest(f"Block Device Mapping is Invalid: {details}")
