"""Claims: the share of a host that a server holds. Taken and released in one transaction (invariant 7)."""

from __future__ import annotations

import sqlalchemy as sa
from msgspec import structs
from sqlalchemy import bindparam as given

from kilonova.domain.clock import now
from kilonova.domain.hosts import Capacity
from kilonova.store.database import Row
from kilonova.store.schema.hosts import claims, hosts, services
from kilonova.store.statement import Statement

_TAKE = (
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
_CLAIM = Statement(_TAKE)
_CLAIM_ENABLED = Statement(
    _TAKE.where(
        sa.exists().where(services.c.id == hosts.c.service_id, services.c.disabled.is_(False)),
    )
)
_INSERT = Statement(claims.insert())


def claim(
    conn: sa.Connection, server_id: str, host: str, need: Capacity, only_enabled: bool = False
) -> Row | None:
    """Take ``need`` of ``host`` for a server, if it is still free; what the host has after, or None.

    UPDATE hosts SET vcpus_used = vcpus_used + n …, generation = generation + 1
    WHERE host = … AND vcpus_used + n <= vcpus_limit AND …

    ``only_enabled``: and nobody has disabled its service.
    """
    at = now()
    query = _CLAIM_ENABLED if only_enabled else _CLAIM
    taken = query.row(conn, {"on": host, "at": at, **_amounts(need)})
    if taken is not None:
        row = {"server_id": server_id, "host": host, "created_at": at, **structs.asdict(need)}
        _INSERT.insert(conn, [row])
    return taken


_IS_ON = Statement(
    sa.select(claims.c.server_id).where(claims.c.server_id == given("server"), claims.c.host == given("on"))
)


def is_on(conn: sa.Connection, server_id: str, host: str) -> bool:
    """Whether the server holds a share of that host."""
    return _IS_ON.row(conn, {"server": server_id, "on": host}) is not None


_RELEASE = Statement(sa.delete(claims).where(claims.c.server_id == given("server")).returning(*claims.c))
_GIVE_BACK = Statement(
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
    for row in sorted(_RELEASE.rows(conn, {"server": server_id}), key=lambda row: str(row.host)):
        freed = Capacity(vcpus=row.vcpus, memory_mb=row.memory_mb, disk_gb=row.disk_gb)
        _GIVE_BACK.count(conn, {"on": row.host, "at": now(), **_amounts(freed)})


def _amounts(capacity: Capacity) -> dict[str, int]:
    """As bind parameters; a parameter may not have a column's own name in an UPDATE."""
    return {f"need_{name}": amount for name, amount in structs.asdict(capacity).items()}
