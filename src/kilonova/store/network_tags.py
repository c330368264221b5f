"""Tags of networks, subnets and ports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from kilonova.store import dialect
from kilonova.store.schema.networks import network_tags as tags


def of(conn: sa.Connection, resource_ids: Sequence[str]) -> dict[str, list[str]]:
    """Resource id → its tags, sorted; resources without tags are missing."""
    found: dict[str, list[str]] = {}
    if not resource_ids:
        return found
    rows = conn.execute(
        sa.select(tags).where(tags.c.resource_id.in_(resource_ids)).order_by(tags.c.resource_id, tags.c.tag)
    )
    for row in rows:
        found.setdefault(row.resource_id, []).append(row.tag)
    return found


def lock(conn: sa.Connection, resource_id: str) -> None:
    """Nobody else changes its tags until the transaction ends."""
    dialect.lock(conn, "network-tags", resource_id)


def add(conn: sa.Connection, resource_id: str, names: Iterable[str]) -> None:
    new = set(names) - set(of(conn, [resource_id]).get(resource_id, ()))
    if new:
        conn.execute(sa.insert(tags), [{"resource_id": resource_id, "tag": tag} for tag in sorted(new)])


def remove(conn: sa.Connection, resource_ids: Sequence[str], names: Sequence[str] | None = None) -> int:
    """Those tags, or all of them; how many there were."""
    if not resource_ids:
        return 0
    query = sa.delete(tags).where(tags.c.resource_id.in_(resource_ids))
    if names is not None:
        query = query.where(tags.c.tag.in_(names))
    return conn.execute(query).rowcount
