"""Operations in the database, several at once: what operations.py does for one, as one statement for all.

The locks are taken in the order of the ids, so that two who want some of the same do not wait for each other.
Nor does a transaction that begins with one of these wait long for anybody (dialect.hurry): who has locked a
row may be frozen, and all of them would stand still for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam as given

from kilonova.domain.clock import now
from kilonova.domain.errors import StaleEpoch
from kilonova.store import dialect, operations
from kilonova.store.database import Row
from kilonova.store.operations import DONE, OPEN
from kilonova.store.schema.base import encoded
from kilonova.store.schema.operations import operations as ops
from kilonova.store.schema.operations import steps
from kilonova.store.statement import Statement


@dialect.once
def _take(conn: sa.Connection) -> Statement:
    return Statement(
        sa.update(ops)
        .where(
            dialect.among(conn, ops.c.id, "ids"),
            dialect.by_key(ops.c.state) == OPEN,
            ops.c.lease_until <= given("at"),
            ops.c.epoch == 0,
            ops.c.host.is_(None),
        )
        .values(owner=given("by"), lease_until=given("until"), epoch=1, updated_at=given("at"))
        .returning(*ops.c)
    )


def take_new(conn: sa.Connection, ids: Sequence[str], owner: str, lease: float) -> Sequence[Row]:
    """Become the owner of those that nobody has taken yet, ever; the others stay as they are."""
    at = now()
    return _take(conn).rows(conn, {"ids": ids, "at": at, "by": owner, "until": at + lease})


class Held(NamedTuple):
    """What somebody says to hold."""

    operation_id: str
    epoch: int
    owner: str | None


_COLUMNS = [
    ops.c[name]
    for name in (
        "id",
        "server_id",
        "kind",
        "owner",
        "host",
        "epoch",
        "attempt",
        "created_at",
        "request_id",
        "state",
    )
]


@dialect.once
def _lock(conn: sa.Connection) -> Statement:
    return Statement(
        sa.select(*_COLUMNS)
        .where(dialect.among(conn, ops.c.id, "ids"), dialect.by_key(ops.c.state) == OPEN)
        .order_by(ops.c.id)
        .with_for_update(key_share=True, skip_locked=True)
    )


def lock_held(conn: sa.Connection, held: Sequence[Held]) -> dict[str, Row]:
    """Those that are open and theirs, by id: they stay so until the transaction ends. Without those that
    somebody else has locked."""
    dialect.hurry(conn)
    return _theirs(_lock(conn).rows(conn, {"ids": [one.operation_id for one in held]}), held)


@dialect.once
def _done(conn: sa.Connection) -> Statement:
    return Statement(
        sa.select(*_COLUMNS).where(dialect.among(conn, ops.c.id, "ids"), dialect.by_key(ops.c.state) == DONE)
    )


def done(conn: sa.Connection, held: Sequence[Held]) -> dict[str, Row]:
    """Those that are done, and were theirs at the end, by id."""
    dialect.hurry(conn)
    return _theirs(_done(conn).rows(conn, {"ids": [one.operation_id for one in held]}), held)


def _theirs(rows: Sequence[Row], held: Sequence[Held]) -> dict[str, Row]:
    wanted = {one.operation_id: one for one in held}
    return {row.id: row for row in rows if wanted[row.id] == (row.id, row.epoch, row.owner)}


def lock_seeking(conn: sa.Connection, epochs: Mapping[str, int]) -> set[str]:
    """Of {operation id: epoch}: those that are in this epoch and have no host yet. It stays so until the
    transaction ends. Without those that somebody else has locked."""
    dialect.hurry(conn)
    rows = _lock(conn).rows(conn, {"ids": list(epochs)})
    return {row.id for row in rows if row.epoch == epochs[row.id] and row.host is None}


def change(conn: sa.Connection, ids: Sequence[str], **values: Any) -> None:
    """Change operations that this transaction has locked."""
    changed = {f"new_{name}": value for name, value in values.items()}
    _change(tuple(values))(conn).count(conn, changed | {"ids": ids, "at": now()})


@cache
def _change(names: tuple[str, ...]) -> Any:
    @dialect.once
    def statement(conn: sa.Connection) -> Statement:
        changed = {name: given(f"new_{name}", type_=ops.c[name].type) for name in names}
        query = sa.update(ops).where(dialect.among(conn, ops.c.id, "ids"))
        return Statement(query.values(updated_at=given("at"), **changed))

    return statement


class HandedOver(NamedTuple):
    operation_id: str
    epoch: int
    owner: str
    """Who has it until now."""
    host: str
    tried_hosts: list[str]
    alternates: list[str]
    attempt: int


_GIVEN = {
    "of_id": ops.c.id,
    "on": ops.c.host,
    "by": ops.c.owner,
    "tried": ops.c.tried_hosts,
    "others": ops.c.alternates,
    "try": ops.c.attempt,
}


@dialect.once
def _hand_over(_conn: sa.Connection) -> Statement:
    """UPDATE operations SET owner = told.by, … FROM unnest(…) AS told WHERE id = told.of_id"""
    told = dialect.given_rows(_GIVEN)
    return Statement(
        sa.update(ops)
        .where(ops.c.id == told.c.of_id)
        .values(
            owner=told.c.by,
            host=told.c.on,
            tried_hosts=told.c.tried,
            alternates=told.c.others,
            attempt=told.c["try"],
            lease_until=given("until"),
            updated_at=given("at"),
        )
    )


def hand_over(conn: sa.Connection, handed: Sequence[HandedOver], lease: float) -> None:
    """Each becomes its host's. StaleEpoch if one of them is not its owner's any more."""
    held = lock_held(conn, [Held(one.operation_id, one.epoch, one.owner) for one in handed])
    if len(held) != len(handed):
        raise StaleEpoch("one of several operations has moved on")
    if dialect.is_postgresql(conn):
        rows = {
            "of_id": [one.operation_id for one in handed],
            "on": [one.host for one in handed],
            "by": [operations.agent(one.host) for one in handed],
            "tried": [encoded(one.tried_hosts) for one in handed],
            "others": [encoded(one.alternates) for one in handed],
            "try": [one.attempt for one in handed],
        }
        _hand_over(conn).count(conn, rows | {"until": now() + lease, "at": now()})
        return
    for one in handed:
        operations.hold(
            conn,
            one.operation_id,
            one.epoch,
            one.owner,
            owner=operations.agent(one.host),
            host=one.host,
            tried_hosts=one.tried_hosts,
            alternates=one.alternates,
            attempt=one.attempt,
            lease_until=now() + lease,
        )


@dialect.once
def _end_steps(conn: sa.Connection) -> Statement:
    return Statement(
        sa.update(steps)
        .where(dialect.among(conn, steps.c.operation_id, "ids"), steps.c.finished_at.is_(None))
        .values(finished_at=given("at"), result=given("how"), message=given("said"))
    )


def end_steps(conn: sa.Connection, ids: Sequence[str], result: str, message: str) -> None:
    """End every step of these operations that nobody will end any more."""
    _end_steps(conn).count(conn, {"ids": ids, "at": now(), "how": result, "said": message})
