"""Which hosts may have a router, and whether the one that has it makes it: for queries about routers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.store.network_lists import Condition
from kilonova.store.schema.hosts import hosts, services
from kilonova.store.schema.routers import routers

_TELLING = hosts.alias("telling")


def refused_by(host: sa.ColumnElement[str]) -> Condition:
    """That host says that it cannot make the router.

    EXISTS (SELECT * FROM hosts WHERE hosts.host = :host AND failed_routers LIKE '%' || routers.id || '%')
    (which is a list of ids, as JSON)
    """
    told = _TELLING.c.failed_routers
    return sa.exists().where(_TELLING.c.host == host, sa.type_coerce(told, sa.Text).contains(routers.c.id))


def made() -> Condition:
    """The router is on a host, which does not say that it cannot make it."""
    return sa.and_(routers.c.host != "", ~refused_by(routers.c.host))


def lives(service_down_time: float) -> Condition:
    """Of a row of ``services``: it is of a host that is up."""
    return sa.and_(
        services.c.binary == "nova-compute",
        sa.not_(services.c.forced_down),
        services.c.last_seen > now() - service_down_time,
    )


def pick_host(
    conn: sa.Connection, service_down_time: float, zones: Sequence[str] = (), but: Collection[str] = ()
) -> str:
    """The host for a router: of those that are up, in one of these zones (none: in any) and none of ``but``,
    the one with the fewest routers; empty if there is none. The last choice is one whose network is not told
    of changes (a fake one, or of a release that knew no routers); before that, one without tunnels, which
    leads to no other host's guests; before that, one that is disabled.

    SELECT services.host FROM services LEFT JOIN hosts ON hosts.service_id = services.id WHERE …
    ORDER BY follows_network IS NOT TRUE, tunnel_address IS NULL, disabled, (its routers), host LIMIT 1
    """
    load = sa.select(sa.func.count()).where(routers.c.host == services.c.host).scalar_subquery()
    found = conn.scalar(
        sa.select(services.c.host)
        .join(hosts, hosts.c.service_id == services.c.id, isouter=True)
        .where(
            lives(service_down_time),
            services.c.availability_zone.in_(zones) if zones else sa.true(),
            services.c.host.not_in(sorted(but)),
        )
        .order_by(
            sa.case((hosts.c.follows_network.is_(sa.true()), 0), else_=1),
            sa.case((hosts.c.tunnel_address.is_not(None), 0), else_=1),
            sa.case((services.c.disabled, 1), else_=0),
            load,
            services.c.host,
        )
        .limit(1)
    )
    return str(found or "")


def refusing(conn: sa.Connection, router_id: str) -> list[str]:
    """The hosts that say that they cannot make that router."""
    told = hosts.join(routers, refused_by(hosts.c.host))
    query = sa.select(hosts.c.host).select_from(told).where(routers.c.id == router_id)
    return list(conn.scalars(query))
