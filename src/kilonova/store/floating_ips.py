"""Queries about floating IPs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain.routers import FloatingIp
from kilonova.store import port_forwardings as forwarding_store
from kilonova.store import ports as port_store
from kilonova.store import revisions
from kilonova.store.network_lists import Condition, Listing, Page
from kilonova.store.router_places import made
from kilonova.store.schema.routers import floating_ips, port_forwardings, routers

_WORKS = sa.and_(routers.c.admin_state_up, made())
_FORWARDS = sa.exists().where(port_forwardings.c.floating_ip_id == floating_ips.c.id)
_LEADS = sa.or_(floating_ips.c.fixed_port_id.is_not(None), _FORWARDS)


def _status() -> sa.ColumnElement[str]:
    """FloatingIp.status, for filters."""
    works = sa.exists().where(routers.c.id == floating_ips.c.router_id, _WORKS)
    return sa.case((sa.and_(_LEADS, works), "ACTIVE"), else_="DOWN")


def _while(leads: Condition, column: sa.Column[str]) -> sa.ColumnElement[str]:
    """Nothing if its port is gone: whoever deleted that has left the rest as it was."""
    return sa.case((leads, column), else_=sa.null())


ATTRIBUTES = {
    **{
        name: floating_ips.c[name]
        for name in (
            "id",
            "description",
            "project_id",
            "floating_network_id",
            "floating_ip_address",
            "revision_number",
        )
    },
    "tenant_id": floating_ips.c.project_id,
    "port_id": floating_ips.c.fixed_port_id,
    "fixed_ip_address": _while(floating_ips.c.fixed_port_id.is_not(None), floating_ips.c.fixed_ip_address),
    "router_id": _while(_LEADS, floating_ips.c.router_id),
    "status": _status(),
}
_listing = Listing(floating_ips, ATTRIBUTES, {})


def visible_to(project_id: str | None) -> Condition:
    """Its own. None: everything (an admin)."""
    return sa.true() if project_id is None else floating_ips.c.project_id == project_id


def page(
    conn: sa.Connection, asked: Page, project_id: str | None
) -> tuple[list[FloatingIp], bool, bool] | None:
    """Floating IPs, more after, more before; None if the marker is unknown. Six statements."""
    found = _listing.page(conn, asked, visible_to(project_id))
    return None if found is None else (_floating_ips(conn, found[0]), found[1], found[2])


def get(
    conn: sa.Connection, floating_id: str, project_id: str | None, for_update: bool = False
) -> FloatingIp | None:
    """The floating IP, if that project sees it. ``for_update``: nobody else changes it meanwhile."""
    query = sa.select(floating_ips).where(floating_ips.c.id == floating_id, visible_to(project_id))
    rows = conn.execute(query.with_for_update(key_share=True) if for_update else query).all()
    return _floating_ips(conn, rows)[0] if rows else None


def insert(conn: sa.Connection, floating: FloatingIp) -> None:
    row = msgspec.structs.asdict(floating)
    del row["is_led"], row["port"], row["forwardings"]
    conn.execute(sa.insert(floating_ips), row)


def update(conn: sa.Connection, floating_id: str, changes: Mapping[str, Any]) -> None:
    revisions.change(conn, floating_ips, floating_ips.c.id == floating_id, changes)


def delete(conn: sa.Connection, floating_ids: Sequence[str]) -> None:
    """The floating IPs alone, not the ports that hold their addresses."""
    conn.execute(sa.delete(floating_ips).where(floating_ips.c.id.in_(floating_ids)))


def free_of(conn: sa.Connection, network_id: str) -> dict[str, str]:
    """Id → the port that holds its address, of the network's floating IPs that lead nowhere; locked."""
    query = sa.select(floating_ips.c.id, floating_ips.c.floating_port_id).where(
        floating_ips.c.floating_network_id == network_id, sa.not_(_LEADS)
    )
    rows = conn.execute(query.order_by(floating_ips.c.id).with_for_update(key_share=True))
    return {row.id: row.floating_port_id for row in rows}


def at(conn: sa.Connection, external_id: str, port_id: str, fixed_ip: str) -> str | None:
    """The floating address, of that external network, that leads to that address of the port."""
    found: str | None = conn.scalar(
        sa.select(floating_ips.c.floating_ip_address).where(
            floating_ips.c.floating_network_id == external_id,
            floating_ips.c.fixed_port_id == port_id,
            floating_ips.c.fixed_ip_address == fixed_ip,
        )
    )
    return found


def of_routers(conn: sa.Connection, router_ids: Sequence[str]) -> list[FloatingIp]:
    """Those that lead somewhere through one of these routers, without their ports."""
    if not router_ids:
        return []
    rows = conn.execute(
        sa.select(floating_ips)
        .where(floating_ips.c.router_id.in_(router_ids), _LEADS)
        .order_by(floating_ips.c.floating_ip_address, floating_ips.c.id)
    ).all()
    forwardings = forwarding_store.of_floating_ips(conn, [row.id for row in rows])
    return [FloatingIp(**_kept(row, forwardings), forwardings=forwardings.get(row.id, [])) for row in rows]


def of_port(conn: sa.Connection, port_id: str) -> tuple[str, str] | None:
    """Id and address of a floating IP that leads to the port."""
    query = sa.select(floating_ips.c.id, floating_ips.c.floating_ip_address)
    row = conn.execute(query.where(floating_ips.c.fixed_port_id == port_id).limit(1)).first()
    return None if row is None else (row.id, row.floating_ip_address)


def of_ports(conn: sa.Connection, port_ids: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Port id → its address → the floating ones that lead to it; ports without are missing."""
    found: dict[str, dict[str, list[str]]] = {}
    if not port_ids:
        return found
    for row in conn.execute(_OF_PORTS, {"ports": port_ids}):
        found.setdefault(row.fixed_port_id, {}).setdefault(row.fixed_ip_address, []).append(
            row.floating_ip_address
        )
    return found


_OF_PORTS = (
    sa.select(
        floating_ips.c.fixed_port_id, floating_ips.c.fixed_ip_address, floating_ips.c.floating_ip_address
    )
    .where(floating_ips.c.fixed_port_id.in_(sa.bindparam("ports", expanding=True)))
    .order_by(floating_ips.c.floating_ip_address)
)


def _floating_ips(conn: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[FloatingIp]:
    """The rows with their forwardings, routers and ports, in four more statements."""
    forwardings = forwarding_store.of_floating_ips(conn, [row.id for row in rows])
    values_of = {row.id: _kept(row, forwardings) for row in rows}
    by_router = {values["router_id"] for values in values_of.values() if values["router_id"]}
    working = _working(conn, sorted(by_router))
    its_ports = port_store.by_id(conn, sorted({row.fixed_port_id for row in rows if row.fixed_port_id}))
    found = []
    for row in rows:
        values = values_of[row.id]
        found.append(
            FloatingIp(
                **values,
                is_led=values["router_id"] in working,
                port=its_ports.get(row.fixed_port_id or ""),
                forwardings=forwardings.get(row.id, []),
            )
        )
    return found


def _kept(row: sa.Row[Any], forwardings: Mapping[str, object]) -> dict[str, Any]:
    """The row's values without what is left of a port that is gone."""
    values = dict(row._mapping)
    if row.fixed_port_id is None:
        values["fixed_ip_address"] = None
        if row.id not in forwardings:
            values["router_id"] = None
    return values


def _working(conn: sa.Connection, router_ids: Sequence[str]) -> set[str]:
    if not router_ids:
        return set()
    return set(conn.scalars(sa.select(routers.c.id).where(routers.c.id.in_(router_ids), _WORKS)))
