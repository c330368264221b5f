"""What each project uses of its quota: changed in the same transaction as the servers that use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.domain.errors import QuotaExceeded
from kilonova.domain.servers import Flavor
from kilonova.store.schema.servers import project_usage as table


def claim(conn: sa.Connection, project_id: str, flavors: Sequence[Flavor], limits: dict[str, int]) -> None:
    """Take the quota of these servers, all or none. ``limits`` of instances, cores, ram (MiB); -1: none.

    QuotaExceeded names what was exceeded, asked for, used and allowed, in Nova's words.
    """
    wanted = {
        "instances": len(flavors),
        "cores": sum(flavor.vcpus for flavor in flavors),
        "ram": sum(flavor.memory_mb for flavor in flavors),
    }
    conn.execute(_ensure(conn, project_id))
    query = sa.update(table).where(table.c.project_id == project_id)
    for name, amount in wanted.items():
        if limits[name] >= 0:
            query = query.where(table.c[name] + amount <= limits[name])
    if conn.execute(query.values({name: table.c[name] + n for name, n in wanted.items()})).rowcount == 0:
        raise _exceeded(used(conn, project_id), wanted, limits)


def release(conn: sa.Connection, project_id: str, flavor: Flavor) -> None:
    """Give back one server's share."""
    conn.execute(
        sa.update(table)
        .where(table.c.project_id == project_id)
        .values(
            instances=table.c.instances - 1,
            cores=table.c.cores - flavor.vcpus,
            ram=table.c.ram - flavor.memory_mb,
        )
    )


def used(conn: sa.Connection, project_id: str) -> dict[str, int]:
    """{instances, cores, ram} in use now."""
    row = conn.execute(sa.select(table).where(table.c.project_id == project_id)).one_or_none()
    return {name: getattr(row, name) if row else 0 for name in ("instances", "cores", "ram")}


def _ensure(conn: sa.Connection, project_id: str) -> Any:
    """INSERT … ON CONFLICT DO NOTHING, in the words of either database."""
    dialect: Any
    if conn.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql as dialect
    else:
        from sqlalchemy.dialects import sqlite as dialect
    row = {"project_id": project_id, "instances": 0, "cores": 0, "ram": 0}
    return dialect.insert(table).values(row).on_conflict_do_nothing()


def _exceeded(used_now: dict[str, int], wanted: dict[str, int], limits: dict[str, int]) -> QuotaExceeded:
    over = [name for name in wanted if 0 <= limits[name] < used_now[name] + wanted[name]]
    asked = ", ".join(str(wanted[name]) for name in over)
    have = ", ".join(str(used_now[name]) for name in over)
    allowed = ", ".join(str(limits[name]) for name in over)
    return QuotaExceeded(
        f"Quota exceeded for {', '.join(over)}: Requested {asked}, but already used {have} "
        f"of {allowed} {', '.join(over)}"
    )
