"""Images and members as the API shows them. Links are relative to the service's root, as Glance's are."""

from __future__ import annotations

from typing import Any

from kilonova.domain.clock import iso8601
from kilonova.domain.images import Image, ImageMember


def image(record: Image) -> dict[str, Any]:
    """A custom property can't hide an attribute: the attributes are written over the properties."""
    url = f"/v2/images/{record.id}"
    return {
        **record.properties,
        "id": record.id,
        "name": record.name,
        "status": record.status,
        "owner": record.owner,
        "visibility": record.visibility,
        "disk_format": record.disk_format,
        "container_format": record.container_format,
        "min_disk": record.min_disk,
        "min_ram": record.min_ram,
        "protected": record.protected,
        "os_hidden": record.os_hidden,
        "size": record.size,
        "virtual_size": record.virtual_size,
        "checksum": record.checksum,
        "os_hash_algo": record.os_hash_algo,
        "os_hash_value": record.os_hash_value,
        "tags": record.tags,
        "created_at": iso8601(record.created_at),
        "updated_at": iso8601(record.updated_at),
        "self": url,
        "file": f"{url}/file",
        "schema": "/v2/schemas/image",
    }


def member(record: ImageMember) -> dict[str, Any]:
    return {
        "member_id": record.member_id,
        "image_id": record.image_id,
        "status": record.status,
        "created_at": iso8601(record.created_at),
        "updated_at": iso8601(record.updated_at),
        "schema": "/v2/schemas/member",
    }
