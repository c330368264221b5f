"""Operations and steps in the database: the engine's queries, one function each, explained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.messages import StepRecord
from kilonova.store.database import Row
from kilonova.store.schema.operations import operations as ops
from kilonova.store.schema.operations import steps

OPEN, DONE, FAILED, SUPERSEDED = "open", "done", "failed", "superseded"


def insert(conn: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    conn.execute(ops.insert(), rows)


def get(conn: sa.Connection, operation_id: str) -> Row | None:
    return conn.execute(sa.select(ops).where(ops.c.id == operation_id)).one_or_none()


def open_of_server(conn: sa.Connection, server_id: str) -> Row | None:
    """The one open operation of a server, if any."""
    query = sa.select(ops).where(ops.c.server_id == server_id, ops.c.state == OPEN)
    return conn.execute(query).one_or_none()


def take(conn: sa.Connection, operation_id: str, owner: str, lease: float) -> Row | None:
    """Become the owner: only of an open operation whose lease has run out. The epoch grows, so that
    whoever owned it before is refused from now on. None if somebody else was quicker."""
    query = (
        sa.update(ops)
        .where(ops.c.id == operation_id, ops.c.state == OPEN, ops.c.lease_until <= now())
        .values(owner=owner, lease_until=now() + lease, epoch=ops.c.epoch + 1, updated_at=now())
        .returning(*ops.c)
    )
    return conn.execute(query).one_or_none()


def hold(conn: sa.Connection, operation_id: str, epoch: int, **values: Any) -> Row | None:
    """Change an operation that one still owns; None if it moved on to another epoch or ended."""
    query = (
        sa.update(ops)
        .where(ops.c.id == operation_id, ops.c.state == OPEN, ops.c.epoch == epoch)
        .values(updated_at=now(), **values)
        .returning(*ops.c)
    )
    return conn.execute(query).one_or_none()


def renew(conn: sa.Connection, held: dict[str, int], owner: str, until: float) -> set[str]:
    """Keep the leases of {operation id: epoch}; the ids that are still held. One statement."""
    if not held:
        return set()
    query = (
        sa.update(ops)
        .where(ops.c.id.in_(held), ops.c.state == OPEN, ops.c.owner == owner)
        .values(lease_until=until)
        .returning(ops.c.id, ops.c.epoch)
    )
    return {row.id for row in conn.execute(query) if held[row.id] == row.epoch}


def supersede(conn: sa.Connection, server_id: str, reason: str) -> Row | None:
    """End whatever is open for a server; its owner learns by the epoch. The old row, if there was one."""
    query = (
        sa.update(ops)
        .where(ops.c.server_id == server_id, ops.c.state == OPEN)
        .values(state=SUPERSEDED, epoch=ops.c.epoch + 1, message=reason, finished_at=now(), updated_at=now())
        .returning(*ops.c)
    )
    return conn.execute(query).one_or_none()


def expired(conn: sa.Connection, limit: int = 1000) -> Sequence[Row]:
    """Open operations that nobody works on: lease over, or past the deadline. Oldest first."""
    query = (
        sa.select(ops.c.id, ops.c.kind, ops.c.host, ops.c.deadline, ops.c.request_id)
        .where(ops.c.state == OPEN, sa.or_(ops.c.lease_until <= now(), ops.c.deadline <= now()))
        .order_by(ops.c.lease_until)
        .limit(limit)
    )
    return conn.execute(query).all()


def open_on_host(conn: sa.Connection, host: str) -> Sequence[Row]:
    query = sa.select(ops).where(ops.c.state == OPEN, ops.c.host == host)
    return conn.execute(query).all()


def open_by_host(conn: sa.Connection) -> dict[str, int]:
    """How many operations each host works on: SELECT host, count(*) … GROUP BY host."""
    query = sa.select(ops.c.host, sa.func.count().label("servers")).where(ops.c.state == OPEN, ops.c.host.is_not(None))
    return {row.host: row.servers for row in conn.execute(query.group_by(ops.c.host))}


def expire_leases(conn: sa.Connection, host: str | None = None) -> list[str]:
    """End the leases of a dead owner now: of everyone, or of the agent on ``host``. The operations' ids."""
    query = sa.update(ops).where(ops.c.state == OPEN)
    if host is not None:
        query = query.where(ops.c.owner == agent(host))
    rows = conn.execute(query.values(lease_until=0.0, owner=None).returning(ops.c.id)).all()
    return [row.id for row in rows]


def expire_lease(conn: sa.Connection, operation_id: str) -> None:
    """End one lease now, whoever holds it."""
    conn.execute(sa.update(ops).where(ops.c.id == operation_id, ops.c.state == OPEN).values(lease_until=0.0))


def agent(host: str) -> str:
    """The owner name of the compute agent on ``host``."""
    return f"compute.{host}"


def put_steps(
    conn: sa.Connection, operation_id: str, epoch: int, host: str | None, told: Sequence[StepRecord]
) -> None:
    """Write the journal: steps that began in one INSERT; the ends of those known before as UPDATEs."""
    fresh = [
        {
            "operation_id": operation_id,
            "epoch": epoch,
            "host": host,
            "name": step.name,
            "started_at": step.started_at,
            "finished_at": step.finished_at,
            "result": step.result,
            "message": step.message,
            "details": step.details,
        }
        for step in told
        if not step.known
    ]
    if fresh:
        conn.execute(steps.insert(), fresh)
    for step in told:
        if step.known:
            _end_step(conn, operation_id, epoch, step)


def _end_step(conn: sa.Connection, operation_id: str, epoch: int, step: StepRecord) -> None:
    query = sa.update(steps).where(
        steps.c.operation_id == operation_id,
        steps.c.epoch == epoch,
        steps.c.name == step.name,
        steps.c.finished_at.is_(None),
    )
    ended = {"finished_at": step.finished_at, "result": step.result}
    conn.execute(query.values(message=step.message, details=step.details, **ended))


def finish_steps(
    conn: sa.Connection, operation_id: str, epoch: int, *, result: str, message: str | None = None
) -> None:
    """End every step of this epoch that is still open."""
    query = (
        sa.update(steps)
        .where(steps.c.operation_id == operation_id, steps.c.epoch == epoch, steps.c.finished_at.is_(None))
        .values(finished_at=now(), result=result, message=message)
    )
    conn.execute(query)


def steps_of(conn: sa.Connection, operation_ids: Sequence[str]) -> Sequence[Row]:
    """The journal of these operations in order, one query."""
    query = sa.select(steps).where(steps.c.operation_id.in_(operation_ids)).order_by(steps.c.id)
    return conn.execute(query).all()


def of_server(conn: sa.Connection, server_id: str) -> Sequence[Row]:
    """All that was ever done to a server, newest first: GET /servers/{id}/os-instance-actions."""
    query = sa.select(ops).where(ops.c.server_id == server_id).order_by(ops.c.created_at.desc(), ops.c.id)
    return conn.execute(query).all()
