"""What projects may have of volumes, and what they have: counted, never kept, under a lock of the project's.

A resource is ``volumes``, ``gigabytes``, ``snapshots``, or one of these of a type: ``gigabytes_<its name>``.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from kilonova.store import dialect
from kilonova.store.schema.volumes import volume_quotas as table
from kilonova.store.schema.volumes import volume_snapshots as snapshots
from kilonova.store.schema.volumes import volume_types as types
from kilonova.store.schema.volumes import volumes

EVERY_PROJECT = ""
"""In place of a project's id: the limits of all that have none of their own (the quota class "default")."""


def limits(conn: sa.Connection, project_id: str) -> dict[str, int]:
    """Those that an admin set, the project's over everybody's."""
    query = sa.select(table).where(table.c.project_id.in_([EVERY_PROJECT, project_id]))
    return {row.resource: row.limit for row in conn.execute(query.order_by(table.c.project_id))}


def put(conn: sa.Connection, project_id: str, new: Mapping[str, int]) -> None:
    """Set these; the others stay."""
    if not new:
        return
    query = dialect.insert(conn, table)
    query = query.on_conflict_do_update(
        index_elements=["project_id", "resource"], set_={"limit": query.excluded.limit}
    )
    conn.execute(
        query, [{"project_id": project_id, "resource": name, "limit": one} for name, one in new.items()]
    )


def reset(conn: sa.Connection, project_id: str) -> None:
    """The project's own limits are gone; those of everybody hold again."""
    conn.execute(sa.delete(table).where(table.c.project_id == project_id))


def rename_type(conn: sa.Connection, old: str, new: str) -> None:
    """The limits of a type go with its name."""
    for resource in ("volumes", "gigabytes", "snapshots"):
        query = sa.update(table).where(table.c.resource == f"{resource}_{old}")
        conn.execute(query.values(resource=f"{resource}_{new}"))


def forget_type(conn: sa.Connection, name: str) -> None:
    gone = [f"{resource}_{name}" for resource in ("volumes", "gigabytes", "snapshots")]
    conn.execute(sa.delete(table).where(table.c.resource.in_(gone)))


def lock(conn: sa.Connection, project_id: str) -> None:
    """Until the transaction ends nobody else of the project takes any: what is counted now stays so."""
    dialect.lock(conn, "volume-quota", project_id)


def used(conn: sa.Connection, project_id: str) -> dict[str, int]:
    """Of every resource that it has any of; snapshots count in gigabytes too, as in Cinder. A volume that is
    being moved to another type counts in both."""
    size = sa.func.sum(sa.func.coalesce(volumes.c.new_size, volumes.c.size))
    of_volumes = _by_type(volumes, size).where(volumes.c.project_id == project_id)
    of_snapshots = _by_type(snapshots, sa.func.sum(snapshots.c.size)).where(
        snapshots.c.project_id == project_id
    )
    found = {"volumes": 0, "gigabytes": 0, "snapshots": 0}
    for resource, query in (("volumes", of_volumes), ("snapshots", of_snapshots)):
        for name, count, gigabytes in conn.execute(query):
            for suffix in ("", f"_{name}"):
                for what, more in ((resource, int(count)), ("gigabytes", int(gigabytes))):
                    found[what + suffix] = found.get(what + suffix, 0) + more
    of_moves = _by_type(volumes, size, volumes.c.new_type_id).where(volumes.c.project_id == project_id)
    for name, count, gigabytes in conn.execute(of_moves):
        for what, more in ((f"volumes_{name}", int(count)), (f"gigabytes_{name}", int(gigabytes))):
            found[what] = found.get(what, 0) + more
    return found


def _by_type(
    owned: sa.Table, size: sa.ColumnElement[int], kind: sa.Column[str] | None = None
) -> sa.Select[str, int, int]:
    """SELECT types.name, count(*), sum(size) FROM … JOIN volume_types … GROUP BY types.name"""
    joined = owned.join(types, types.c.id == (owned.c.volume_type_id if kind is None else kind))
    return sa.select(types.c.name, sa.func.count(), size).select_from(joined).group_by(types.c.name)
