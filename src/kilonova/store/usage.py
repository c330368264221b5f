"""What each project uses of its quota: changed in the same transaction as the servers that use it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import sqlalchemy as sa
from sqlalchemy import bindparam as given

from kilonova.domain.errors import QuotaExceeded
from kilonova.domain.servers import Flavor
from kilonova.store import dialect
from kilonova.store.schema.servers import project_usage as table
from kilonova.store.statement import Statement


def claim(conn: sa.Connection, project_id: str, flavors: Sequence[Flavor], limits: dict[str, int]) -> None:
    """Take the quota of these servers, all or none. ``limits`` of instances, cores, ram (MiB); -1: none.

    QuotaExceeded names what was exceeded, asked for, used and allowed, in Nova's words.
    """
    wanted = {
        "instances": len(flavors),
        "cores": sum(flavor.vcpus for flavor in flavors),
        "ram": sum(flavor.memory_mb for flavor in flavors),
    }
    limited = tuple(name for name in wanted if limits[name] >= 0)
    values = {"project": project_id, **{f"limit_{name}": limits[name] for name in limited}}
    values |= {f"more_{name}": amount for name, amount in wanted.items()}
    if _claim(limited).count(conn, values) == 1:
        return
    # Perhaps it is the project's first server; another one may be the first at the same time.
    dialect.insert_new(conn, table, {"project_id": project_id, "instances": 0, "cores": 0, "ram": 0})
    if _claim(limited).count(conn, values) == 0:
        raise _exceeded(used(conn, project_id), wanted, limits)


@cache
def _claim(limited: tuple[str, ...]) -> Statement:
    """UPDATE project_usage SET instances = instances + n, … WHERE … AND instances + n <= limit …"""
    within = [table.c[name] + given(f"more_{name}") <= given(f"limit_{name}") for name in limited]
    more = {name: table.c[name] + given(f"more_{name}") for name in ("instances", "cores", "ram")}
    return Statement(sa.update(table).where(table.c.project_id == given("project"), *within).values(more))


_RELEASE = Statement(
    sa.update(table)
    .where(table.c.project_id == given("project"))
    .values(
        instances=table.c.instances - 1,
        cores=table.c.cores - given("less_cores"),
        ram=table.c.ram - given("less_ram"),
    )
)


def release(conn: sa.Connection, project_id: str, flavor: Flavor) -> None:
    """Give back one server's share."""
    values = {"project": project_id, "less_cores": flavor.vcpus, "less_ram": flavor.memory_mb}
    _RELEASE.count(conn, values)


def used(conn: sa.Connection, project_id: str) -> dict[str, int]:
    """{instances, cores, ram} in use now."""
    row = conn.execute(sa.select(table).where(table.c.project_id == project_id)).one_or_none()
    return {name: getattr(row, name) if row else 0 for name in ("instances", "cores", "ram")}


def _exceeded(used_now: dict[str, int], wanted: dict[str, int], limits: dict[str, int]) -> QuotaExceeded:
    over = [name for name in wanted if 0 <= limits[name] < used_now[name] + wanted[name]]
    asked = ", ".join(str(wanted[name]) for name in over)
    have = ", ".join(str(used_now[name]) for name in over)
    allowed = ", ".join(str(limits[name]) for name in over)
    return QuotaExceeded(
        f"Quota exceeded for {', '.join(over)}: Requested {asked}, but already used {have} "
        f"of {allowed} {', '.join(over)}"
    )
