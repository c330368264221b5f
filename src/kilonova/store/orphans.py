"""Which of what lies in stores and on hosts has a record that explains it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import sqlalchemy as sa

from kilonova.domain.images import ImageStatus
from kilonova.store.schema.images import images
from kilonova.store.schema.servers import servers
from kilonova.store.schema.volumes import volume_snapshots, volumes

_WITH_BYTES = (
    ImageStatus.SAVING,
    ImageStatus.ACTIVE,
    ImageStatus.DEACTIVATED,
    ImageStatus.PENDING_DELETE,
)
_AT_ONCE = 500
"""Ids of one query."""


def known_volumes(conn: sa.Connection, ids: Collection[str]) -> set[str]:
    return _known(conn, sa.select(volumes.c.id), volumes.c.id, ids)


def known_snapshots(conn: sa.Connection, ids: Collection[str]) -> set[str]:
    return _known(conn, sa.select(volume_snapshots.c.id), volume_snapshots.c.id, ids)


def known_images(conn: sa.Connection, ids: Collection[str]) -> set[str]:
    """Those whose bytes are, or may be, in a store."""
    query = sa.select(images.c.id).where(images.c.status.in_(_WITH_BYTES))
    return _known(conn, query, images.c.id, ids)


def known_servers(conn: sa.Connection, host: str | None, ids: Collection[str]) -> set[str]:
    """Those that live and are on that host, or on none yet or any more; None: on any."""
    query = sa.select(servers.c.id).where(servers.c.deleted_at.is_(None))
    if host is not None:
        query = query.where(sa.or_(servers.c.host == host, servers.c.host.is_(None)))
    return _known(conn, query, servers.c.id, ids)


def _known(
    conn: sa.Connection, query: sa.Select[tuple[str]], column: sa.Column[str], ids: Collection[str]
) -> set[str]:
    return {str(row[0]) for part in _parts(ids) for row in conn.execute(query.where(column.in_(part)))}


def _parts(ids: Collection[str]) -> Iterator[list[str]]:
    listed = sorted(ids)
    for start in range(0, len(listed), _AT_ONCE):
        yield listed[start : start + _AT_ONCE]
