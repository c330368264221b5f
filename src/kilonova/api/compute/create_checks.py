"""Checks of POST /servers that need no more than the request, the flavor and the image.

What a later part of Kilonova will do is refused here in so many words: never a silent success.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kilonova.api.compute.create_body import ServerRequest
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
    config_drive_known(image.properties)
    memory_fits(image.min_ram, flavor)
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


def config_drive_known(properties: dict[str, str]) -> dict[str, str]:
    """The properties, whose wish for a config drive is one that there is."""
    drive = properties.get("img_config_drive", "optional")
    if drive not in {"optional", "mandatory"}:
        raise BadRequest(f"Image's config drive option '{drive}' is invalid.")
    return properties


def memory_fits(min_ram: int, flavor: Flavor) -> None:
    if flavor.memory_mb < min_ram:
        raise BadRequest("Flavor's memory is too small for requested image.")
