"""Services and compute hosts in the database: written by what hosts report, read by the scheduler."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam as given

from kilonova.config import Compute
from kilonova.domain.clock import now
from kilonova.domain.hosts import HostReport
from kilonova.domain.network import PlugKind
from kilonova.store import dialect
from kilonova.store.database import Row
from kilonova.store.schema.hosts import hosts, services
from kilonova.store.statement import Statement


def seen(conn: sa.Connection, binary: str, host: str, zone: str) -> str:
    """A service lives: its id. It is made at its first sign of life.

    UPDATE services SET last_seen = … WHERE binary = … AND host = … RETURNING id
    """
    query = sa.update(services).where(services.c.binary == binary, services.c.host == host)
    query = query.values(last_seen=now()).returning(services.c.id)
    found = conn.execute(query).scalar_one_or_none()
    if found is None:
        row = {
            "id": str(uuid.uuid4()),
            "binary": binary,
            "host": host,
            "availability_zone": zone,
            "disabled": False,
            "forced_down": False,
            "last_seen": now(),
            "created_at": now(),
            "updated_at": now(),
        }
        dialect.insert_new(conn, services, row)
        found = conn.execute(query).scalar_one()
    return str(found)


class TunnelAddress(NamedTuple):
    """Where a host takes tunnels: before its report, and after it. None: nowhere."""

    before: str | None
    after: str | None

    @property
    def moved(self) -> bool:
        return self.before != self.after


def report(
    conn: sa.Connection, service_id: str, host: str, told: HostReport, rules: Compute
) -> TunnelAddress:
    """Write what a host said of itself; its claims are not touched. Nothing is written if nothing changed."""
    values = _values(told, rules)
    row = conn.execute(sa.select(hosts).where(hosts.c.host == host)).one_or_none()
    before, address = row.tunnel_address if row is not None else None, told.takes_tunnels_at
    if address and before != address:
        values["tunnel_address"] = address = _taken_over(conn, host, address, rules)
    if row is None:
        fresh = {"id": str(uuid.uuid4()), "service_id": service_id, "created_at": now(), "updated_at": now()}
        counters = ("vcpus_used", "memory_mb_used", "disk_gb_used", "servers", "failed_builds", "generation")
        conn.execute(hosts.insert().values(host=host, **values, **fresh, **dict.fromkeys(counters, 0)))
    elif _differs(row, values):
        changed = {**values, "generation": hosts.c.generation + 1, "updated_at": now()}
        conn.execute(sa.update(hosts).where(hosts.c.host == host).values(changed))
    return TunnelAddress(before, address)


def _taken_over(conn: sa.Connection, host: str, address: str, rules: Compute) -> str | None:
    """The address for tunnels is this host's now, and of none that is silent. None: of one that lives."""
    others = sa.and_(hosts.c.tunnel_address == address, hosts.c.host != host)
    lives = sa.exists().where(
        services.c.id == hosts.c.service_id, services.c.last_seen >= now() - rules.service_down_time
    )
    if conn.execute(sa.select(hosts.c.id).where(others, lives).limit(1)).first() is not None:
        return None
    conn.execute(sa.update(hosts).where(others).values(tunnel_address=None, updated_at=now()))
    return address


_ALL_SEEN = (
    sa.update(services)
    .where(services.c.binary == "nova-compute", services.c.host.in_(given("names", expanding=True)))
    .values(last_seen=given("at"))
    .returning(services.c.host, services.c.id)
)
_ALL = sa.select(hosts).where(hosts.c.host.in_(given("names", expanding=True)))


def report_all(conn: sa.Connection, told: Mapping[str, HostReport], zone: str, rules: Compute) -> list[str]:
    """Hosts live, and say of themselves what they did before, by host: two statements for any number of them.
    Those that are new, or have changed, cost two more each. The hosts that take tunnels at another address
    than before.
    """
    moved = []
    names = list(told)
    service_ids = {row.host: row.id for row in conn.execute(_ALL_SEEN, {"names": names, "at": now()})}
    rows = {row.host: row for row in conn.execute(_ALL, {"names": names})}
    for host, one in told.items():
        service_id = service_ids.get(host) or seen(conn, "nova-compute", host, zone)
        row = rows.get(host)
        differs = row is None or _differs(row, _values(one, rules))
        if differs and report(conn, service_id, host, one, rules).moved:
            moved.append(host)
    return moved


def _differs(row: Row, values: dict[str, object]) -> bool:
    return any(getattr(row, name) != value for name, value in values.items())


