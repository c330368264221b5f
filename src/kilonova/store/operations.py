"""Operations and steps in the database: the engine's queries, one function each, explained.

Those of a build's path are Statements: making them anew at each call would cost more than SQLite does.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam as given

from kilonova import metrics
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.messages import StepRecord
from kilonova.domain.volumes import VolumeWork
from kilonova.store import dialect
from kilonova.store.database import Row, after_commit
from kilonova.store.schema.operations import operations as ops
from kilonova.store.schema.operations import steps
from kilonova.store.statement import Statement

OPEN, DONE, FAILED, SUPERSEDED = "open", "done", "failed", "superseded"

_ended = metrics.Histogram(
    "operation_seconds", "From accepted to ended.", ("kind", "state"), bounds=metrics.SLOW
)


def new(
    kind: str, record: str, server_id: str, project_id: str, context: RequestContext, deadline: float
) -> dict[str, Any]:
    """A row for insert(): nobody has it yet. ``server_id``: of what it happens to, a volume perhaps."""
    created = now()
    return {
        "id": str(uuid.uuid4()),
        "kind": kind,
        "record": record,
        "server_id": server_id,
        "project_id": project_id,
        "user_id": context.user_id,
        "request_id": context.request_id,
        "state": OPEN,
        "owner": None,
        "lease_until": 0.0,
        "epoch": 0,
        "attempt": 0,
        "host": None,
        "tried_hosts": [],
        "alternates": [],
        "payload": {},
        "deadline": deadline,
        "created_at": created,
        "updated_at": created,
    }


_INSERT = Statement(ops.insert())


def insert(conn: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    _INSERT.insert(conn, rows)


_GET = Statement(sa.select(ops).where(ops.c.id == given("operation")))


def get(conn: sa.Connection, operation_id: str) -> Row | None:
    return _GET.row(conn, {"operation": operation_id})


_SELECT_OPEN = sa.select(ops).where(ops.c.server_id == given("server"), ops.c.state == OPEN)
_OPEN_OF_SERVER = Statement(_SELECT_OPEN)
_LOCK_OPEN = Statement(_SELECT_OPEN.with_only_columns(ops.c.id).with_for_update(key_share=True))


def open_of_server(conn: sa.Connection, server_id: str) -> Row | None:
    """The one open operation of a server, if any."""
    return _OPEN_OF_SERVER.row(conn, {"server": server_id})


def lock_open(conn: sa.Connection, server_id: str) -> None:
    """Before one locks a server to end what is open for it: an operation is locked before its server."""
    if dialect.is_postgresql(conn):
        _LOCK_OPEN.row(conn, {"server": server_id})


_IS_OPEN = dialect.by_key(ops.c.state) == OPEN

_TAKE = Statement(
    sa.update(ops)
    .where(ops.c.id == given("operation"), _IS_OPEN, ops.c.lease_until <= given("at"))
    .values(owner=given("by"), lease_until=given("until"), epoch=ops.c.epoch + 1, updated_at=given("at"))
    .returning(*ops.c)
)


def take(conn: sa.Connection, operation_id: str, owner: str, lease: float) -> Row | None:
    """Become the owner: only of an open operation whose lease has run out. The epoch grows, so that
    whoever owned it before is refused from now on. None if somebody else was quicker."""
    at = now()
    values = {"operation": operation_id, "at": at, "by": owner, "until": at + lease}
    return _TAKE.row(conn, values)


def hold(
    conn: sa.Connection, operation_id: str, epoch: int, owner: str | None, /, **values: Any
) -> Row | None:
    """Change an operation that ``owner`` still has: what it is now, without JSON columns. None if it moved
    on to another owner or epoch, or ended.

    The owner is asked for beside the epoch because a database that crashes may forget the last epochs that it
    gave (they are not synced to the disk one by one), and give them again to another.
    """
    given_values = {f"new_{name}": value for name, value in values.items()}
    given_values |= {"operation": operation_id, "held": epoch, "by": owner, "at": now()}
    row = _hold(tuple(values)).row(conn, given_values)
    if row is not None and "state" in values:
        note_end(conn, row, values["state"])
    return row


def note_end(conn: sa.Connection, row: Row, state: str) -> None:
    kind, created_at = row.kind, row.created_at
    after_commit(conn, lambda: _ended.observe(now() - created_at, kind, state))


@cache
def _hold(names: tuple[str, ...]) -> Statement:
    """UPDATE operations SET … WHERE id = … AND state = 'open' AND epoch = … AND owner = … RETURNING …"""
    changed = {name: given(f"new_{name}", type_=ops.c[name].type) for name in names}
    return Statement(
        sa.update(ops)
        .where(
            ops.c.id == given("operation"),
            _IS_OPEN,
            ops.c.epoch == given("held"),
            ops.c.owner == given("by"),
        )
        .values(updated_at=given("at"), **changed)
        .returning(
            ops.c.id,
            ops.c.server_id,
            ops.c.kind,
            ops.c.owner,
            ops.c.host,
            ops.c.epoch,
            ops.c.attempt,
            ops.c.created_at,
        )
    )


_SEEKS_HOST = Statement(
    sa.select(ops.c.id)
    .where(
        ops.c.id == given("operation"),
        _IS_OPEN,
        ops.c.epoch == given("held"),
        ops.c.host.is_(None),
    )
    .with_for_update(key_share=True)
)


def seeks_host(conn: sa.Connection, operation_id: str, epoch: int) -> bool:
    """Whether this epoch still owns it and has no host yet; it stays so until the transaction ends."""
    return _SEEKS_HOST.row(conn, {"operation": operation_id, "held": epoch}) is not None


def renew(conn: sa.Connection, held: dict[str, int], owner: str, until: float) -> set[str]:
    """Keep the leases of {operation id: epoch}; the ids that are still held. One statement."""
    if not held:
        return set()
    query = (
        sa.update(ops)
        .where(
            sa.tuple_(ops.c.id, ops.c.epoch).in_(list(held.items())),
            ops.c.state == OPEN,
            ops.c.owner == owner,
        )
        .values(lease_until=until)
        .returning(ops.c.id)
    )
    return set(conn.execute(query).scalars())


_SUPERSEDE = Statement(
    sa.update(ops)
    .where(ops.c.server_id == given("server"), ops.c.state == OPEN)
    .values(
        state=SUPERSEDED,
        epoch=ops.c.epoch + 1,
        message=given("reason"),
        payload=sa.literal({}, ops.c.payload.type),
        finished_at=given("at"),
        updated_at=given("at"),
    )
    .returning(ops.c.id, ops.c.kind, ops.c.created_at)
)


def supersede(conn: sa.Connection, server_id: str, reason: str) -> bool:
    """End whatever is open for a server; its owner learns by the epoch. False if nothing was open."""
    values = {"server": server_id, "reason": reason, "at": now()}
    ended = _SUPERSEDE.row(conn, values)
    if ended is None:
        return False
    note_end(conn, ended, SUPERSEDED)
    end_steps(conn, ended.id, "Error", reason)
    return True


_LOST = sa.select(ops.c.id, ops.c.kind, ops.c.host, ops.c.request_id).where(ops.c.state == OPEN)


def overdue(conn: sa.Connection, limit: int = 1000) -> Sequence[Row]:
    """Open operations past their deadline, whoever works on them. Oldest first."""
    query = _LOST.where(ops.c.deadline <= now()).order_by(ops.c.deadline)
    return conn.execute(query.limit(limit)).all()


def expired(conn: sa.Connection, young: float = 0.0, limit: int = 1000) -> Sequence[Row]:
    """Open operations before their deadline that nobody works on: the lease is over. Oldest first.

    What nobody took up yet may wait in the conductors' queue for ``young`` seconds.
    """
    at = now()
    waits = sa.and_(ops.c.lease_until == 0.0, ops.c.epoch == 0, ops.c.created_at > at - young)
    query = (
        _LOST.where(ops.c.lease_until <= at, ops.c.deadline > at, sa.not_(waits))
        .order_by(ops.c.lease_until)
        .limit(limit)
    )
    return conn.execute(query).all()


_NEXT_LEASE_END = sa.select(sa.func.min(ops.c.lease_until)).where(
    ops.c.state == OPEN, ops.c.lease_until > given("after")
)


def next_lease_end(conn: sa.Connection) -> float | None:
    """When the next lease of an open operation runs out, if its owner does not renew it."""
    found: float | None = conn.execute(_NEXT_LEASE_END, {"after": now()}).scalar_one()
    return found


def open_on_host(conn: sa.Connection, host: str) -> Sequence[Row]:
    query = sa.select(ops).where(ops.c.state == OPEN, ops.c.host == host)
    return conn.execute(query).all()


_BUSY_ON_HOST = Statement(sa.select(ops.c.server_id).where(ops.c.state == OPEN, ops.c.host == given("on")))


def busy_on_host(conn: sa.Connection, host: str) -> set[str]:
    """The servers that this host has work for."""
    return {row.server_id for row in _BUSY_ON_HOST.rows(conn, {"on": host})}


def open_by_host(conn: sa.Connection) -> dict[str, int]:
    """How many operations each host works on: SELECT host, count(*) … GROUP BY host."""
    query = sa.select(ops.c.host, sa.func.count().label("busy")).where(
        ops.c.state == OPEN, ops.c.host.is_not(None)
    )
    return {row.host: row.busy for row in conn.execute(query.group_by(ops.c.host))}


def expire_leases(conn: sa.Connection, host: str | None = None, but: Collection[str] = ()) -> list[str]:
    """End the leases of a dead owner now: of everyone, or of the agent on ``host`` (``but`` those that it
    works on). The operations' ids."""
    query = sa.update(ops).where(ops.c.state == OPEN)
    if host is not None:
        query = query.where(ops.c.owner == agent(host), ops.c.id.not_in(but))
    rows = conn.execute(query.values(lease_until=0.0, owner=None).returning(ops.c.id)).all()
    return [row.id for row in rows]


