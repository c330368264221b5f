"""What was deleted long ago is forgotten, a bounded number of things in one transaction.

A deleted server's row stays for the record, with its operations and their steps; a deleted image's keeps its
id taken. Who purges at the same time takes other rows (PostgreSQL), or waits (SQLite).
"""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.images import ImageStatus
from kilonova.domain.volumes import VolumeWork
from kilonova.store import volume_messages
from kilonova.store.database import Database
from kilonova.store.repeat import repeated
from kilonova.store.schema.identity import revoked_tokens
from kilonova.store.schema.images import images
from kilonova.store.schema.operations import operations, steps
from kilonova.store.schema.servers import servers

BATCH = 100
"""Servers, or images, of one transaction: with their steps some thousand rows."""


@repeated
def purge(db: Database, before: float, limit: int = BATCH) -> tuple[int, int]:
    """Forget servers and images that were deleted before that time, the oldest first: how many of each.
    ``limit`` of one kind: there may be more.
    """
    with db.write() as conn:
        return _purge_servers(conn, before, limit), _purge_images(conn, before, limit)


@repeated
def forget_expired_revocations(db: Database) -> None:
    """Of tokens that are void by now anyhow: DELETE FROM revoked_tokens WHERE expires_at < now."""
    with db.write() as conn:
        conn.execute(sa.delete(revoked_tokens).where(revoked_tokens.c.expires_at < now()))


@repeated
def forget_volume_work(db: Database, before: float, limit: int = BATCH) -> int:
    """Operations of volumes that ended before that time: how many; and what nobody is to be told any more."""
    ended = operations.c.finished_at < before
    with db.write() as conn:
        volume_messages.forget_expired(conn)
        query = sa.select(operations.c.id).where(operations.c.kind.in_(list(VolumeWork)), ended)
        ids = list(conn.execute(query.order_by(operations.c.finished_at).limit(limit)).scalars())
        conn.execute(sa.delete(steps).where(steps.c.operation_id.in_(ids)))
        conn.execute(sa.delete(operations).where(operations.c.id.in_(ids)))
        return len(ids)


def _purge_servers(conn: sa.Connection, before: float, limit: int) -> int:
    ids = _oldest(conn, servers, limit, servers.c.deleted_at < before)
    theirs = sa.select(operations.c.id).where(operations.c.server_id.in_(ids))
    conn.execute(sa.delete(steps).where(steps.c.operation_id.in_(theirs)))
    conn.execute(sa.delete(operations).where(operations.c.server_id.in_(ids)))
    conn.execute(sa.delete(servers).where(servers.c.id.in_(ids)))
    return len(ids)


def _purge_images(conn: sa.Connection, before: float, limit: int) -> int:
    is_deleted = images.c.status == ImageStatus.DELETED
    ids = _oldest(conn, images, limit, is_deleted, images.c.deleted_at < before)
    conn.execute(sa.delete(images).where(images.c.id.in_(ids)))
    return len(ids)


def _oldest(conn: sa.Connection, table: sa.Table, limit: int, *where: sa.ColumnElement[bool]) -> list[str]:
    """SELECT id FROM … WHERE … ORDER BY deleted_at LIMIT … FOR UPDATE SKIP LOCKED"""
    query = sa.select(table.c.id).where(*where).order_by(table.c.deleted_at).limit(limit)
    return list(conn.execute(query.with_for_update(skip_locked=True)).scalars())
