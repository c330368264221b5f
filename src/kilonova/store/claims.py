"""Claims: the share of a host that a server holds. Taken and released in one transaction (invariant 7)."""

from __future__ import annotations

import sqlalchemy as sa
from msgspec import structs
from sqlalchemy import bindparam as given

from kilonova.domain.clock import now
from kilonova.domain.hosts import Capacity
from kilonova.store.database import Row
from kilonova.store.schema.hosts import claims, hosts

_CLAIM = (
    sa.update(hosts)
    .where(
        hosts.c.host == given("on"),
        hosts.c.vcpus_used + given("need_vcpus") <= hosts.c.vcpus_limit,
        hosts.c.memory_mb_used + given("need_memory_mb") <= hosts.c.memory_mb_limit,
        hosts.c.disk_gb_used + given("need_disk_gb") <= hosts.c.disk_gb_limit,
    )
    .values(
        vcpus_used=hosts.c.vcpus_used + given("need_vcpus"),
        memory_mb_used=hosts.c.memory_mb_used + given("need_memory_mb"),
        disk_gb_used=hosts.c.disk_gb_used + given("need_disk_gb"),
        servers=hosts.c.servers + 1,
        generation=hosts.c.generation + 1,
        updated_at=given("at"),
    )
    .returning(
        hosts.c.host,
        hosts.c.generation,
        hosts.c.vcpus_limit,
        hosts.c.memory_mb_limit,
        hosts.c.disk_gb_limit,
        hosts.c.vcpus_used,
        hosts.c.memory_mb_used,
        hosts.c.disk_gb_used,
        hosts.c.servers,
        hosts.c.failed_builds,
    )
)
_INSERT = claims.insert()


def claim(conn: sa.Connection, server_id: str, host: str, need: Capacity) -> Row | None:
    """Take ``need`` of ``host`` for a server, if it is still free; what the host has after, or None.

    UPDATE hosts SET vcpus_used = vcpus_used + n …, generation = generation + 1
    WHERE host = … AND vcpus_used + n <= vcpus_limit AND …
    """
    at = now()
    taken = conn.execute(_CLAIM, {"on": host, "at": at, **_amounts(need)}).one_or_none()
    if taken is not None:
        row = {"server_id": server_id, "host": host, "created_at": at, **structs.asdict(need)}
        conn.execute(_INSERT, row)
    return taken


_IS_ON = sa.select(claims.c.server_id).where(
    claims.c.server_id == given("server"), claims.c.host == given("on")
)


def is_on(conn: sa.Connection, server_id: str, host: str) -> bool:
    """Whether the server holds a share of that host."""
    return conn.execute(_IS_ON, {"server": server_id, "on": host}).first() is not None


_RELEASE = sa.delete(claims).where(claims.c.server_id == given("server")).returning(*claims.c)
_GIVE_BACK = (
    sa.update(hosts)
    .where(hosts.c.host == given("on"))
    .values(
        vcpus_used=hosts.c.vcpus_used - given("need_vcpus"),
        memory_mb_used=hosts.c.memory_mb_used - given("need_memory_mb"),
        disk_gb_used=hosts.c.disk_gb_used - given("need_disk_gb"),
        servers=hosts.c.servers - 1,
        generation=hosts.c.generation + 1,
        updated_at=given("at"),
    )
)


def release(conn: sa.Connection, server_id: str) -> None:
    """Give back all that a server holds, on whatever host. Safe to call again."""
    for row in sorted(conn.execute(_RELEASE, {"server": server_id}), key=lambda row: str(row.host)):
        freed = Capacity(vcpus=row.vcpus, memory_mb=row.memory_mb, disk_gb=row.disk_gb)
        conn.execute(_GIVE_BACK, {"on": row.host, "at": now(), **_amounts(freed)})


def _amounts(capacity: Capacity) -> dict[str, int]:
    """As bind parameters; a parameter may not have a column's own name in an UPDATE."""
    return {f"need_{name}": amount for name, amount in structs.asdict(capacity).items()}
