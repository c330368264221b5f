"""Volumes in the database. One that was deleted has no row; its operations tell of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.volumes import MigrationStatus, VolumeStatus
from kilonova.store import dialect
from kilonova.store.database import Row
from kilonova.store.schema.operations import operations
from kilonova.store.schema.volumes import volumes as table

KEYS = {
    name: table.c[name]
    for name in (
        "id",
        "name",
        "status",
        "size",
        "host",
        "availability_zone",
        "bootable",
        "created_at",
        "updated_at",
        "launched_at",
        "project_id",
        "user_id",
        "volume_type_id",
        "description",
    )
} | {"display_name": table.c.name}
"""What a list may be ordered by."""


def insert(conn: sa.Connection, row: dict[str, Any]) -> bool:
    """False if there is one of that id."""
    return dialect.insert_new(conn, table, row)


def get(
    conn: sa.Connection, volume_id: str, project_id: str | None = None, for_update: bool = False
) -> Row | None:
    """The volume; with ``project_id`` only if it is that project's."""
    query = sa.select(table).where(table.c.id == volume_id)
    if project_id is not None:
        query = query.where(table.c.project_id == project_id)
    if for_update:
        query = query.with_for_update(key_share=True)
    return conn.execute(query).first()


def several(conn: sa.Connection, volume_ids: Collection[str]) -> dict[str, Row]:
    """One query: those that are there, by id."""
    if not volume_ids:
        return {}
    query = sa.select(table).where(dialect.among(conn, table.c.id, "ids"))
    return {row.id: row for row in conn.execute(query, {"ids": sorted(set(volume_ids))})}


def change(conn: sa.Connection, volume_id: str, /, **values: Any) -> bool:
    """False if there is no such volume any more."""
    query = sa.update(table).where(table.c.id == volume_id)
    return conn.execute(query.values({"updated_at": now(), **values})).rowcount == 1


def change_if(conn: sa.Connection, volume_id: str, statuses: Collection[str], /, **values: Any) -> bool:
    """Only if its status is one of these; whether it was."""
    query = sa.update(table).where(table.c.id == volume_id, table.c.status.in_(list(statuses)))
    return conn.execute(query.values({"updated_at": now(), **values})).rowcount == 1


def delete(conn: sa.Connection, volume_id: str) -> None:
    conn.execute(sa.delete(table).where(table.c.id == volume_id))


def of_type(conn: sa.Connection, volume_type_id: str) -> bool:
    """Whether any volume is of that type, or is to be."""
    either = sa.or_(table.c.volume_type_id == volume_type_id, table.c.new_type_id == volume_type_id)
    query = sa.select(table.c.id).where(either).limit(1)
    return conn.execute(query).first() is not None


def allocated(conn: sa.Connection) -> Mapping[str, int]:
    """Backend with pool → GiB of all volumes there, and of those that are on their way there."""
    size = sa.func.sum(sa.func.coalesce(table.c.new_size, table.c.size))
    found: Counter[str] = Counter()
    for place in (table.c.host, table.c.new_host):
        query = sa.select(place.label("place"), size.label("gb")).where(place.is_not(None)).group_by(place)
        found.update({row.place: int(row.gb) for row in conn.execute(query)})
    return found


def summary(conn: sa.Connection, project_id: str | None) -> tuple[int, int]:
    """How many volumes, and their GiB; None: of all projects."""
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(table.c.size), 0))
    if project_id is not None:
        query = query.where(table.c.project_id == project_id)
    count, size = conn.execute(query).one()
    return int(count), int(size)


def metadata_of_all(conn: sa.Connection, project_id: str | None) -> Sequence[dict[str, str]]:
    query = sa.select(table.c.metadata).where(table.c.metadata != {})
    if project_id is not None:
        query = query.where(table.c.project_id == project_id)
    return list(conn.execute(query).scalars())


TRANSITIONAL = (
    VolumeStatus.CREATING,
    VolumeStatus.DOWNLOADING,
    VolumeStatus.EXTENDING,
    VolumeStatus.UPLOADING,
    VolumeStatus.RETYPING,
    VolumeStatus.REVERTING,
    VolumeStatus.DELETING,
)
"""What only an operation explains."""
_MOVING = sa.and_(
    table.c.status == VolumeStatus.MAINTENANCE, table.c.migration_status == MigrationStatus.MIGRATING
)
"""So is this; an admin may have set the status without."""


def in_limbo(conn: sa.Connection, before: float) -> Sequence[Row]:
    """In a state on its way to another, since before that time, and nothing is open for it."""
    is_open = sa.exists().where(operations.c.server_id == table.c.id, operations.c.state == "open")
    since = sa.func.coalesce(table.c.updated_at, table.c.created_at)
    on_its_way = sa.or_(table.c.status.in_(TRANSITIONAL), _MOVING)
    query = sa.select(table).where(on_its_way, since < before, ~is_open)
    return conn.execute(query).all()
