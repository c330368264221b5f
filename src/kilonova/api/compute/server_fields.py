"""Fields that several bodies of the servers API share, and how their values are checked.

Most functions raise ValueError, which msgspec turns into an error that names the field.
"""

from __future__ import annotations

import ipaddress
import uuid as uuids
from typing import Annotated, TypeVar

from msgspec import Meta, Raw, ValidationError

from kilonova.api.compute.inputs import MAX_INT, integer, name, printable, text, truth
from kilonova.domain import codec
from kilonova.domain.errors import BadRequest

__all__ = [
    "MAX_INT",
    "HostOrFqdn",
    "Hostname",
    "Metadata",
    "Tag",
    "address",
    "decoded",
    "integer",
    "name",
    "printable",
    "text",
    "truth",
    "uuid",
]

T = TypeVar("T")

Tag = Annotated[str, Meta(min_length=1, max_length=60, pattern=r"^[^,/\x00-\x1f\x7f]*\Z")]
MetadataKey = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9\-_:. ]{1,255}\Z")]
Metadata = dict[MetadataKey, Annotated[str, Meta(max_length=255)]]
Hostname = Annotated[
    str, Meta(min_length=2, max_length=63, pattern=r"^[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]\Z")
]
HostOrFqdn = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9\-._]*\Z")]


def uuid(field: str, value: str) -> str:
    """A UUID in its usual form, whatever form it came in."""
    try:
        return str(uuids.UUID(value))
    except ValueError:
        raise ValueError(f"{field} must be a UUID") from None


def address(field: str, value: str, version: int | None = None) -> str:
    """An IP address in its shortest form, of that version if one is given."""
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        raise ValueError(f"{field} must be an IP address") from None
    if "%" in value or version not in (None, found.version):
        raise ValueError(f"{field} must be an IPv{version or found.version} address")
    return str(found)


def decoded(field: str, value: Raw, kind: type[T]) -> T:
    """A part of a body whose type only its neighbours decide. BadRequest says what is wrong with it."""
    try:
        return codec.from_json(value, kind)
    except ValidationError as error:
        raise BadRequest(f"Invalid input for {field}: {error}") from error
