"""Claims: the share of a host that a server holds. Taken and released in one transaction (invariant 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from msgspec import structs
from sqlalchemy import bindparam as given

from kilonova.domain.clock import now
from kilonova.domain.hosts import Capacity
from kilonova.store import dialect
from kilonova.store.database import Row
from kilonova.store.schema.hosts import claims, hosts, services
from kilonova.store.statement import Statement

_NEED: dict[str, Any] = {name: given(name) for name in ("need_vcpus", "need_memory_mb", "need_disk_gb")}


def _take(on: Any, need: Mapping[str, Any], more: Any, only_enabled: bool) -> sa.Executable:
    query = sa.update(hosts).where(
        hosts.c.host == on,
        hosts.c.vcpus_used + need["need_vcpus"] <= hosts.c.vcpus_limit,
        hosts.c.memory_mb_used + need["need_memory_mb"] <= hosts.c.memory_mb_limit,
        hosts.c.disk_gb_used + need["need_disk_gb"] <= hosts.c.disk_gb_limit,
    )
    if only_enabled:
        query = query.where(
            sa.exists().where(services.c.id == hosts.c.service_id, services.c.disabled.is_(False))
        )
    return query.values(
        vcpus_used=hosts.c.vcpus_used + need["need_vcpus"],
        memory_mb_used=hosts.c.memory_mb_used + need["need_memory_mb"],
        disk_gb_used=hosts.c.disk_gb_used + need["need_disk_gb"],
        servers=hosts.c.servers + more,
        generation=hosts.c.generation + 1,
        updated_at=given("at"),
    ).returning(
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


_CLAIM = Statement(_take(given("on"), _NEED, 1, only_enabled=False))
_CLAIM_ENABLED = Statement(_take(given("on"), _NEED, 1, only_enabled=True))
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


class Want(NamedTuple):
    """What one server needs of a host."""

    server_id: str
    host: str
    need: Capacity


@dialect.once
def _lock_hosts(conn: sa.Connection) -> Statement:
    query = sa.select(hosts.c.host).where(dialect.among(conn, hosts.c.host, "names"))
    return Statement(query.order_by(hosts.c.host).with_for_update(key_share=True))


_GIVEN = {
    "on": hosts.c.host,
    "need_vcpus": hosts.c.vcpus,
    "need_memory_mb": hosts.c.memory_mb,
    "need_disk_gb": hosts.c.disk_gb,
    "more": hosts.c.servers,
}


def _taking_all(only_enabled: bool) -> Callable[[sa.Connection], Statement]:
    @dialect.once
    def statement(_conn: sa.Connection) -> Statement:
        """UPDATE hosts SET vcpus_used = vcpus_used + told.need_vcpus … FROM unnest(…) AS told
        WHERE host = told.on AND vcpus_used + told.need_vcpus <= vcpus_limit AND …"""
        told = dialect.given_rows(_GIVEN).c
        return Statement(_take(told.on, dict(told.items()), told.more, only_enabled))

    return statement


_TAKE_ALL = {only_enabled: _taking_all(only_enabled) for only_enabled in (False, True)}


def claim_all(conn: sa.Connection, wants: Sequence[Want], only_enabled: bool = False) -> dict[str, Row]:
    """claim() for several servers, each of which holds nothing: what the hosts have after, by host.

    What all of them want of a host is taken of it, or none of that; a host that is missing in the answer did
    not have it free.
    """
    if not dialect.is_postgresql(conn):
        return _claim_each(conn, wants, only_enabled)
    by_host: dict[str, list[Want]] = {}
    for want in wants:
        by_host.setdefault(want.host, []).append(want)
    names = sorted(by_host)
    at = now()
    columns: dict[str, Any] = {
        f"need_{name}": [sum(getattr(want.need, name) for want in by_host[host]) for host in names]
        for name in ("vcpus", "memory_mb", "disk_gb")
    }
    columns |= {"on": names, "more": [len(by_host[host]) for host in names], "at": at}
    _lock_hosts(conn).rows(conn, {"names": names})
    taken = {row.host: row for row in _TAKE_ALL[only_enabled](conn).rows(conn, columns)}
    rows = [_claim_row(want, at) for want in wants if want.host in taken]
    if rows:
        _insert_all(conn).count(conn, {name: [row[name] for row in rows] for name in rows[0]})
    return taken


def _claim_each(conn: sa.Connection, wants: Sequence[Want], only_enabled: bool) -> dict[str, Row]:
    taken: dict[str, Row] = {}
    full: set[str] = set()
    for host in dict.fromkeys(want.host for want in wants):
        mine = [want for want in wants if want.host == host]
        for number, want in enumerate(mine):
            row = claim(conn, want.server_id, host, want.need, only_enabled)
            if row is None:
                for other in mine[:number]:
                    release(conn, other.server_id)
                full.add(host)
                break
            taken[host] = row
    return {host: row for host, row in taken.items() if host not in full}


@dialect.once
def _insert_all(conn: sa.Connection) -> Statement:
    told = dialect.given_rows(dict(claims.c.items()))
    return Statement(dialect.insert(conn, claims).from_select(list(claims.c.keys()), sa.select(*told.c)))


def _claim_row(want: Want, at: float) -> dict[str, Any]:
    return {"server_id": want.server_id, "host": want.host, "created_at": at, **structs.asdict(want.need)}


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


@dialect.once
def _holding(conn: sa.Connection) -> Statement:
    query = sa.select(claims.c.server_id).where(dialect.among(conn, claims.c.server_id, "servers"))
    return Statement(query.distinct())


def holding(conn: sa.Connection, server_ids: Sequence[str]) -> set[str]:
    """Those of these servers that hold a share of some host."""
    return {row.server_id for row in _holding(conn).rows(conn, {"servers": server_ids})}