def expire_lease(conn: sa.Connection, operation_id: str) -> None:
    """End one lease now, whoever holds it."""
    conn.execute(sa.update(ops).where(ops.c.id == operation_id, ops.c.state == OPEN).values(lease_until=0.0))


def expire_owner(conn: sa.Connection, owner: str) -> None:
    """End all leases of an owner that is dead."""
    query = sa.update(ops).where(ops.c.state == OPEN, ops.c.owner == owner)
    conn.execute(query.values(lease_until=0.0, owner=None))


def waiting_at(conn: sa.Connection, place: str) -> Sequence[Row]:
    """Open operations that nobody works on, of all hosts whose names begin with ``place``. Oldest first."""
    here = ops.c.host.startswith(place, autoescape=True)
    query = _LOST.where(here, ops.c.lease_until <= now()).order_by(ops.c.created_at)
    return conn.execute(query).all()


def extended_at(conn: sa.Connection, place: str, since: float) -> Sequence[str]:
    """Volumes of hosts whose names begin with ``place`` that have grown since then."""
    here = ops.c.host.startswith(place, autoescape=True)
    grown = sa.and_(ops.c.kind == VolumeWork.EXTEND, ops.c.state == DONE, ops.c.finished_at >= since)
    return list(conn.execute(sa.select(ops.c.server_id).where(here, grown)).scalars())


