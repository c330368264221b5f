"""Servers in the database: written by the API when it accepts, by the conductor afterwards.

Every change of a state is a compare-and-swap: it says which state it expects to find.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.domain.errors import NotFound
from kilonova.domain.network import Vif
from kilonova.domain.servers import BuildSpec, VmState
from kilonova.store import usage
from kilonova.store.database import Row
from kilonova.store.schema.operations import operations
from kilonova.store.schema.servers import server_tags, servers

VIEW = [column for column in servers.c if column.name != "spec"]
"""All columns but the big one."""


def insert(conn: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """INSERT INTO servers …, one row a server; all columns but the defaults."""
    conn.execute(servers.insert(), rows)


def insert_tags(conn: sa.Connection, tags: Mapping[str, Iterable[str]]) -> None:
    """INSERT INTO server_tags …, of {server id: tags}."""
    rows = [{"server_id": server_id, "tag": tag} for server_id, own in tags.items() for tag in own]
    if rows:
        conn.execute(server_tags.insert(), rows)


def get(conn: sa.Connection, server_id: str, project_id: str | None = None) -> Row:
    """One live server; NotFound if it is gone, or not ``project_id``'s when that is given."""
    query = sa.select(*VIEW).where(servers.c.id == server_id, servers.c.deleted_at.is_(None))
    if project_id is not None:
        query = query.where(servers.c.project_id == project_id)
    row = conn.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"Instance {server_id} could not be found.")
    return row


def spec(conn: sa.Connection, server_id: str) -> BuildSpec:
    """SELECT spec FROM servers WHERE id = …; NotFound if there is none."""
    found = conn.execute(sa.select(servers.c.spec).where(servers.c.id == server_id)).scalar_one_or_none()
    if found is None:
        raise NotFound(f"Instance {server_id} could not be found.")
    return found  # type: ignore[no-any-return]


def change(
    conn: sa.Connection,
    server_id: str,
    *,
    if_vm_state: frozenset[VmState] | None = None,
    if_task_state: frozenset[str | None] | None = None,
    **values: Any,
) -> bool:
    """UPDATE servers SET … WHERE id = … AND state as expected; False if it was not."""
    query = sa.update(servers).where(servers.c.id == server_id, servers.c.deleted_at.is_(None))
    if if_vm_state is not None:
        query = query.where(servers.c.vm_state.in_(if_vm_state))
    if if_task_state is not None:
        named = [state for state in if_task_state if state is not None]
        test = servers.c.task_state.in_(named)
        query = query.where(sa.or_(test, servers.c.task_state.is_(None)) if None in if_task_state else test)
    return conn.execute(query.values(updated_at=now(), **values)).rowcount == 1


def set_vifs(conn: sa.Connection, server_id: str, vifs: list[Vif]) -> bool:
    return change(conn, server_id, vifs=vifs)


def mark_deleted(conn: sa.Connection, server_id: str) -> bool:
    """The end of a server: its row stays for the record, its quota is given back. Safe to call again."""
    row = conn.execute(
        sa.update(servers)
        .where(servers.c.id == server_id, servers.c.deleted_at.is_(None))
        .values(
            deleted_at=now(),
            terminated_at=now(),
            updated_at=now(),
            vm_state=VmState.DELETED,
            task_state=None,
            power_state=0,
            vifs=[],
        )
        .returning(servers.c.project_id, servers.c.flavor)
    ).one_or_none()
    if row is None:
        return False
    conn.execute(sa.delete(server_tags).where(server_tags.c.server_id == server_id))
    usage.release(conn, row.project_id, row.flavor)
    return True


def on_host(conn: sa.Connection, host: str, only: Sequence[str] | None = None) -> Sequence[Row]:
    """Every live server placed on ``host`` (of those in ``only``, if given), one query."""
    query = sa.select(
        servers.c.id, servers.c.vm_state, servers.c.task_state, servers.c.power_state, servers.c.vifs
    ).where(servers.c.host == host, servers.c.deleted_at.is_(None))
    if only is not None:
        query = query.where(servers.c.id.in_(only))
    return conn.execute(query).all()


def in_limbo(conn: sa.Connection, before: float) -> Sequence[str]:
    """Servers in a transitional state that no open operation explains, unchanged since ``before``.

    There should never be one (invariant 3): the sweeper repairs them, and the tests ask the same question.
    """
    query = (
        sa.select(servers.c.id)
        .outerjoin(operations, sa.and_(operations.c.server_id == servers.c.id, operations.c.state == "open"))
        .where(
            servers.c.deleted_at.is_(None),
            sa.or_(servers.c.vm_state == VmState.BUILDING, servers.c.task_state.is_not(None)),
            operations.c.id.is_(None),
            servers.c.updated_at < before,
        )
    )
    return conn.execute(query).scalars().all()
