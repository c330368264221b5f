"""Queries about subnets and the addresses given out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain.network import SHARED, Subnet
from kilonova.domain.routers import GATEWAY_OWNER, INTERFACE_OWNER
from kilonova.store import dialect, revisions
from kilonova.store.network_lists import Condition, Listing, Page, few
from kilonova.store.schema.base import encoded
from kilonova.store.schema.network_rbac import network_rbac
from kilonova.store.schema.networks import ip_allocations, networks, ports, subnets

DHCP_OWNER = "network:dhcp"

ATTRIBUTES = {
    **{
        name: subnets.c[name]
        for name in (
            "id",
            "name",
            "description",
            "project_id",
            "network_id",
            "cidr",
            "ip_version",
            "gateway_ip",
            "enable_dhcp",
            "ipv6_ra_mode",
            "ipv6_address_mode",
            "subnetpool_id",
            "revision_number",
        )
    },
    "tenant_id": subnets.c.project_id,
}

# Statements on the way of a build are made once: making one costs more than running it.


# SELECT subnets.*, ip_allocations.ip FROM subnets
# LEFT JOIN ports ON ports.network_id = subnets.network_id AND ports.device_owner = 'network:dhcp'
# LEFT JOIN ip_allocations ON ip_allocations.port_id = ports.id AND ip_allocations.subnet_id = subnets.id
_OF_NETWORKS = (
    sa.select(subnets, ip_allocations.c.ip.label("dhcp_address"))
    .outerjoin(ports, sa.and_(ports.c.network_id == subnets.c.network_id, ports.c.device_owner == DHCP_OWNER))
    .outerjoin(
        ip_allocations,
        sa.and_(ip_allocations.c.port_id == ports.c.id, ip_allocations.c.subnet_id == subnets.c.id),
    )
    .where(subnets.c.network_id.in_(sa.bindparam("networks", expanding=True)))
    .order_by(subnets.c.created_at, subnets.c.id)
)
_LOCK_OF_NETWORKS = (
    sa.select(subnets.c.id)
    .where(subnets.c.network_id.in_(sa.bindparam("networks", expanding=True)))
    .order_by(subnets.c.created_at, subnets.c.id)
    .with_for_update(key_share=True)
)
_SEARCH_FROM = (
    sa.update(subnets)
    .where(subnets.c.id == sa.bindparam("subnet"))
    .values(next_number=sa.bindparam("number"))
)


def _first_free() -> sa.Select[tuple[int | None]]:
    """The lowest free number of a subnet in first..last.

    SELECT CASE WHEN :first is free THEN :first ELSE
      (SELECT taken.number + 1 FROM ip_allocations taken
       WHERE taken.subnet_id = :subnet AND taken.number >= :first AND taken.number < :last
       AND taken.number + 1 is free ORDER BY taken.number LIMIT 1) END
    """
    taken = ip_allocations.alias("taken")
    subnet, first, last = (
        sa.bindparam("subnet", type_=sa.String),
        sa.bindparam("first", type_=sa.BigInteger),
        sa.bindparam("last", type_=sa.BigInteger),
    )

    def free(number: sa.ColumnElement[int]) -> Condition:
        other = ip_allocations.alias()
        return ~sa.exists().where(other.c.subnet_id == subnet, other.c.number == number)

    gap = (
        sa.select(taken.c.number + 1)
        .where(
            taken.c.subnet_id == subnet,
            taken.c.number >= first,
            taken.c.number < last,
            free(taken.c.number + 1),
        )
        .order_by(taken.c.number)
        .limit(1)
    )
    return sa.select(sa.case((free(first), first), else_=gap.scalar_subquery()))


_FIRST_FREE = _first_free()


def visible_to(project_id: str | None) -> Condition:
    """Its own subnets, and those of networks it sees. None: everything (an admin)."""
    if project_id is None:
        return sa.true()
    on_own = sa.exists().where(networks.c.id == subnets.c.network_id, networks.c.project_id == project_id)
    return sa.or_(subnets.c.project_id == project_id, on_own, shared_with(project_id))


def shared_with(project_id: str | None) -> Condition:
    """Their networks are shared with the project. None: with everybody."""
    shared: Condition = networks.c.shared.is_(sa.true())
    if project_id is not None:
        named = sa.exists().where(
            network_rbac.c.object_id == networks.c.id,
            network_rbac.c.target_tenant == project_id,
            network_rbac.c.action == SHARED,
        )
        shared = sa.or_(shared, named)
    return sa.exists().where(networks.c.id == subnets.c.network_id, shared)


def page(conn: sa.Connection, asked: Page, project_id: str | None) -> tuple[list[Subnet], bool, bool] | None:
    """Subnets, more after, more before; None if the marker is unknown."""
    listing = Listing(
        subnets, ATTRIBUTES | {"shared": shared_with(project_id)}, {"service_types": _of_service_types}
    )
    found = listing.page(conn, asked, visible_to(project_id))
    return None if found is None else ([_subnet(row) for row in found[0]], found[1], found[2])


def _of_service_types(values: list[str]) -> Condition:
    """Subnets that have one of them; an empty value: that have none."""
    written = sa.type_coerce(subnets.c.service_types, sa.Text())
    wanted = few("service_types", values)
    named = [written.contains(encoded(value), autoescape=True) for value in wanted if value]
    return sa.or_(*named, *([written.is_(None)] if "" in wanted else []))


def get(conn: sa.Connection, subnet_id: str, project_id: str | None) -> Subnet | None:
    """The subnet, if that project sees it."""
    row = conn.execute(sa.select(subnets).where(subnets.c.id == subnet_id, visible_to(project_id))).first()
    return None if row is None else _subnet(row)


def of_networks(
    conn: sa.Connection, network_ids: Sequence[str], for_update: bool = False
) -> dict[str, list[Subnet]]:
    """Network id → its subnets, oldest first, each with the address that answers DHCP on it.

    ``for_update``: addresses will be taken. A database with many writers locks the rows (SQLite has one
    writer anyway), so that two builds look for a free address one after the other.
    """
    found: dict[str, list[Subnet]] = {}
    if not network_ids:
        return found
    if for_update and dialect.is_postgresql(conn):
        # By itself: who waits for a lock sees as they are now only the rows that it locks.
        conn.execute(_LOCK_OF_NETWORKS, {"networks": network_ids})
    for row in conn.execute(_OF_NETWORKS, {"networks": network_ids}):
        found.setdefault(row.network_id, []).append(_subnet(row))
    return found


def insert(conn: sa.Connection, subnet: Subnet) -> None:
    row = msgspec.structs.asdict(subnet)
    del row["dhcp_address"]
    conn.execute(sa.insert(subnets), row)


def update(conn: sa.Connection, subnet_id: str, changes: Mapping[str, Any]) -> None:
    revisions.change(conn, subnets, subnets.c.id == subnet_id, changes)


def delete(conn: sa.Connection, subnet_ids: Sequence[str]) -> None:
    """The subnets alone: no port may have an address of theirs."""
    conn.execute(sa.delete(subnets).where(subnets.c.id.in_(subnet_ids)))


def first_free(conn: sa.Connection, subnet_id: str, first: int, last: int) -> int | None:
    """The lowest free number in first..last, both included.

    It looks at the addresses that are taken, from ``first`` on, and ends at the first gap: near the
    place where the search of the last time ended, that is at once.
    """
    found: Any = conn.scalar(_FIRST_FREE, {"subnet": subnet_id, "first": first, "last": last})
    return None if found is None else int(found)


def taken(conn: sa.Connection, subnet_id: str, number: int) -> bool:
    query = sa.exists().where(ip_allocations.c.subnet_id == subnet_id, ip_allocations.c.number == number)
    return bool(conn.scalar(sa.select(query)))


def taken_among(conn: sa.Connection, subnet_id: str, numbers: Sequence[int]) -> set[int]:
    """Those of the numbers that a port has."""
    own = ip_allocations.c
    query = sa.select(own.number).where(own.subnet_id == subnet_id, own.number.in_(numbers))
    return set(conn.scalars(query)) if numbers else set()


def search_from(conn: sa.Connection, next_numbers: Mapping[str, int]) -> None:
    """Subnet id → where its next search for a free address begins."""
    conn.execute(
        _SEARCH_FROM,
        [{"subnet": subnet_id, "number": number} for subnet_id, number in next_numbers.items()],
    )


def in_use(conn: sa.Connection, subnet_id: str, automatic: bool = False) -> bool:
    """Whether a port has an address of it; DHCP's own does not count. ``automatic``: none but a router's."""
    of_router = ports.c.device_owner.in_([INTERFACE_OWNER, GATEWAY_OWNER])
    query = sa.exists().where(
        ip_allocations.c.subnet_id == subnet_id,
        ip_allocations.c.port_id == ports.c.id,
        of_router if automatic else ports.c.device_owner != DHCP_OWNER,
    )
    return bool(conn.scalar(sa.select(query)))


def has_ipv6(conn: sa.Connection, network_id: str) -> bool:
    query = sa.exists().where(subnets.c.network_id == network_id, subnets.c.ip_version == 6)
    return bool(conn.scalar(sa.select(query)))


def _subnet(row: sa.Row[Any]) -> Subnet:
    return Subnet(**row._mapping)
