"""What is made of a volume beside it, and cleared away again: a copy on another backend, a snapshot that an
image is made of. Clearing away is an operation of its own: nobody waits for a store that is away."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa

from kilonova.domain.volumes import MigrationStatus, VolumeWork
from kilonova.store import operations, volume_types
from kilonova.store.database import Row
from kilonova.volume.builtin.backends import is_true
from kilonova.volume.builtin.parts import Parts, begin, system_context

_COPIES = uuid.UUID("5d3f7a52-6a0c-4e0f-9a63-8f2f3c6c2f0e")
"""Of the ids of copies."""
_ON_NO_WAY = {"new_host": None, "new_type_id": None}


def arrived(conn: sa.Connection, parts: Parts, volume: Row) -> dict[str, Any]:
    """A volume, which is locked, is whole where it was to go: what is new of it. What is left behind goes."""
    clear(conn, parts, volume.id, volume.project_id, volume.host)
    values = {"host": volume.new_host, "migration_status": MigrationStatus.SUCCESS} | _ON_NO_WAY
    kind = None if volume.new_type_id is None else volume_types.get(conn, volume.new_type_id)
    if kind is not None:
        values |= {"volume_type_id": kind.id, "multiattach": is_true(kind.extra_specs.get("multiattach"))}
    return values


def stayed(conn: sa.Connection, parts: Parts, volume: Row) -> dict[str, Any]:
    """It does not go there: what is new of it. What there is of a copy goes. Nothing if it was on no way."""
    if volume.new_host is None:
        return {}
    clear(conn, parts, volume.id, volume.project_id, volume.new_host)
    return {"migration_status": MigrationStatus.ERROR} | _ON_NO_WAY


def clear(conn: sa.Connection, parts: Parts, volume_id: str, project_id: str, host: str) -> None:
    """Begin to clear away what there is of a volume on a backend where it is not to be."""
    _begin(conn, parts, copy_id(volume_id, host), project_id, host, {"volume_id": volume_id})


def clear_snapshot(conn: sa.Connection, parts: Parts, volume: Row, snapshot_id: str | None) -> None:
    """Begin to clear away a snapshot without a record, that an image was to be made of, if there is one."""
    if snapshot_id is not None:
        payload = {"volume_id": volume.id, "snapshot_id": snapshot_id}
        _begin(conn, parts, snapshot_id, volume.project_id, volume.host, payload)


def copy_id(volume_id: str, host: str) -> str:
    """Of what there is of a volume on a backend: what its clearing away is an operation of."""
    return str(uuid.uuid5(_COPIES, f"{volume_id} {host}"))


def _begin(
    conn: sa.Connection, parts: Parts, of: str, project_id: str, host: str, payload: dict[str, str]
) -> None:
    """Unless it is under way."""
    if operations.open_of_server(conn, of) is None:
        begin(conn, parts, system_context("", project_id), VolumeWork.CLEAR, of, project_id, host, payload)
