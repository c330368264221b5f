"""Names of what a backend keeps. They come from the ids, so that all of it is found without a record."""

from __future__ import annotations

import re
import uuid

from kilonova.domain.errors import BadRequest

_ID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_VOLUME = re.compile(rf"volume-({_ID})(?:\.|$)")


def volume_name(volume_id: str) -> str:
    return f"volume-{checked(volume_id)}"


def snapshot_name(snapshot_id: str) -> str:
    return f"snapshot-{checked(snapshot_id)}"


def volume_of(name: str) -> str | None:
    """The id in the name of a volume, or of a file that belongs to one."""
    found = _VOLUME.match(name)
    return found[1] if found else None


def snapshot_of(name: str) -> str | None:
    """The id in the name of a snapshot."""
    found = re.fullmatch(rf"snapshot-({_ID})", name)
    return found[1] if found else None


def checked(ident: str) -> str:
    """BadRequest unless it is a UUID in its canonical form: names and paths are made of it."""
    try:
        canonical = str(uuid.UUID(ident)) == ident
    except (ValueError, AttributeError, TypeError):
        canonical = False
    if not canonical:
        raise BadRequest(f"Not an id: {ident!r}")
    return ident
