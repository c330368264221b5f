"""Queries about ports of floating IPs that lead inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain.routers import PortForwarding
from kilonova.store.network_lists import Condition, Listing, Page
from kilonova.store.schema.routers import port_forwardings as table


def _only(first: sa.Column[int], last: sa.Column[int]) -> sa.ColumnElement[int]:
    """The port, where there is but one."""
    return sa.case((first == last, first), else_=sa.null())


def _range(first: sa.Column[int], last: sa.Column[int]) -> sa.ColumnElement[str]:
    return sa.cast(first, sa.Text) + ":" + sa.cast(last, sa.Text)


_ATTRIBUTES = {
    "id": table.c.id,
    "internal_port_id": table.c.port_id,
    "internal_ip_address": table.c.fixed_ip_address,
    "protocol": table.c.protocol,
    "external_port": _only(table.c.external_first, table.c.external_last),
    "internal_port": _only(table.c.internal_first, table.c.internal_last),
    "external_port_range": _range(table.c.external_first, table.c.external_last),
    "internal_port_range": _range(table.c.internal_first, table.c.internal_last),
    "description": table.c.description,
}
_listing = Listing(table, _ATTRIBUTES, {})


def page(
    conn: sa.Connection, floating_id: str, asked: Page
) -> tuple[list[PortForwarding], bool, bool] | None:
    """Of that floating IP: forwardings, more after, more before; None if the marker is unknown."""
    found = _listing.page(conn, asked, table.c.floating_ip_id == floating_id)
    return None if found is None else ([_made(row) for row in found[0]], found[1], found[2])


def get(conn: sa.Connection, floating_id: str, forwarding_id: str) -> PortForwarding | None:
    query = sa.select(table).where(table.c.id == forwarding_id, table.c.floating_ip_id == floating_id)
    row = conn.execute(query).first()
    return None if row is None else _made(row)


def of_floating_ips(conn: sa.Connection, floating_ids: Sequence[str]) -> dict[str, list[PortForwarding]]:
    """Floating IP's id → its forwardings in the order of their ports; those without are missing."""
    found: dict[str, list[PortForwarding]] = {}
    if not floating_ids:
        return found
    rows = conn.execute(
        sa.select(table)
        .where(table.c.floating_ip_id.in_(floating_ids))
        .order_by(table.c.external_first, table.c.protocol, table.c.id)
    )
    for row in rows:
        found.setdefault(row.floating_ip_id, []).append(_made(row))
    return found


def colliding_outside(conn: sa.Connection, one: PortForwarding) -> PortForwarding | None:
    """Another one that takes one of the same ports of the floating IP."""
    there = sa.and_(
        table.c.floating_ip_id == one.floating_ip_id,
        table.c.external_first <= one.external_last,
        table.c.external_last >= one.external_first,
    )
    return _other(conn, one, there)


def colliding_inside(conn: sa.Connection, one: PortForwarding) -> PortForwarding | None:
    """Another one, of whatever floating IP, that leads to one of the same ports of the address."""
    there = sa.and_(
        table.c.port_id == one.port_id,
        table.c.fixed_ip_address == one.fixed_ip_address,
        table.c.internal_first <= one.internal_last,
        table.c.internal_last >= one.internal_first,
    )
    return _other(conn, one, there)


def _other(conn: sa.Connection, one: PortForwarding, there: Condition) -> PortForwarding | None:
    query = sa.select(table).where(table.c.id != one.id, table.c.protocol == one.protocol, there)
    row = conn.execute(query.limit(1)).first()
    return None if row is None else _made(row)


def insert(conn: sa.Connection, one: PortForwarding) -> None:
    conn.execute(sa.insert(table), msgspec.structs.asdict(one))


def update(conn: sa.Connection, forwarding_id: str, changes: Mapping[str, Any]) -> None:
    conn.execute(sa.update(table).where(table.c.id == forwarding_id).values(**changes))


def delete(conn: sa.Connection, forwarding_id: str) -> None:
    conn.execute(sa.delete(table).where(table.c.id == forwarding_id))


def _made(row: sa.Row[Any]) -> PortForwarding:
    return PortForwarding(**row._mapping)
