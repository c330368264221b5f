"""Host aggregates in the database. What a host is in reaches its own rows in the same transaction: the zone
of its service, and what the scheduler reads of it."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence

import msgspec
import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.errors import Conflict, NotFound
from kilonova.store import dialect
from kilonova.store.schema.aggregates import aggregate_hosts, aggregate_metadata, aggregates
from kilonova.store.schema.hosts import hosts, services
from kilonova.store.schema.servers import servers

ZONE = "availability_zone"
"""The key whose value is the zone of an aggregate's hosts."""


class Aggregate(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    uuid: str
    name: str
    hosts: list[str]
    metadata: dict[str, str]
    created_at: float
    updated_at: float | None

    @property
    def availability_zone(self) -> str | None:
        return self.metadata.get(ZONE)


def listed(conn: sa.Connection, wanted: Collection[int] | None = None) -> list[Aggregate]:
    """All of them, or those of these ids, by id: three statements for any number."""
    chosen = sa.true() if wanted is None else aggregates.c.id.in_(list(wanted))
    rows = conn.execute(sa.select(aggregates).where(chosen).order_by(aggregates.c.id)).all()
    ids = [row.id for row in rows]
    members: dict[int, list[str]] = {found: [] for found in ids}
    told: dict[int, dict[str, str]] = {found: {} for found in ids}
    of_these = aggregate_hosts.c.aggregate_id.in_(ids)
    for row in conn.execute(sa.select(aggregate_hosts).where(of_these).order_by(aggregate_hosts.c.host)):
        members[row.aggregate_id].append(row.host)
    of_these = aggregate_metadata.c.aggregate_id.in_(ids)
    for row in conn.execute(sa.select(aggregate_metadata).where(of_these)):
        told[row.aggregate_id][row.key] = row.value
    return [Aggregate(**row._asdict(), hosts=members[row.id], metadata=told[row.id]) for row in rows]


def get(conn: sa.Connection, aggregate_id: int, for_update: bool = False) -> Aggregate:
    """NotFound if there is none. ``for_update``: nobody else changes it until the transaction ends."""
    if for_update:
        conn.execute(sa.select(aggregates.c.id).where(aggregates.c.id == aggregate_id).with_for_update())
    found = listed(conn, [aggregate_id])
    if not found:
        raise NotFound(f"Aggregate {aggregate_id} could not be found.")
    return found[0]


def create(conn: sa.Connection, name: str, zone: str | None) -> Aggregate:
    """Conflict if there is one of that name."""
    row = {"uuid": str(uuid.uuid4()), "name": name, "created_at": now()}
    if not dialect.insert_new(conn, aggregates, row):
        raise _name_exists(name)
    query = sa.select(aggregates.c.id).where(aggregates.c.uuid == row["uuid"])
    aggregate_id = conn.execute(query).scalar_one()
    if zone is not None:
        set_metadata(conn, aggregate_id, {ZONE: zone})
        conn.execute(sa.update(aggregates).where(aggregates.c.id == aggregate_id).values(updated_at=None))
    return get(conn, aggregate_id)


def rename(conn: sa.Connection, aggregate_id: int, name: str) -> None:
    taken = sa.select(aggregates.c.id).where(aggregates.c.name == name, aggregates.c.id != aggregate_id)
    if conn.execute(taken).first() is not None:
        raise _name_exists(name)
    conn.execute(_touched(aggregate_id).values(name=name))


def delete(conn: sa.Connection, aggregate_id: int) -> None:
    for table in (aggregate_hosts, aggregate_metadata):
        conn.execute(table.delete().where(table.c.aggregate_id == aggregate_id))
    conn.execute(aggregates.delete().where(aggregates.c.id == aggregate_id))


def set_metadata(conn: sa.Connection, aggregate_id: int, changes: Mapping[str, str | None]) -> None:
    """What is None goes; what is not named stays."""
    table = aggregate_metadata
    conn.execute(table.delete().where(table.c.aggregate_id == aggregate_id, table.c.key.in_(list(changes))))
    rows = [
        {"aggregate_id": aggregate_id, "key": key, "value": value}
        for key, value in changes.items()
        if value is not None
    ]
    if rows:
        conn.execute(table.insert(), rows)
    conn.execute(_touched(aggregate_id))


def add_host(conn: sa.Connection, aggregate_id: int, host: str) -> None:
    """Conflict if it is in it already."""
    if not dialect.insert_new(conn, aggregate_hosts, {"aggregate_id": aggregate_id, "host": host}):
        raise Conflict(f"Aggregate {aggregate_id} already has host {host}.")
    conn.execute(_touched(aggregate_id))


def remove_host(conn: sa.Connection, aggregate_id: int, host: str) -> None:
    """NotFound if it is not in it."""
    table = aggregate_hosts
    gone = conn.execute(table.delete().where(table.c.aggregate_id == aggregate_id, table.c.host == host))
    if not gone.rowcount:
        raise NotFound(f"Aggregate {aggregate_id} has no host {host}.")
    conn.execute(_touched(aggregate_id))


def forget_host(conn: sa.Connection, host: str) -> None:
    """It is in no aggregate: there is no such host any more."""
    conn.execute(aggregate_hosts.delete().where(aggregate_hosts.c.host == host))


def knows_host(conn: sa.Connection, host: str) -> bool:
    return conn.execute(sa.select(hosts.c.id).where(hosts.c.host == host)).first() is not None


def zones_of(conn: sa.Connection, names: Collection[str], besides: int) -> set[str]:
    """The zones that aggregates other than ``besides`` give these hosts."""
    table = aggregate_hosts.join(
        aggregate_metadata, aggregate_metadata.c.aggregate_id == aggregate_hosts.c.aggregate_id
    )
    query = sa.select(aggregate_metadata.c.value).select_from(table)
    query = query.where(aggregate_hosts.c.host.in_(sorted(names)), aggregate_metadata.c.key == ZONE)
    return set(conn.execute(query.where(aggregate_hosts.c.aggregate_id != besides)).scalars())


def have_servers(conn: sa.Connection, names: Collection[str]) -> bool:
    query = sa.select(servers.c.id).where(servers.c.host.in_(sorted(names)), servers.c.deleted_at.is_(None))
    return conn.execute(query.limit(1)).first() is not None


def settle(conn: sa.Connection, names: Collection[str], default_zone: str) -> None:
    """These hosts' own rows say what their aggregates do now. Call it last in the transaction."""
    if not names:
        return
    told = _told(conn, names)
    for name in sorted(names):
        zone = told.get(name, {}).get(ZONE, [default_zone])[0]
        service = sa.update(services).where(services.c.binary == "nova-compute", services.c.host == name)
        conn.execute(service.values(availability_zone=zone))
        row = sa.update(hosts).where(hosts.c.host == name)
        conn.execute(row.values(aggregate_metadata=told.get(name), updated_at=now()))


def _told(conn: sa.Connection, names: Collection[str]) -> dict[str, dict[str, list[str]]]:
    """Host → key → what its aggregates say, sorted."""
    table = aggregate_hosts.join(
        aggregate_metadata, aggregate_metadata.c.aggregate_id == aggregate_hosts.c.aggregate_id
    )
    query = (
        sa.select(aggregate_hosts.c.host, aggregate_metadata.c.key, aggregate_metadata.c.value)
        .select_from(table)
        .where(aggregate_hosts.c.host.in_(sorted(names)))
        .order_by(aggregate_metadata.c.value)
        .distinct()
    )
    found: dict[str, dict[str, list[str]]] = {}
    for host, key, value in conn.execute(query):
        found.setdefault(host, {}).setdefault(key, []).append(value)
    return found


def up_hosts(conn: sa.Connection, names: Sequence[str], service_down_time: float) -> list[str]:
    """Those of these hosts whose agent gave a sign of life lately."""
    query = sa.select(services.c.host).where(
        services.c.binary == "nova-compute",
        services.c.host.in_(list(names)),
        services.c.forced_down.is_(False),
        services.c.last_seen >= now() - service_down_time,
    )
    return list(conn.execute(query.order_by(services.c.host)).scalars())


def _touched(aggregate_id: int) -> sa.Update:
    return sa.update(aggregates).where(aggregates.c.id == aggregate_id).values(updated_at=now())


def _name_exists(name: str) -> Conflict:
    return Conflict(f"Aggregate {name} already exists.")
