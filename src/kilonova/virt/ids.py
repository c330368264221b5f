"""Server ids become names and paths on the host, so they are looked at first."""

from __future__ import annotations

import uuid

from kilonova.domain.errors import NotFound


def checked_id(server_id: str) -> str:
    """The id, if it is a UUID in the one form we write; else NotFound: no such server can be here."""
    try:
        good = str(uuid.UUID(server_id)) == server_id
    except (ValueError, AttributeError, TypeError):
        good = False
    if not good:
        raise NotFound(f"{server_id!r} is not the id of a server")
    return server_id
