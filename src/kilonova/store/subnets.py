"""Queries about subnets and the addresses given out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.network import Subnet
from kilonova.store.network_lists import Condition, Listing, Page
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
            "revision_number",
        )
    },
    "tenant_id": subnets.c.project_id,
}
_listing = Listing(subnets, ATTRIBUTES, {})


def visible_to(project_id: str | None) -> Condition:
    """Its own subnets, and those of networks it sees. None: everything (an admin)."""
    if project_id is None:
        return sa.true()
    on_visible = sa.exists().where(
        networks.c.id == subnets.c.network_id,
        sa.or_(networks.c.shared, networks.c.project_id == project_id),
    )
    return sa.or_(subnets.c.project_id == project_id, on_visible)


def page(conn: sa.Connection, asked: Page, project_id: str | None) -> tuple[list[Subnet], bool, bool] | None:
    """Subnets, more after, more before; None if the marker is unknown."""
    found = _listing.page(conn, asked, visible_to(project_id))
    return None if found is None else ([_subnet(row) for row in found[0]], found[1], found[2])


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
    # SELECT subnets.*, ip_allocations.ip FROM subnets
    # LEFT JOIN ports ON ports.network_id = subnets.network_id AND ports.device_owner = 'network:dhcp'
    # LEFT JOIN ip_allocations ON ip_allocations.port_id = ports.id
    #                         AND ip_allocations.subnet_id = subnets.id
    query = (
        sa.select(subnets, ip_allocations.c.ip.label("dhcp_address"))
        .outerjoin(
            ports, sa.and_(ports.c.network_id == subnets.c.network_id, ports.c.device_owner == DHCP_OWNER)
        )
        .outerjoin(
            ip_allocations,
            sa.and_(ip_allocations.c.port_id == ports.c.id, ip_allocations.c.subnet_id == subnets.c.id),
        )
        .where(subnets.c.network_id.in_(network_ids))
        .order_by(subnets.c.created_at, subnets.c.id)
    )
    if for_update:
        query = query.with_for_update(of=subnets)
    for row in conn.execute(query):
        found.setdefault(row.network_id, []).append(_subnet(row))
    return found


def insert(conn: sa.Connection, subnet: Subnet) -> None:
    row = msgspec.structs.asdict(subnet)
    del row["dhcp_address"]
    conn.execute(sa.insert(subnets), row)


def update(conn: sa.Connection, subnet_id: str, changes: Mapping[str, Any]) -> None:
    conn.execute(
        sa.update(subnets)
        .where(subnets.c.id == subnet_id)
        .values(**changes, updated_at=now(), revision_number=subnets.c.revision_number + 1)
    )


def delete(conn: sa.Connection, subnet_ids: Sequence[str]) -> None:
    """The subnets alone: no port may have an address of theirs."""
    conn.execute(sa.delete(subnets).where(subnets.c.id.in_(subnet_ids)))


def first_free(conn: sa.Connection, subnet_id: str, first: int, last: int) -> int | None:
    """The lowest free number in first..last, both included.

    It looks at the addresses that are taken, from ``first`` on, and ends at the first gap: near the
    place where the search of the last time ended, that is at once.
    """
    # CASE WHEN first is free THEN first ELSE
    #   (SELECT a.number + 1 FROM ip_allocations a WHERE a.subnet_id = :s AND a.number >= :first
    #    AND a.number < :last AND a.number + 1 is free ORDER BY a.number LIMIT 1) END
    taken, beside = ip_allocations.alias("taken"), ip_allocations.alias("beside")
    gap = (
        sa.select(taken.c.number + 1)
        .where(
            taken.c.subnet_id == subnet_id,
            taken.c.number >= first,
            taken.c.number < last,
            ~sa.exists().where(beside.c.subnet_id == subnet_id, beside.c.number == taken.c.number + 1),
        )
        .order_by(taken.c.number)
        .limit(1)
        .scalar_subquery()
    )
    at_first = sa.exists().where(ip_allocations.c.subnet_id == subnet_id, ip_allocations.c.number == first)
    number: int | None = conn.scalar(sa.select(sa.case((~at_first, sa.literal(first)), else_=gap)))
    return number


def taken(conn: sa.Connection, subnet_id: str, number: int) -> bool:
    query = sa.exists().where(ip_allocations.c.subnet_id == subnet_id, ip_allocations.c.number == number)
    return bool(conn.scalar(sa.select(query)))


def search_from(conn: sa.Connection, next_numbers: Mapping[str, int]) -> None:
    """Subnet id → where its next search for a free address begins."""
    conn.execute(
        sa.update(subnets)
        .where(subnets.c.id == sa.bindparam("subnet"))
        .values(next_number=sa.bindparam("number")),
        [{"subnet": subnet_id, "number": number} for subnet_id, number in next_numbers.items()],
    )


def in_use(conn: sa.Connection, subnet_id: str) -> bool:
    """Whether a port has an address of it; DHCP's own does not count."""
    query = sa.exists().where(
        ip_allocations.c.subnet_id == subnet_id,
        ip_allocations.c.port_id == ports.c.id,
        ports.c.device_owner != DHCP_OWNER,
    )
    return bool(conn.scalar(sa.select(query)))


def serves_servers(conn: sa.Connection, subnet_id: str) -> bool:
    """Whether a server's NIC has an address of it, so that hosts act on what the subnet says."""
    query = sa.exists().where(
        ip_allocations.c.subnet_id == subnet_id,
        ip_allocations.c.port_id == ports.c.id,
        ports.c.nic.is_not(None),
    )
    return bool(conn.scalar(sa.select(query)))


def _subnet(row: sa.Row[Any]) -> Subnet:
    return Subnet(**row._mapping)
