"""What voids a token before its time: revocations, and the generation that caches of valid tokens check."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.store import dialect
from kilonova.store.schema.identity import revoked_tokens, token_generation
from kilonova.store.statement import Statement

_GENERATION = Statement(sa.select(token_generation.c.value))


def generation(conn: sa.Connection) -> int:
    """What was found valid under another generation must be looked at again.

    SELECT value FROM token_generation
    """
    row = _GENERATION.row(conn)
    return 0 if row is None else row.value


def bump(conn: sa.Connection) -> None:
    """Call in each write after which a token that was valid may not be, or may mean other roles.

    INSERT INTO token_generation (id, value) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET value = value + 1
    """
    grown = {"value": token_generation.c.value + 1}
    first = dialect.insert(conn, token_generation).values(id=1, value=1)
    conn.execute(first.on_conflict_do_update(index_elements=["id"], set_=grown))


def revoke(conn: sa.Connection, audit_id: str, expires_at: float) -> None:
    """Refuse that token from now on; forget the revocations of tokens that have expired."""
    conn.execute(sa.delete(revoked_tokens).where(revoked_tokens.c.expires_at < now()))
    dialect.insert_new(conn, revoked_tokens, {"audit_id": audit_id, "expires_at": expires_at})
    bump(conn)


def is_revoked(conn: sa.Connection, audit_id: str) -> bool:
    query = sa.select(sa.literal(1)).where(revoked_tokens.c.audit_id == audit_id)
    return conn.execute(query).scalar() is not None