def agent(host: str) -> str:
    """The owner name of the compute agent on ``host``."""
    return f"compute.{host}"


_STEP = {column.name: column for column in steps.c if column.name != "id"}


@dialect.once
def _put_step(conn: sa.Connection) -> Statement:
    """INSERT INTO steps … ON CONFLICT … DO UPDATE SET finished_at = …, … WHERE it has not ended."""
    return Statement(_upsert(dialect.insert(conn, steps)))


@dialect.once
def _put_many_steps(conn: sa.Connection) -> Statement:
    """INSERT INTO steps … SELECT … FROM unnest(…) ON CONFLICT …"""
    told = dialect.given_rows(_STEP)
    return Statement(_upsert(dialect.insert(conn, steps).from_select(list(_STEP), sa.select(*told.c))))


def _upsert(query: Any) -> Any:
    ends = {name: query.excluded[name] for name in ("finished_at", "result", "message", "details")}
    return query.on_conflict_do_update(
        index_elements=[steps.c.operation_id, steps.c.epoch, steps.c.name, steps.c.started_at],
        set_=ends,
        where=sa.and_(steps.c.finished_at.is_(None), query.excluded.finished_at.is_not(None)),
    )


def put_steps(
    conn: sa.Connection, operation_id: str, epoch: int, host: str | None, told: Sequence[StepRecord]
) -> None:
    """Write the journal: what began is inserted, what ended is inserted or, if its beginning was, completed.

    Told twice, they are written once.
    """
    put_step_rows(conn, step_rows(operation_id, epoch, host, told))


def step_rows(
    operation_id: str, epoch: int, host: str | None, told: Sequence[StepRecord]
) -> list[dict[str, Any]]:
    return [
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
    ]


def put_step_rows(conn: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Steps of one operation or of several, as one statement."""
    rows = _each_once(rows)
    if len(rows) > 1 and dialect.is_postgresql(conn):
        _put_many_steps(conn).count(conn, {name: [row[name] for row in rows] for name in _STEP})
    elif rows:
        _put_step(conn).insert(conn, rows)


def _each_once(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One statement cannot write a row twice. What is left of a step is what would be if each were written
    after the other: its last word until it has ended, and that end."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["operation_id"], row["epoch"], row["name"], row["started_at"])
        if key not in found or found[key]["finished_at"] is None:
            found[key] = row
    return list(found.values())


_LAST_STEP_END = Statement(
    sa.select(sa.func.max(steps.c.finished_at).label("end"))
    .join(ops, ops.c.id == steps.c.operation_id)
    .where(ops.c.server_id == given("server"), steps.c.host == given("on"))
)


def last_step_end(conn: sa.Connection, server_id: str, host: str) -> float:
    """When ``host`` last ended a step for a server, by the clock of that host; 0 if it never did."""
    last = _LAST_STEP_END.row(conn, {"server": server_id, "on": host})
    return float(last.end or 0.0) if last is not None else 0.0


_END_STEPS = Statement(
    sa.update(steps)
    .where(steps.c.operation_id == given("operation"), steps.c.finished_at.is_(None))
    .values(finished_at=given("at"), result=given("how"), message=given("said"))
)


def end_steps(conn: sa.Connection, operation_id: str, result: str, message: str) -> None:
    """End every step of an operation that nobody will end any more."""
    _END_STEPS.count(conn, {"operation": operation_id, "at": now(), "how": result, "said": message})


def steps_of(conn: sa.Connection, operation_ids: Sequence[str]) -> Sequence[Row]:
    """The journal of these operations in order, one query."""
    query = sa.select(steps).where(steps.c.operation_id.in_(operation_ids)).order_by(steps.c.id)
    return conn.execute(query).all()
