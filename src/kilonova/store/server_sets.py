"""Servers in the database, several at once: what servers.py does for one, as one statement for all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam as given

from kilonova.domain.clock import now
from kilonova.domain.servers import BuildSpec, VmState
from kilonova.store import dialect
from kilonova.store import servers as single
from kilonova.store.database import Row
from kilonova.store.schema.hosts import claims
from kilonova.store.schema.servers import servers
from kilonova.store.statement import Statement


@dialect.once
def _specs(conn: sa.Connection) -> Statement:
    query = sa.select(servers.c.id, servers.c.spec)
    return Statement(
        query.where(dialect.among(conn, servers.c.id, "ids"), dialect.by_key(servers.c.deleted_at).is_(None))
    )


def specs(conn: sa.Connection, server_ids: Sequence[str]) -> dict[str, BuildSpec]:
    """What to build, of those that live."""
    return {row.id: row.spec for row in _specs(conn).rows(conn, {"ids": server_ids})}


def change(
    conn: sa.Connection,
    server_ids: Sequence[str],
    *,
    if_vm_state: VmState | None = None,
    if_idle: bool = False,
    **values: Any,
) -> None:
    """Those that live, and are in that state (``if_idle``: without a task state)."""
    changed = {f"new_{name}": value for name, value in values.items()}
    changed |= {"ids": server_ids, "at": now()}
    _change(tuple(values), if_vm_state, if_idle)(conn).count(conn, changed)


@cache
def _change(names: tuple[str, ...], if_vm_state: VmState | None, if_idle: bool) -> Any:
    @dialect.once
    def statement(conn: sa.Connection) -> Statement:
        changed = {name: given(f"new_{name}", type_=servers.c[name].type) for name in names}
        query = sa.update(servers).values(updated_at=given("at"), **changed)
        query = query.where(
            dialect.among(conn, servers.c.id, "ids"), dialect.by_key(servers.c.deleted_at).is_(None)
        )
        if if_vm_state is not None:
            query = query.where(dialect.by_key(servers.c.vm_state) == if_vm_state)
        if if_idle:
            query = query.where(servers.c.task_state.is_(None))
        return Statement(query)

    return statement


class Place(NamedTuple):
    server_id: str
    host: str
    zone: str


_GIVEN = {"of_id": servers.c.id, "on": servers.c.host, "zone": servers.c.availability_zone}


@dialect.once
def _place(_conn: sa.Connection) -> Statement:
    told = dialect.given_rows(_GIVEN)
    return Statement(
        sa.update(servers)
        .where(
            servers.c.id == told.c.of_id,
            dialect.by_key(servers.c.deleted_at).is_(None),
            sa.exists().where(claims.c.server_id == told.c.of_id, claims.c.host == told.c.on),
        )
        .values(
            host=told.c.on, availability_zone=told.c.zone, task_state=given("shows"), updated_at=given("at")
        )
        .returning(servers.c.id, *single.HOST_COLUMNS)
    )


def place(conn: sa.Connection, places: Sequence[Place], task_state: str) -> dict[str, Row]:
    """The servers are on those hosts, if they hold claims there: what the hosts must know, by server."""
    if dialect.is_postgresql(conn):
        names = ("of_id", "on", "zone")
        columns: dict[str, Any] = {
            name: list(column) for name, column in zip(names, zip(*places, strict=True), strict=True)
        }
        rows = _place(conn).rows(conn, columns | {"shows": task_state, "at": now()})
        return {row.id: row for row in rows}
    placed = {}
    for one in places:
        row = single.place(conn, one.server_id, one.host, one.zone, task_state)
        if row is not None:
            placed[one.server_id] = row
    return placed
