"""Networks' VXLAN identifiers, and which hosts a network is on: what tunnels are made of."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from kilonova.store import dialect
from kilonova.store.schema.networks import networks

_OTHER = networks.alias("other")


def lock(conn: sa.Connection) -> None:
    """Nobody else gives an identifier until the transaction ends."""
    dialect.lock(conn, "segmentation-ids")


def taken(conn: sa.Connection, number: int) -> bool:
    return conn.scalar(sa.select(networks.c.id).where(networks.c.segmentation_id == number)) is not None


def first_free(conn: sa.Connection, first: int, last: int) -> int | None:
    """The lowest identifier from ``first`` to ``last`` that no network has.

    SELECT min(segmentation_id + 1) FROM networks WHERE segmentation_id >= :first AND segmentation_id < :last
    AND NOT EXISTS (SELECT * FROM networks other WHERE other.segmentation_id = networks.segmentation_id + 1)
    """
    if not taken(conn, first):
        return first
    own = networks.c.segmentation_id
    followed = sa.exists().where(_OTHER.c.segmentation_id == own + 1)
    found: int | None = conn.scalar(
        sa.select(sa.func.min(own + 1)).where(own >= first, own < last, sa.not_(followed))
    )
    return found


def give(conn: sa.Connection, network_id: str, number: int) -> None:
    """To a network that has none."""
    query = sa.update(networks).where(networks.c.id == network_id, networks.c.segmentation_id.is_(None))
    conn.execute(query.values(segmentation_id=number))


def of_networks(conn: sa.Connection, network_ids: Collection[str]) -> dict[str, int | None]:
    """Network id → its identifier; networks that are gone are missing."""
    query = sa.select(networks.c.id, networks.c.segmentation_id).where(networks.c.id.in_(sorted(network_ids)))
    return {row.id: row.segmentation_id for row in conn.execute(query)} if network_ids else {}
