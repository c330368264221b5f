"""MAC addresses for new ports."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.domain.errors import Unavailable
from kilonova.store import ports as store

PREFIX = "fa:16:3e"
"""Neutron's base_mac: locally administered, unicast."""
_ATTEMPTS = 16


def draw(conn: sa.Connection, network_ids: Sequence[str]) -> list[str]:
    """A MAC for each network id of the list, which that network does not have yet."""
    for _ in range(_ATTEMPTS):
        drawn = [_random() for _ in network_ids]
        taken = store.macs_taken(conn, list(set(network_ids)), drawn)
        if len(set(drawn)) == len(drawn) and not taken & set(zip(network_ids, drawn, strict=True)):
            return drawn
    raise Unavailable("Unable to generate unique mac addresses: the networks are almost full")


def _random() -> str:
    tail = secrets.token_bytes(3)
    return f"{PREFIX}:{tail[0]:02x}:{tail[1]:02x}:{tail[2]:02x}"
