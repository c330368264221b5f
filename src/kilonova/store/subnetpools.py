"""Queries about subnet pools, and what subnets have taken of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain.network import SubnetPool
from kilonova.store import dialect, revisions
from kilonova.store.network_lists import Condition, Listing, Page
from kilonova.store.schema.networks import subnet_pools as pools
from kilonova.store.schema.networks import subnets

_COLUMNS = (
    "id",
    "name",
    "description",
    "project_id",
    "ip_version",
    "min_prefixlen",
    "max_prefixlen",
    "default_prefixlen",
    "default_quota",
    "shared",
    "is_default",
    "revision_number",
)
ATTRIBUTES = {
    **{name: pools.c[name] for name in _COLUMNS},
    "tenant_id": pools.c.project_id,
    "address_scope_id": sa.null(),
}
_listing = Listing(pools, ATTRIBUTES, {})


def visible_to(project_id: str | None) -> Condition:
    """Its own, and what everybody may use. None: everything (an admin)."""
    return sa.true() if project_id is None else sa.or_(pools.c.project_id == project_id, pools.c.shared)


def page(
    conn: sa.Connection, asked: Page, project_id: str | None
) -> tuple[list[SubnetPool], bool, bool] | None:
    """Pools, more after, more before; None if the marker is unknown."""
    found = _listing.page(conn, asked, visible_to(project_id))
    return None if found is None else ([_pool(row) for row in found[0]], found[1], found[2])


def get(
    conn: sa.Connection, pool_id: str, project_id: str | None, for_update: bool = False
) -> SubnetPool | None:
    """The pool, if that project sees it. ``for_update``: nobody else changes it or takes of it meanwhile."""
    query = sa.select(pools).where(pools.c.id == pool_id, visible_to(project_id))
    if for_update:
        query = query.with_for_update()
    row = conn.execute(query).first()
    return None if row is None else _pool(row)


def default(conn: sa.Connection, ip_version: int) -> SubnetPool | None:
    row = conn.execute(sa.select(pools).where(pools.c.is_default, pools.c.ip_version == ip_version)).first()
    return None if row is None else _pool(row)


def lock_default(conn: sa.Connection) -> None:
    """Nobody else says which pool is the default until the transaction ends."""
    dialect.lock(conn, "default-subnet-pool")


def insert(conn: sa.Connection, pool: SubnetPool) -> None:
    conn.execute(sa.insert(pools), msgspec.structs.asdict(pool))


def update(conn: sa.Connection, pool_id: str, changes: Mapping[str, Any]) -> None:
    revisions.change(conn, pools, pools.c.id == pool_id, changes)


def delete(conn: sa.Connection, pool_id: str) -> None:
    conn.execute(sa.delete(pools).where(pools.c.id == pool_id))


def taken(conn: sa.Connection, pool_id: str) -> list[tuple[str, str]]:
    """(CIDR, project) of each subnet that is of the pool."""
    own = subnets.c
    rows = conn.execute(sa.select(own.cidr, own.project_id).where(own.subnetpool_id == pool_id))
    return [(row.cidr, row.project_id) for row in rows]


def _pool(row: sa.Row[Any]) -> SubnetPool:
    return SubnetPool(**row._mapping)
