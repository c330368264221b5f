"""Images without data: their property ``block_device_mapping`` says of which snapshots servers are made.

They come from createImage of servers that boot from volumes (volume_images.py). The property is text that a
user may write, too: it can ask for what a request may ask for, and less: an existing volume it cannot name.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from kilonova.api.compute import server_fields as fields
from kilonova.api.compute.create_body import Device
from kilonova.domain import codec
from kilonova.domain.errors import BadRequest
from kilonova.domain.servers import ImageRef

_PROPERTY = "block_device_mapping"
_MOST = 64


class _Mapped(msgspec.Struct, frozen=True, kw_only=True):
    """What is obeyed of an entry."""

    source_type: Literal["snapshot", "blank"]
    destination_type: Literal["volume", "local"]
    snapshot_id: str | None = None
    volume_size: int | None = None
    boot_index: int | None = None
    device_name: str | None = None
    disk_bus: str | None = None
    guest_format: str | None = None
    delete_on_termination: bool = False


def refuse_mapped(image: ImageRef) -> None:
    """BadRequest for an image that has no data: no disk is made of it."""
    if _PROPERTY in image.properties and not image.size:
        raise BadRequest(f"Image {image.id} is unacceptable: it has no data, and lists snapshots of volumes.")


def mapped_devices(image: ImageRef) -> list[Device]:
    """Its disks; empty for an image that is one. BadRequest if the property cannot be understood."""
    text = image.properties.get(_PROPERTY)
    if text is None or image.size:
        return []
    try:
        found = codec.from_json(text.encode(), list[_Mapped])
        if not 0 < len(found) <= _MOST:
            raise msgspec.ValidationError(f"it lists {len(found)} disks")
        return [_device(one) for one in found]
    except (msgspec.DecodeError, ValueError) as error:
        raise BadRequest(f"Image {image.id} is unacceptable: {_PROPERTY}: {error}") from error


def _device(one: _Mapped) -> Device:
    """As a request would say it."""
    return codec.convert(
        {
            "source_type": one.source_type,
            "destination_type": one.destination_type,
            "uuid": "" if one.snapshot_id is None else fields.uuid("snapshot_id", one.snapshot_id),
            "volume_size": one.volume_size,
            "boot_index": one.boot_index,
            "device_name": one.device_name,
            "disk_bus": one.disk_bus if one.destination_type == "volume" else None,
            "guest_format": one.guest_format,
            "delete_on_termination": one.delete_on_termination,
        },
        Device,
    )
