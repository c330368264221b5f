"""Tags of servers. They are kept in order of their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.store import dialect
from kilonova.store.schema.servers import server_tags as table


def of(conn: sa.Connection, server_ids: Sequence[str]) -> dict[str, list[str]]:
    """The tags of these servers, one query; a server without tags is not in it."""
    found: dict[str, list[str]] = {}
    for server_id, tag in conn.execute(_of(conn), {"server_ids": list(server_ids)}):
        found.setdefault(server_id, []).append(tag)
    return found


@dialect.once
def _of(conn: sa.Connection) -> sa.Select[Any]:
    """SELECT server_id, tag FROM server_tags WHERE server_id IN (:server_ids) ORDER BY server_id, tag"""
    wanted = dialect.among(conn, table.c.server_id, "server_ids")
    return sa.select(table.c.server_id, table.c.tag).where(wanted).order_by(table.c.server_id, table.c.tag)


def replace(conn: sa.Connection, server_id: str, tags: Iterable[str]) -> None:
    """Exactly these, whatever there was."""
    conn.execute(sa.delete(table).where(table.c.server_id == server_id))
    rows = [{"server_id": server_id, "tag": tag} for tag in sorted(set(tags))]
    if rows:
        conn.execute(table.insert(), rows)


def add(conn: sa.Connection, server_id: str, tag: str) -> None:
    """One more, which was not there."""
    conn.execute(table.insert().values(server_id=server_id, tag=tag))


def remove(conn: sa.Connection, server_id: str, tag: str) -> bool:
    """False if there was no such tag."""
    query = sa.delete(table).where(table.c.server_id == server_id, table.c.tag == tag)
    return conn.execute(query).rowcount == 1
