"""Services and hypervisors as the admin's lists show them, and what an admin may change of a service.

Ids are UUIDs. Before microversion 2.53 the API showed numbers instead: those are the first twelve hex digits
of the UUID, so that a number finds its row by a range of the primary key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.errors import BadRequest, Conflict, NotFound
from kilonova.store import aggregates, paging
from kilonova.store.database import Row
from kilonova.store.schema.hosts import claims, hosts, services
from kilonova.store.schema.servers import servers

_busy = (
    sa.select(sa.func.count())
    .where(servers.c.host == hosts.c.host, servers.c.deleted_at.is_(None), servers.c.task_state.is_not(None))
    .scalar_subquery()
)
_HYPERVISOR = sa.select(
    *hosts.c,
    _busy.label("current_workload"),
    services.c.last_seen,
    services.c.disabled,
    services.c.disabled_reason,
    services.c.forced_down,
).join(services, services.c.id == hosts.c.service_id)


def all_services(conn: sa.Connection, *, binary: str | None = None, host: str | None = None) -> Sequence[Row]:
    """Every service, or those of a binary, a host or both, one statement."""
    query = sa.select(services)
    if binary is not None:
        query = query.where(services.c.binary == binary)
    if host is not None:
        query = query.where(services.c.host == host)
    return conn.execute(query.order_by(services.c.binary, services.c.host)).all()


def service(conn: sa.Connection, service_id: str) -> Row:
    """NotFound if there is none."""
    row = conn.execute(sa.select(services).where(services.c.id == service_id)).one_or_none()
    if row is None:
        raise NotFound(f"Service {service_id} could not be found.")
    return row


def change_service(conn: sa.Connection, service_id: str, **values: Any) -> None:
    """UPDATE services SET …; its host counts as changed, so that the scheduler sees it."""
    conn.execute(sa.update(services).where(services.c.id == service_id).values(updated_at=now(), **values))
    conn.execute(sa.update(hosts).where(hosts.c.service_id == service_id).values(updated_at=now()))


def delete_service(conn: sa.Connection, service_id: str) -> None:
    """The service and its host are forgotten. Conflict while servers are on it, or are about to be."""
    # A claim that is being taken ends first, or finds no host.
    conn.execute(sa.select(hosts.c.id).where(hosts.c.service_id == service_id).with_for_update())
    compute = sa.select(services.c.host).where(
        services.c.id == service_id, services.c.binary == "nova-compute"
    )
    placed = sa.select(servers.c.id).where(servers.c.host.in_(compute), servers.c.deleted_at.is_(None))
    claimed = sa.select(claims.c.server_id).where(claims.c.host.in_(compute))
    if conn.execute(placed.union_all(claimed).limit(1)).first() is not None:
        raise Conflict(
            "Unable to delete compute service that is hosting instances. "
            "Migrate or delete the instances first."
        )
    for host in conn.execute(compute).scalars().all():
        aggregates.forget_host(conn, host)
    conn.execute(sa.delete(hosts).where(hosts.c.service_id == service_id))
    conn.execute(sa.delete(services).where(services.c.id == service_id))


def hypervisors(
    conn: sa.Connection, *, pattern: str | None = None, marker: str | None = None, limit: int | None = None
) -> Sequence[Row]:
    """One page of hosts with their service, by name; ``pattern`` is a part of the name,
    large letters or small.

    ``limit`` None: all. BadRequest if the marker is no host's id.
    """
    query = _HYPERVISOR
    if pattern is not None:
        query = query.where(hosts.c.hypervisor_hostname.icontains(pattern, autoescape=True))
    key = hosts.c.hypervisor_hostname
    if limit is None:
        return conn.execute(query.order_by(key, hosts.c.id)).all()
    after = _position(conn, marker) if marker is not None else None
    page = paging.page(query, key, hosts.c.id, descending=False, after=after, limit=limit)
    return conn.execute(page).all()


def hypervisor(conn: sa.Connection, host_id: str) -> Row | None:
    return conn.execute(_HYPERVISOR.where(hosts.c.id == host_id)).one_or_none()


def servers_on(conn: sa.Connection, names: Iterable[str]) -> dict[str, list[dict[str, str]]]:
    """Host → the servers on it, ``{name, uuid}``; one statement for all hosts."""
    query = (
        sa.select(servers.c.host, servers.c.id, servers.c.name)
        .where(servers.c.host.in_(list(names)), servers.c.deleted_at.is_(None))
        .order_by(servers.c.created_at, servers.c.id)
    )
    found: dict[str, list[dict[str, str]]] = {}
    for row in conn.execute(query):
        found.setdefault(row.host, []).append({"name": row.name, "uuid": row.id})
    return found


def statistics(conn: sa.Connection) -> Row:
    """The sums over every host whose service is enabled: {count, vcpus, vcpus_used, …}."""
    summed = {
        "vcpus": hosts.c.vcpus,
        "vcpus_used": hosts.c.vcpus_used,
        "memory_mb": hosts.c.memory_mb,
        "memory_mb_used": hosts.c.memory_mb_used,
        "local_gb": hosts.c.disk_gb,
        "local_gb_used": hosts.c.disk_gb_used,
        "running_vms": hosts.c.servers,
        "disk_available_least": hosts.c.disk_available_least,
        "current_workload": _busy,
    }
    # A sum may be of a type without bounds; this one is a number like those that it is of.
    columns = [
        sa.cast(sa.func.coalesce(sa.func.sum(column), 0), sa.BigInteger).label(name)
        for name, column in summed.items()
    ]
    query = sa.select(sa.func.count().label("count"), *columns)
    query = query.select_from(hosts.join(services, services.c.id == hosts.c.service_id))
    return conn.execute(query.where(services.c.disabled.is_(False))).one()


def number_of(row_id: str) -> int:
    """The number that stood for a UUID before 2.53."""
    return int(row_id.replace("-", "")[:12], 16)


def id_of(conn: sa.Connection, table: sa.Table, number: int) -> str | None:
    """The UUID that a number stands for; ``table``: hosts or services."""
    if not 0 <= number < 1 << 48:
        return None
    digits = f"{number:012x}"
    start = f"{digits[:8]}-{digits[8:]}-"
    query = sa.select(table.c.id).where(table.c.id.between(start, start + "~"))
    return conn.execute(query.limit(1)).scalar_one_or_none()


def _position(conn: sa.Connection, marker: str) -> tuple[str, str]:
    query = sa.select(hosts.c.hypervisor_hostname).where(hosts.c.id == marker)
    name = conn.execute(query).scalar_one_or_none()
    if name is None:
        raise BadRequest(f"marker [{marker}] not found")
    return name, marker
