"""Ownership of an operation: who may act on it now, and how it changes hands.

An owner holds (operation id, epoch). Each new owner gets a higher epoch; everything that an owner writes
names its epoch and is refused with StaleEpoch once another owner exists. That, and not the clock, keeps two
owners from both acting: the lease only decides when the next one may begin.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.errors import StaleEpoch
from kilonova.store import operations
from kilonova.store.database import Database, Row
from kilonova.store.repeat import repeated

PAUSE = 3.0
"""Seconds until an operation is tried again that met something which may pass."""


@repeated
def take(db: Database, operation_id: str, owner: str, lease: float) -> Row | None:
    """Become the owner of an operation that nobody works on; None if somebody does, or it ended."""
    with db.write() as conn:
        row = operations.take(conn, operation_id, owner, lease)
        if row is not None and row.epoch > 1:
            operations.end_steps(conn, operation_id, "Error", "cut off: the operation was taken up again")
        return row


def held(conn: sa.Connection, operation_id: str, epoch: int, owner: str | None, /, **values: Any) -> Row:
    """The operation, changed, if ``owner`` still has it in this epoch; StaleEpoch if it moved on or ended."""
    row = operations.hold(conn, operation_id, epoch, owner, **values)
    if row is None:
        raise StaleEpoch(f"operation {operation_id} has moved on from epoch {epoch} of {owner}")
    return row


def kept(conn: sa.Connection, work: Row, **values: Any) -> Row:
    """The same of an operation as it was when it was last taken, handed on or changed."""
    return held(conn, work.id, work.epoch, work.owner, **values)


def hand_to_host(conn: sa.Connection, work: Row, host: str, lease: float, **values: Any) -> Row:
    """The conductor gives the operation to the agent of ``host``: same epoch, another owner, a new lease."""
    owner = operations.agent(host)
    return kept(conn, work, owner=owner, host=host, lease_until=now() + lease, **values)


def give_back(conn: sa.Connection, work: Row, **values: Any) -> Row:
    """Nobody's again, at once: the next take() succeeds."""
    return kept(conn, work, owner=None, lease_until=0.0, **values)


def postpone(conn: sa.Connection, work: Row, message: str) -> Row:
    """Nobody's, and for a moment nobody may take it: what it needs is away, or has just failed."""
    return kept(conn, work, owner=None, lease_until=now() + PAUSE, message=message)


def close(conn: sa.Connection, work: Row, state: str, message: str | None = None) -> Row:
    """The end: done or failed. Nothing that names this operation is obeyed after; its secrets are gone."""
    if state == operations.FAILED:
        operations.end_steps(conn, work.id, "Error", message or "the operation failed")
    else:
        end_lost_steps(conn, work)
    return kept(conn, work, **ending(state, message))


def ending(state: str, message: str | None = None) -> dict[str, Any]:
    """What ends an operation, for held(): who ends it so also calls end_lost_steps()."""
    return {"state": state, "message": message, "payload": {}, "finished_at": now()}


LOST_STEP = ("Success", "its end was told, and lost as the database crashed")


def end_lost_steps(conn: sa.Connection, work: Row) -> None:
    """Of an operation that went well: no step stays without an end."""
    operations.end_steps(conn, work.id, *LOST_STEP)
