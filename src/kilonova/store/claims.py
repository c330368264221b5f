"""Claims: the share of a host that a server holds. Taken and released in one transaction (invariant 7)."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.hosts import Capacity
from kilonova.store.database import Row
from kilonova.store.schema.hosts import claims, hosts


def claim(conn: sa.Connection, server_id: str, host: str, need: Capacity) -> Row | None:
    """Take ``need`` of ``host`` for a server, if it is still free; the host's row after, or None.

    UPDATE hosts SET vcpus_used = vcpus_used + n …, generation = generation + 1
    WHERE host = … AND vcpus_used + n <= vcpus_limit AND …
    """
    taken = conn.execute(
        sa.update(hosts)
        .where(
            hosts.c.host == host,
            hosts.c.vcpus_used + need.vcpus <= hosts.c.vcpus_limit,
            hosts.c.memory_mb_used + need.memory_mb <= hosts.c.memory_mb_limit,
            hosts.c.disk_gb_used + need.disk_gb <= hosts.c.disk_gb_limit,
        )
        .values(
            vcpus_used=hosts.c.vcpus_used + need.vcpus,
            memory_mb_used=hosts.c.memory_mb_used + need.memory_mb,
            disk_gb_used=hosts.c.disk_gb_used + need.disk_gb,
            servers=hosts.c.servers + 1,
            generation=hosts.c.generation + 1,
            updated_at=now(),
        )
        .returning(*hosts.c)
    ).one_or_none()
    if taken is not None:
        conn.execute(
            claims.insert().values(
                server_id=server_id,
                host=host,
                vcpus=need.vcpus,
                memory_mb=need.memory_mb,
                disk_gb=need.disk_gb,
                created_at=now(),
            )
        )
    return taken


def release(conn: sa.Connection, server_id: str) -> None:
    """Give back all that a server holds, on whatever host. Safe to call again."""
    freed = conn.execute(sa.delete(claims).where(claims.c.server_id == server_id).returning(*claims.c)).all()
    for row in freed:
        conn.execute(
            sa.update(hosts)
            .where(hosts.c.host == row.host)
            .values(
                vcpus_used=hosts.c.vcpus_used - row.vcpus,
                memory_mb_used=hosts.c.memory_mb_used - row.memory_mb,
                disk_gb_used=hosts.c.disk_gb_used - row.disk_gb,
                servers=hosts.c.servers - 1,
                generation=hosts.c.generation + 1,
                updated_at=now(),
            )
        )
