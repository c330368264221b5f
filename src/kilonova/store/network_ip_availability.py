"""How many addresses networks have, and how many of them are given."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.store.schema.networks import ip_allocations


def used(conn: sa.Connection, subnet_ids: Sequence[str]) -> dict[str, int]:
    """Subnet id → how many of its addresses ports have; subnets without are missing."""
    if not subnet_ids:
        return {}
    own = ip_allocations.c
    query = sa.select(own.subnet_id, sa.func.count().label("used")).where(own.subnet_id.in_(subnet_ids))
    return {row.subnet_id: row.used for row in conn.execute(query.group_by(own.subnet_id))}
