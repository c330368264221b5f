"""Key pairs in the database: a name for each user's public key."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.errors import BadRequest, Conflict, NotFound, QuotaExceeded
from kilonova.store import dialect, paging
from kilonova.store.database import Row
from kilonova.store.schema.keypairs import keypairs


def get(conn: sa.Connection, user_id: str, name: str) -> Row:
    """The row of a user's key pair, with its ``public_key``. NotFound if there is none."""
    row = conn.execute(sa.select(keypairs).where(*_named(user_id, name))).one_or_none()
    if row is None:
        raise _not_found(user_id, name)
    return row


def listed(
    conn: sa.Connection, user_id: str, *, marker: str | None = None, limit: int = 1000
) -> Sequence[Row]:
    """One page of a user's key pairs, by name. BadRequest if the marker is none of them."""
    if (
        marker is not None
        and not conn.execute(sa.select(keypairs.c.id).where(*_named(user_id, marker))).first()
    ):
        raise BadRequest(f"Marker {marker} could not be found.")
    query = sa.select(keypairs).where(keypairs.c.user_id == user_id)
    after = (marker, marker) if marker is not None else None
    query = paging.page(query, keypairs.c.name, keypairs.c.name, descending=False, after=after, limit=limit)
    return conn.execute(query).all()


def check_quota(conn: sa.Connection, user_id: str, limit: int) -> None:
    """QuotaExceeded if the user may have no more; ``limit`` -1: none."""
    count = sa.select(sa.func.count()).select_from(keypairs).where(keypairs.c.user_id == user_id)
    if 0 <= limit <= conn.execute(count).scalar_one():
        raise QuotaExceeded("Quota exceeded, too many key pairs.")


def create(
    conn: sa.Connection, *, user_id: str, name: str, public_key: str, fingerprint: str, limit: int
) -> None:
    """Keep a public key. QuotaExceeded; Conflict if the user has one of that name."""
    dialect.lock(conn, "keypairs", user_id)  # two requests cannot both take the last place
    check_quota(conn, user_id, limit)
    row = {"user_id": user_id, "name": name, "public_key": public_key, "fingerprint": fingerprint}
    if not dialect.insert_new(conn, keypairs, {**row, "created_at": now()}):
        raise Conflict(f"Key pair '{name}' already exists.")


def delete(conn: sa.Connection, user_id: str, name: str) -> None:
    """Gone; servers that were made with it keep the key. NotFound if there is none."""
    if conn.execute(sa.delete(keypairs).where(*_named(user_id, name))).rowcount == 0:
        raise _not_found(user_id, name)


def _named(user_id: str, name: str) -> tuple[sa.ColumnElement[bool], ...]:
    return keypairs.c.user_id == user_id, keypairs.c.name == name


def _not_found(user_id: str, name: str) -> NotFound:
    return NotFound(f"Keypair {name} not found for user {user_id}")
