"""The attributes of an image: one table, from which requests are checked and the schemas are served.

What is not in the table is a custom property: any name, a string for a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kilonova.domain.errors import BadRequest, Forbidden, TooLarge
from kilonova.domain.images import CONTAINER_FORMATS, DISK_FORMATS, VISIBILITIES, Image

MAX_PROPERTIES = 128
MAX_TAGS = 128
MAX_MEMBERS = 128
"""Glance's defaults: image_property_quota, image_tag_quota, image_member_quota."""

MAX_NAME = 255
MAX_INTEGER = 2**31 - 1

UUID = "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """``kind`` is JSON's name of the type. A read-only attribute is set by the service alone."""

    kind: str
    description: str
    nullable: bool = False
    read_only: bool = False
    max_length: int | None = None
    pattern: str | None = None
    choices: tuple[str, ...] = ()


ATTRIBUTES: Mapping[str, Attribute] = {
    "id": Attribute(kind="string", description="The image's id: a UUID", pattern=UUID),
    "name": Attribute(kind="string", description="A name for people", nullable=True, max_length=MAX_NAME),
    "status": Attribute(
        kind="string",
        description="Where the image is in its life",
        read_only=True,
        choices=("queued", "saving", "active", "deactivated", "pending_delete", "deleted"),
    ),
    "visibility": Attribute(kind="string", description="Who sees the image", choices=VISIBILITIES),
    "protected": Attribute(kind="boolean", description="A protected image can't be deleted"),
    "os_hidden": Attribute(kind="boolean", description="A hidden image is left out of lists"),
    "checksum": Attribute(
        kind="string", description="md5 of the data", nullable=True, read_only=True, max_length=32
    ),
    "os_hash_algo": Attribute(
        kind="string",
        description="The algorithm of os_hash_value",
        nullable=True,
        read_only=True,
        max_length=64,
    ),
    "os_hash_value": Attribute(
        kind="string",
        description="Hash of the data, in hex",
        nullable=True,
        read_only=True,
        max_length=128,
    ),
    "owner": Attribute(
        kind="string", description="The project that owns it", nullable=True, max_length=MAX_NAME
    ),
    "size": Attribute(kind="integer", description="Bytes of the data", nullable=True, read_only=True),
    "virtual_size": Attribute(
        kind="integer", description="Bytes of the disk that the data holds", nullable=True, read_only=True
    ),
    "container_format": Attribute(
        kind="string", description="What wraps the disk", nullable=True, choices=CONTAINER_FORMATS
    ),
    "disk_format": Attribute(
        kind="string", description="The disk's format", nullable=True, choices=DISK_FORMATS
    ),
    "created_at": Attribute(kind="string", description="When it was registered", read_only=True),
    "updated_at": Attribute(kind="string", description="When it last changed", read_only=True),
    "tags": Attribute(kind="array", description="Words to find it by", max_length=MAX_NAME),
    "min_ram": Attribute(kind="integer", description="MiB of memory that a server needs to boot it"),
    "min_disk": Attribute(kind="integer", description="GiB of disk that a server needs to boot it"),
    "self": Attribute(kind="string", description="The image's URL", read_only=True),
    "file": Attribute(kind="string", description="The URL of its data", read_only=True),
    "schema": Attribute(kind="string", description="The URL of this schema", read_only=True),
}

_RESERVED = ("location", "deleted", "deleted_at", "stores", "direct_url")
_RESERVED_PREFIX = "os_glance"
_PYTHON = {"string": str, "integer": int, "boolean": bool, "array": list}


def check_writable(name: str, *, creating: bool) -> None:
    """Forbidden if only the service may set it."""
    known = ATTRIBUTES.get(name)
    if (known is not None and known.read_only) or (name == "id" and not creating):
        raise Forbidden(f"Attribute '{name}' is read-only.")
    if name == "locations":
        raise Forbidden("It's not allowed to add locations if locations are invisible.")
    if name in _RESERVED or name.startswith(_RESERVED_PREFIX):
        raise Forbidden(f"Attribute '{name}' is reserved.")


def check_value(name: str, value: Any) -> None:
    """BadRequest if an attribute or property of that name can't have this value."""
    known = ATTRIBUTES.get(name)
    if known is None:
        _check_text(name, name, MAX_NAME)
        if not name:
            raise BadRequest("The name of a property is empty.")
        _check_text(f"property {name}", value, None)
    elif value is None:
        if not known.nullable:
            raise _mismatch(name, value, known.kind)
    else:
        _check_known(name, known, value)


def check_limits(image: Image) -> None:
    """TooLarge past the number of properties or tags that one image may have."""
    if len(image.properties) > MAX_PROPERTIES:
        raise TooLarge(f"The image has more than {MAX_PROPERTIES} properties.")
    if len(image.tags) > MAX_TAGS:
        raise TooLarge(f"The image has more than {MAX_TAGS} tags.")


def check_tag(tag: Any) -> None:
    _check_text("tag", tag, MAX_NAME)


def _check_known(name: str, known: Attribute, value: Any) -> None:
    if type(value) is not _PYTHON[known.kind]:
        raise _mismatch(name, value, known.kind)
    if isinstance(value, str):
        _check_text(name, value, known.max_length)
    if known.choices and value not in known.choices:
        raise BadRequest(f"Invalid {name}: {value!r} is not one of {', '.join(known.choices)}.")
    if known.pattern and not re.fullmatch(known.pattern, str(value)):
        raise BadRequest(f"Invalid {name}: {value!r} is not a UUID.")
    if isinstance(value, int) and not 0 <= value <= MAX_INTEGER:
        raise BadRequest(f"Invalid value '{value}' for '{name}': it is not from 0 to {MAX_INTEGER}.")
    if isinstance(value, list):
        for item in value:
            check_tag(item)


def _check_text(what: str, value: Any, max_length: int | None) -> None:
    if not isinstance(value, str):
        raise _mismatch(what, value, "string")
    if max_length is not None and len(value) > max_length:
        raise BadRequest(f"Invalid {what[:40]}: it is longer than {max_length} characters.")
    if "\0" in value:
        raise BadRequest(f"Invalid {what[:40]!r}: it contains a NUL character.")


def _mismatch(name: str, value: Any, kind: str) -> BadRequest:
    shown = repr(value)[:80]
    return BadRequest(
        f"Provided object does not match schema 'image': {name[:80]}: {shown} is not of type '{kind}'."
    )