def _values(told: HostReport, rules: Compute) -> dict[str, object]:
    total = told.total
    reserved_gb = -(-rules.reserved_host_disk_mb // 1024)
    return {
        "hypervisor_hostname": told.hypervisor_hostname,
        "hypervisor_type": told.hypervisor_type,
        "hypervisor_version": told.hypervisor_version,
        "virt_type": told.virt_type,
        "architectures": told.architectures,
        "host_ip": told.host_ip,
        "cpu_info": told.cpu_info,
        "vcpus": total.vcpus,
        "memory_mb": total.memory_mb,
        "disk_gb": total.disk_gb,
        "vcpus_limit": int((total.vcpus - rules.reserved_host_cpus) * rules.cpu_allocation_ratio),
        "memory_mb_limit": int(
            (total.memory_mb - rules.reserved_host_memory_mb) * rules.ram_allocation_ratio
        ),
        "disk_gb_limit": int((total.disk_gb - reserved_gb) * rules.disk_allocation_ratio),
        "disk_available_least": told.disk_available_least,
        "follows_network": told.follows_network,
        "plug": told.plug,
        "tunnel_address": told.takes_tunnels_at,
        "failed_routers": told.failed_routers or None,
    }


def plugs(conn: sa.Connection, names: Collection[str]) -> dict[str, PlugKind]:
    """Host → how guests are joined to their networks there; of those of these names that are known."""
    query = sa.select(hosts.c.host, hosts.c.plug).where(hosts.c.host.in_(sorted(names)))
    return {row.host: row.plug or "bridge" for row in conn.execute(query)} if names else {}


_TUNNEL_ADDRESS = Statement(sa.select(hosts.c.tunnel_address).where(hosts.c.host == given("on")))


def tunnel_address(conn: sa.Connection, host: str) -> str | None:
    """Where it takes tunnels; None: nowhere, or the host is not known."""
    row = _TUNNEL_ADDRESS.row(conn, {"on": host})
    return None if row is None else row.tunnel_address


_SELECT = sa.select(
    *(
        column
        for column in hosts.c
        if column.name not in {"cpu_info", "failed_routers", "id", "plug", "service_id", "tunnel_address"}
    ),
    services.c.last_seen,
    services.c.disabled,
    services.c.forced_down,
    services.c.availability_zone,
).join(services, services.c.id == hosts.c.service_id)


_WITH_SERVICE = Statement(_SELECT)
_CHANGED = Statement(_SELECT.where(hosts.c.updated_at >= given("since")))


def with_services(conn: sa.Connection, changed_since: float | None = None) -> Sequence[Row]:
    """Hosts with the liveness of their service: all, or those that changed since then."""
    if changed_since is None:
        return _WITH_SERVICE.rows(conn)
    return _CHANGED.rows(conn, {"since": changed_since})


_SELECT_UP = sa.select(services.c.id).where(
    services.c.binary == "nova-compute",
    services.c.host == given("on"),
    services.c.forced_down.is_(False),
    services.c.last_seen >= given("since"),
)
_IS_UP = Statement(_SELECT_UP)
_TAKES_BUILDS = Statement(_SELECT_UP.where(services.c.disabled.is_(False)))


def is_up(conn: sa.Connection, host: str, service_down_time: float) -> bool:
    """Whether the agent of ``host`` gave a sign of life lately and was not forced down."""
    return _IS_UP.row(conn, {"on": host, "since": now() - service_down_time}) is not None


def forced_down(conn: sa.Connection, names: Collection[str]) -> set[str]:
    """Those of which an admin said that they are dead, guests and all."""
    query = sa.select(services.c.host).where(
        services.c.binary == "nova-compute",
        services.c.host.in_(list(names)),
        services.c.forced_down.is_(True),
    )
    return set(conn.execute(query).scalars()) if names else set()


def takes_builds(conn: sa.Connection, host: str, service_down_time: float) -> bool:
    """Whether it is up, and nobody disabled it: what it has stays, but nothing new is placed there."""
    since = now() - service_down_time
    return _TAKES_BUILDS.row(conn, {"on": host, "since": since}) is not None


def any_silent(conn: sa.Connection, service_down_time: float, until: float) -> bool:
    """Whether a compute that would take builds gave no sign of life lately, or may have been silent ``until``
    (epoch seconds) and was heard since."""
    query = sa.select(services.c.id).where(
        services.c.binary == "nova-compute",
        services.c.forced_down.is_(False),
        services.c.disabled.is_(False),
        sa.or_(services.c.last_seen < now() - service_down_time, services.c.last_seen >= until),
    )
    return conn.execute(query.limit(1)).first() is not None


def zone(conn: sa.Connection, host: str) -> str:
    """The availability zone of a compute's service."""
    query = sa.select(services.c.availability_zone).where(
        services.c.binary == "nova-compute", services.c.host == host
    )
    return str(conn.execute(query).scalar_one())


_BUILD_FAILED = Statement(
    sa.update(hosts)
    .where(hosts.c.host == given("on"))
    .values(failed_builds=hosts.c.failed_builds + 1, updated_at=given("at"))
)
_BUILD_DONE = Statement(
    sa.update(hosts)
    .where(hosts.c.host == given("on"), hosts.c.failed_builds > 0)
    .values(failed_builds=0, updated_at=given("at"))
)


@dialect.once
def _builds_done(conn: sa.Connection) -> Statement:
    query = sa.update(hosts).where(dialect.among(conn, hosts.c.host, "names"), hosts.c.failed_builds > 0)
    return Statement(query.values(failed_builds=0, updated_at=given("at")))


def builds_done(conn: sa.Connection, names: Sequence[str]) -> None:
    """Good builds of these hosts: their failed ones are forgotten."""
    _builds_done(conn).count(conn, {"names": names, "at": now()})


def count_build(conn: sa.Connection, host: str, failed: bool) -> None:
    """Remember a failed build of a host (the build-failure weigher shuns it); a good one clears it."""
    (_BUILD_FAILED if failed else _BUILD_DONE).count(conn, {"on": host, "at": now()})
