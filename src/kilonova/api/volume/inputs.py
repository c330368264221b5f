"""Bodies of requests."""

from __future__ import annotations

import re
import uuid
from typing import Any, TypeVar

import msgspec

from kilonova.api.http import Request
from kilonova.domain import codec
from kilonova.domain.errors import BadRequest

T = TypeVar("T")

MAX_INT = 2**31 - 1


_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""As JSON writes it; after a backslash that is one itself it is five letters."""


def body(request: Request, kind: type[T]) -> T:
    """BadRequest also for a NUL, which not every database stores."""
    if _NUL.search(request.body()):
        raise BadRequest("Invalid input received: NUL characters are not allowed.")
    return request.json(kind)


def envelope(request: Request, name: str, kind: type[T], *others: str) -> T:
    """``{"volume": {…}}``: what is in it, as ``kind``; beside it there may be ``others``.

    Not strict: Cinder takes "1" for 1 and "true" for true, and clients send such.
    """
    members = body(request, dict[str, msgspec.Raw])
    if name not in members:
        raise BadRequest(f"Invalid input for field/attribute {name}. '{name}' is a required property")
    if unknown := sorted(set(members) - {name, *others}):
        raise BadRequest(f"Additional properties are not allowed ('{unknown[0]}' was unexpected)")
    return decode(name, members[name], kind)


def decode(name: str, raw: msgspec.Raw, kind: type[T]) -> T:
    try:
        return codec.from_json(raw, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(f"Invalid input for field/attribute {name}. {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest("Malformed request body: it is not valid JSON") from error


def boolean(name: str, value: str) -> bool:
    """A yes or no in a query. BadRequest if it is neither."""
    lowered = value.strip().lower()
    if lowered in ("1", "t", "true", "on", "y", "yes"):
        return True
    if lowered in ("0", "f", "false", "off", "n", "no", ""):
        return False
    raise BadRequest(f"Invalid input received: Invalid value '{value}' for '{name}'.")


def changed(body: msgspec.Struct, *names: str) -> dict[str, Any]:
    """Those of these fields that the body has."""
    values = {name: getattr(body, name) for name in names}
    return {name: value for name, value in values.items() if value is not msgspec.UNSET}


def is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def check_metadata(metadata: dict[str, str]) -> None:
    """BadRequest: Cinder's limits of keys and values."""
    for key, value in metadata.items():
        if not key.strip():
            raise BadRequest("Invalid input received: Metadata property key blank.")
        if len(key) > 255:
            raise BadRequest("Invalid input received: Metadata property key greater than 255 characters.")
        if len(value) > 255:
            raise BadRequest("Invalid input received: Metadata property value greater than 255 characters.")


def check_name(name: str | None, description: str | None) -> None:
    """BadRequest: too long."""
    for what, value in (("Name", name), ("Description", description)):
        if value is not None and len(value) > 255:
            raise BadRequest(f"Invalid input received: {what} has {len(value)} characters, more than 255.")
