"""Queries about networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain.network import EXTERNAL, EXTERNAL_PHYSICAL_NETWORK, SHARED, Network
from kilonova.store import dialect, network_rbac, revisions
from kilonova.store.network_lists import Condition, Listing, Page
from kilonova.store.schema.networks import networks, subnets

_EXTERNAL = sa.func.coalesce(networks.c.external, sa.false())

ATTRIBUTES = {
    **{
        name: networks.c[name]
        for name in (
            "id",
            "name",
            "description",
            "project_id",
            "admin_state_up",
            "mtu",
            "port_security_enabled",
            "revision_number",
        )
    },
    "tenant_id": networks.c.project_id,
    "router:external": _EXTERNAL,
    "is_default": sa.func.coalesce(networks.c.is_default, sa.false()),
    "provider:network_type": sa.case((_EXTERNAL, "flat"), else_="vxlan"),
    "provider:physical_network": sa.case((_EXTERNAL, EXTERNAL_PHYSICAL_NETWORK), else_=None),
    "provider:segmentation_id": sa.case((_EXTERNAL, None), else_=networks.c.segmentation_id),
    # The same for every network as long as there are no states beside ACTIVE.
    "status": sa.literal("ACTIVE"),
}

# Statements on the way of a build are made once: making one costs more than running it.
_BY_ID = sa.select(networks).where(networks.c.id.in_(sa.bindparam("ids", expanding=True)))
_BY_ID_TO_USE = _BY_ID.order_by(networks.c.id).with_for_update(read=True)


def visible_to(project_id: str | None) -> Condition:
    """What a project sees: its own, those that are shared with it, and those that lead it outside. None:
    everything (an admin)."""
    if project_id is None:
        return sa.true()
    return sa.or_(
        networks.c.project_id == project_id,
        networks.c.shared,
        sa.and_(networks.c.external, sa.not_(sa.func.coalesce(networks.c.external_restricted, sa.false()))),
        network_rbac.named(project_id, SHARED, EXTERNAL),
    )


def shared_with(project_id: str | None) -> Condition:
    """It may be used as if it were the project's own. None: by everybody."""
    if project_id is None:
        return networks.c.shared.is_(sa.true())
    return sa.or_(networks.c.shared, network_rbac.named(project_id, SHARED))


def page(conn: sa.Connection, asked: Page, project_id: str | None) -> tuple[list[Network], bool, bool] | None:
    """Networks, more after, more before; None if the marker is unknown."""
    listing = Listing(networks, ATTRIBUTES | {"shared": shared_with(project_id)}, {})
    found = listing.page(conn, asked, visible_to(project_id))
    return None if found is None else ([_network(row) for row in found[0]], found[1], found[2])


def get(
    conn: sa.Connection,
    network_id: str,
    project_id: str | None,
    for_update: bool = False,
    to_use: bool = False,
) -> Network | None:
    """The network, if that project sees it.

    ``for_update``: nobody else changes it, or which subnets and DHCP port it has, meanwhile, nor makes ports
    there. ``to_use``: ports will be made there, beside others who do so, but whoever changes it waits.
    """
    query = sa.select(networks).where(networks.c.id == network_id, visible_to(project_id))
    if for_update or to_use:
        query = query.with_for_update(key_share=for_update, read=not for_update)
    row = conn.execute(query).first()
    return None if row is None else _network(row)


def by_id(conn: sa.Connection, network_ids: Sequence[str], to_use: bool = False) -> dict[str, Network]:
    """``to_use``: as get()."""
    if not network_ids:
        return {}
    rows = conn.execute(_BY_ID_TO_USE if to_use else _BY_ID, {"ids": network_ids})
    return {row.id: _network(row) for row in rows}


def default_external(conn: sa.Connection) -> Network | None:
    """The one that auto-allocated topologies lead to."""
    row = conn.execute(sa.select(networks).where(networks.c.is_default.is_(sa.true()), _EXTERNAL)).first()
    return None if row is None else _network(row)


def lock_default(conn: sa.Connection) -> None:
    """Nobody else says which external network is the default until the transaction ends."""
    dialect.lock(conn, "default-external-network")


def visible(conn: sa.Connection, network_ids: Sequence[str], project_id: str | None) -> set[str]:
    """Those of the networks that the project sees."""
    query = sa.select(networks.c.id).where(networks.c.id.in_(network_ids), visible_to(project_id))
    return set(conn.scalars(query))


def shared(conn: sa.Connection, network_ids: Sequence[str], project_id: str | None) -> set[str]:
    """Those of the networks that are shared with the project (None: with everybody)."""
    query = sa.select(networks.c.id).where(networks.c.id.in_(network_ids), shared_with(project_id))
    return set(conn.scalars(query))


def usable(conn: sa.Connection, project_id: str) -> list[Network]:
    """Networks that a server of the project could be put on: up, and with a subnet."""
    rows = conn.execute(
        sa.select(networks)
        .where(
            visible_to(project_id),
            sa.func.coalesce(networks.c.external, sa.false()).is_(sa.false()),
            networks.c.admin_state_up,
            sa.exists().where(subnets.c.network_id == networks.c.id),
        )
        .order_by(networks.c.created_at, networks.c.id)
    )
    return [_network(row) for row in rows]


def insert(conn: sa.Connection, network: Network) -> None:
    conn.execute(sa.insert(networks), msgspec.structs.asdict(network))


def update(conn: sa.Connection, network_id: str, changes: Mapping[str, Any]) -> None:
    revisions.change(conn, networks, networks.c.id == network_id, changes)


def delete(conn: sa.Connection, network_id: str) -> None:
    """The network alone: its subnets and ports must be gone."""
    conn.execute(sa.delete(networks).where(networks.c.id == network_id))


def subnet_ids(conn: sa.Connection, network_ids: Sequence[str]) -> dict[str, list[str]]:
    """Network id → ids of its subnets, oldest first."""
    found: dict[str, list[str]] = {}
    if not network_ids:
        return found
    rows = conn.execute(
        sa.select(subnets.c.network_id, subnets.c.id)
        .where(subnets.c.network_id.in_(network_ids))
        .order_by(subnets.c.created_at, subnets.c.id)
    )
    for row in rows:
        found.setdefault(row.network_id, []).append(row.id)
    return found


def _network(row: sa.Row[Any]) -> Network:
    return Network(**row._mapping)
