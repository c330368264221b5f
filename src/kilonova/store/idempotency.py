"""Idempotency keys in the database: a row for each request that was done, written as part of doing it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam as given

from kilonova.domain.clock import now
from kilonova.domain.errors import RolledBack
from kilonova.store import dialect
from kilonova.store.database import Row
from kilonova.store.schema.idempotency import idempotency_keys as keys

_FIND = sa.select(keys).where(keys.c.id == given("key"), keys.c.created_at > given("oldest"))


def find(conn: sa.Connection, key_id: str, lifetime: float) -> Row | None:
    """What was answered to the request of that key, unless it is older than ``lifetime`` seconds."""
    return conn.execute(_FIND, {"key": key_id, "oldest": now() - lifetime}).one_or_none()


def reserve(conn: sa.Connection, key_id: str) -> bool:
    """Until this transaction ends, no other does the request of that key. False: another is at it."""
    return dialect.try_lock(conn, "idempotency", key_id)


def keep(
    conn: sa.Connection, key_id: str, *, fingerprint: str, request_id: str, answer: bytes, lifetime: float
) -> None:
    """The answer of the request that this transaction does. RolledBack: another was first."""
    at = now()
    row = {"id": key_id, "fingerprint": fingerprint, "request_id": request_id, "answer": answer}
    values = {**row, "created_at": at, "oldest": at - lifetime}
    if conn.execute(_keep(conn), values).first() is None:
        raise RolledBack("Another request with this key was first.")


_KEEP: dict[str, Any] = {}


def _keep(conn: sa.Connection) -> Any:
    """INSERT … ON CONFLICT (id) DO UPDATE … WHERE it is too old; made once for each dialect."""
    if conn.dialect.name not in _KEEP:
        query = dialect.insert(conn, keys)
        query = query.values({column.name: given(column.name) for column in keys.c})
        _KEEP[conn.dialect.name] = query.on_conflict_do_update(
            index_elements=[keys.c.id],
            set_={column.name: query.excluded[column.name] for column in keys.c if column.name != "id"},
            where=keys.c.created_at <= given("oldest"),
        ).returning(keys.c.id)
    return _KEEP[conn.dialect.name]


def any_before(conn: sa.Connection, oldest: float) -> bool:
    query = sa.select(keys.c.id).where(keys.c.created_at <= oldest).limit(1)
    return conn.execute(query).first() is not None


def purge(conn: sa.Connection, oldest: float) -> int:
    """Forget what was answered before that time; how many."""
    return conn.execute(sa.delete(keys).where(keys.c.created_at <= oldest)).rowcount
