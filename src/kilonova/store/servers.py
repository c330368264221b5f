"""Servers in the database: written by the API when it accepts, by the conductor afterwards.

Every change of a state is a compare-and-swap: it says which state it expects to find.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from msgspec import structs
from sqlalchemy import bindparam as given

from kilonova.domain.clock import now
from kilonova.domain.errors import NotFound
from kilonova.domain.network import Vif
from kilonova.domain.servers import BuildSpec, VmState
from kilonova.store import usage
from kilonova.store.database import Row
from kilonova.store.schema.operations import operations
from kilonova.store.schema.servers import server_tags, servers

VIEW = [column for column in servers.c if column.name not in {"spec", "user_data"}]
"""All columns but the big ones."""

_INSERT = servers.insert()


def insert(conn: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """INSERT INTO servers …, one row a server; all columns but the defaults."""
    conn.execute(_INSERT, rows)


def insert_tags(conn: sa.Connection, tags: Mapping[str, Iterable[str]]) -> None:
    """INSERT INTO server_tags …, of {server id: tags}."""
    rows = [{"server_id": server_id, "tag": tag} for server_id, own in tags.items() for tag in own]
    if rows:
        conn.execute(server_tags.insert(), rows)


_LIVE = [servers.c.id == given("server"), servers.c.deleted_at.is_(None)]
_GET = sa.select(*VIEW).where(*_LIVE)
_GET_OWN = _GET.where(servers.c.project_id == given("project"))
_STATE = sa.select(
    servers.c.project_id, servers.c.vm_state, servers.c.task_state, servers.c.host, servers.c.locked_by
).where(*_LIVE)
_STATE_LOCKED = _STATE.with_for_update(key_share=True)
_FOR_HOST = sa.select(
    servers.c.spec,
    servers.c.name,
    servers.c.hostname,
    servers.c.vifs,
    servers.c.metadata,
    servers.c.availability_zone,
    servers.c.host,
).where(*_LIVE)


def get(conn: sa.Connection, server_id: str, project_id: str | None = None, for_update: bool = False) -> Row:
    """One live server; NotFound if it is gone, or not ``project_id``'s when that is given.

    ``for_update``: nobody else changes it until the transaction ends.
    """
    query = _GET if project_id is None else _GET_OWN
    if for_update:
        query = query.with_for_update(key_share=True)
    row = conn.execute(query, {"server": server_id, "project": project_id}).one_or_none()
    return _found(row, server_id)


def state(conn: sa.Connection, server_id: str, for_update: bool = False) -> Row:
    """project_id, vm_state, task_state, host and locked_by of a live server; NotFound."""
    query = _STATE_LOCKED if for_update else _STATE
    return _found(conn.execute(query, {"server": server_id}).one_or_none(), server_id)


def for_host(conn: sa.Connection, server_id: str) -> Row:
    """What its host must know of a live server: the spec, and what may have changed since; NotFound."""
    return _found(conn.execute(_FOR_HOST, {"server": server_id}).one_or_none(), server_id)


def spec(conn: sa.Connection, server_id: str) -> BuildSpec:
    found: BuildSpec = for_host(conn, server_id).spec
    return found


def _found(row: Row | None, server_id: str) -> Row:
    if row is None:
        raise NotFound(f"Instance {server_id} could not be found.")
    return row


def change(
    conn: sa.Connection,
    server_id: str,
    *,
    if_vm_state: frozenset[VmState] | None = None,
    if_idle: bool = False,
    **values: Any,
) -> bool:
    """UPDATE servers SET … WHERE id = … and its state is as expected; False if it was not.

    ``if_idle``: only if no task state is set.
    """
    given_values = {f"new_{name}": value for name, value in values.items()}
    given_values |= {"server": server_id, "at": now()}
    if if_vm_state is not None:
        given_values["vm_states"] = list(if_vm_state)
    query = _change(tuple(values), if_vm_state is not None, if_idle)
    return conn.execute(query, given_values).rowcount == 1


@cache
def _change(names: tuple[str, ...], in_vm_states: bool, if_idle: bool) -> sa.Update:
    changed = {name: given(f"new_{name}", type_=servers.c[name].type) for name in names}
    query = sa.update(servers).where(*_LIVE).values(updated_at=given("at"), **changed)
    if in_vm_states:
        query = query.where(servers.c.vm_state.in_(given("vm_states", expanding=True)))
    if if_idle:
        query = query.where(servers.c.task_state.is_(None))
    return query


def set_vifs(conn: sa.Connection, server_id: str, vifs: list[Vif]) -> bool:
    return change(conn, server_id, vifs=vifs)


_MARK_DELETED = (
    sa.update(servers)
    .where(*_LIVE)
    .values(
        deleted_at=given("at"),
        terminated_at=given("at"),
        updated_at=given("at"),
        vm_state=VmState.DELETED,
        task_state=None,
        power_state=0,
        vifs=sa.literal([], servers.c.vifs.type),
    )
    .returning(servers.c.project_id, servers.c.flavor, servers.c.user_data)
)
_FORGET_USER_DATA = (
    sa.update(servers)
    .where(servers.c.id == given("server"))
    .values(user_data=None, spec=given("bare", type_=servers.c.spec.type))
)
_SPEC = sa.select(servers.c.spec).where(servers.c.id == given("server"))
_FORGET_TAGS = sa.delete(server_tags).where(server_tags.c.server_id == given("server"))


def mark_deleted(conn: sa.Connection, server_id: str) -> bool:
    """The end of a server: its row stays for the record, without what may be secret; its quota is given
    back. Safe to call again."""
    row = conn.execute(_MARK_DELETED, {"server": server_id, "at": now()}).one_or_none()
    if row is None:
        return False
    conn.execute(_FORGET_TAGS, {"server": server_id})
    usage.release(conn, row.project_id, row.flavor)
    if row.user_data is not None:
        spec = conn.execute(_SPEC, {"server": server_id}).scalar_one()
        bare = structs.replace(spec, user_data=None)
        conn.execute(_FORGET_USER_DATA, {"server": server_id, "bare": bare})
    return True


_ON_HOST = (
    sa.select(servers.c.id, servers.c.vm_state, servers.c.task_state, servers.c.power_state, servers.c.vifs)
    .where(servers.c.host == given("on"), servers.c.deleted_at.is_(None))
    .order_by(servers.c.id)
)
_THESE_ON_HOST = _ON_HOST.where(servers.c.id.in_(given("only", expanding=True)))


def on_host(conn: sa.Connection, host: str, only: Sequence[str] | None = None) -> Sequence[Row]:
    """Every live server placed on ``host`` (of those in ``only``, if given), one query."""
    if only is None:
        return conn.execute(_ON_HOST, {"on": host}).all()
    return conn.execute(_THESE_ON_HOST, {"on": host, "only": only}).all()


def in_limbo(conn: sa.Connection, before: float, for_update: bool = False) -> Sequence[str]:
    """Servers in a transitional state that no open operation explains, unchanged since ``before``.

    There should never be one (invariant 3): the sweeper repairs them, and the tests ask the same question.
    ``for_update``: nobody begins anything with them until the transaction ends.
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
    if for_update:
        query = query.with_for_update(of=servers, key_share=True)
    return conn.execute(query).scalars().all()
