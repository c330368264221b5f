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
from kilonova.store import dialect, server_passwords, usage
from kilonova.store.database import Row
from kilonova.store.schema.hosts import claims
from kilonova.store.schema.operations import operations
from kilonova.store.schema.servers import server_tags, servers
from kilonova.store.statement import Statement

VIEW = [column for column in servers.c if column.name not in {"spec", "user_data"}]
"""All columns but the big ones."""

_INSERT = Statement(servers.insert())


def insert(conn: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """INSERT INTO servers …, one row a server; all columns but the defaults."""
    _INSERT.insert(conn, rows)


def insert_tags(conn: sa.Connection, tags: Mapping[str, Iterable[str]]) -> None:
    """INSERT INTO server_tags …, of {server id: tags}."""
    rows = [{"server_id": server_id, "tag": tag} for server_id, own in tags.items() for tag in own]
    if rows:
        conn.execute(server_tags.insert(), rows)


_LIVE = [servers.c.id == given("server"), dialect.by_key(servers.c.deleted_at).is_(None)]
_SELECT = sa.select(*VIEW).where(*_LIVE)
_SELECT_OWN = _SELECT.where(servers.c.project_id == given("project"))
_GET, _GET_OWN = Statement(_SELECT), Statement(_SELECT_OWN)
_GET_LOCKED = Statement(_SELECT.with_for_update(key_share=True))
_GET_OWN_LOCKED = Statement(_SELECT_OWN.with_for_update(key_share=True))
_SELECT_STATE = sa.select(
    servers.c.project_id, servers.c.vm_state, servers.c.task_state, servers.c.host, servers.c.locked_by
).where(*_LIVE)
_STATE, _STATE_LOCKED = Statement(_SELECT_STATE), Statement(_SELECT_STATE.with_for_update(key_share=True))
HOST_COLUMNS = [
    servers.c[name]
    for name in (
        "spec",
        "name",
        "hostname",
        "vifs",
        "metadata",
        "availability_zone",
        "host",
        "reservation_id",
    )
]
_FOR_HOST = Statement(sa.select(*HOST_COLUMNS).where(*_LIVE))


def get(conn: sa.Connection, server_id: str, project_id: str | None = None, for_update: bool = False) -> Row:
    """One live server; NotFound if it is gone, or not ``project_id``'s when that is given.

    ``for_update``: nobody else changes it until the transaction ends.
    """
    if project_id is None:
        query = _GET_LOCKED if for_update else _GET
        return _found(query.row(conn, {"server": server_id}), server_id)
    query = _GET_OWN_LOCKED if for_update else _GET_OWN
    return _found(query.row(conn, {"server": server_id, "project": project_id}), server_id)


def state(conn: sa.Connection, server_id: str, for_update: bool = False) -> Row:
    """project_id, vm_state, task_state, host and locked_by of a live server; NotFound."""
    query = _STATE_LOCKED if for_update else _STATE
    return _found(query.row(conn, {"server": server_id}), server_id)


def vm_state(conn: sa.Connection, server_id: str) -> str | None:
    """None if it is gone."""
    row = _STATE.row(conn, {"server": server_id})
    return None if row is None else str(row.vm_state)


def for_host(conn: sa.Connection, server_id: str) -> Row:
    """What its host must know of a live server: the spec, and what may have changed since; NotFound."""
    return _found(_FOR_HOST.row(conn, {"server": server_id}), server_id)


def spec(conn: sa.Connection, server_id: str) -> BuildSpec:
    found: BuildSpec = for_host(conn, server_id).spec
    return found


def find_spec(conn: sa.Connection, server_id: str) -> BuildSpec | None:
    """What to build, of a live server; None if it is gone."""
    row = _FOR_HOST.row(conn, {"server": server_id})
    return None if row is None else row.spec


_PLACE = Statement(
    sa.update(servers)
    .where(
        *_LIVE,
        sa.exists().where(claims.c.server_id == given("server"), claims.c.host == given("on")),
    )
    .values(
        host=given("on"), availability_zone=given("zone"), task_state=given("shows"), updated_at=given("at")
    )
    .returning(*HOST_COLUMNS)
)


def place(conn: sa.Connection, server_id: str, host: str, zone: str, task_state: str) -> Row | None:
    """The server is on that host: what the host must know (for_host). None if it holds no claim there.

    UPDATE servers SET host = … WHERE id = … AND EXISTS (SELECT … FROM claims …) RETURNING spec, …
    """
    values = {"server": server_id, "on": host, "zone": zone, "shows": task_state, "at": now()}
    return _PLACE.row(conn, values)


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
    return _change(tuple(values), if_vm_state, if_idle).count(conn, given_values) == 1


@cache
def _change(names: tuple[str, ...], if_vm_state: frozenset[VmState] | None, if_idle: bool) -> Statement:
    changed = {name: given(f"new_{name}", type_=servers.c[name].type) for name in names}
    query = sa.update(servers).where(*_LIVE).values(updated_at=given("at"), **changed)
    if if_vm_state is not None:
        query = query.where(sa.or_(*(servers.c.vm_state == state for state in sorted(if_vm_state))))
    if if_idle:
        query = query.where(servers.c.task_state.is_(None))
    return Statement(query)


def set_vifs(conn: sa.Connection, server_id: str, vifs: list[Vif]) -> bool:
    return change(conn, server_id, vifs=vifs)


_LOCK = Statement(sa.select(servers.c.id).where(*_LIVE).with_for_update(key_share=True))
_SHOW_VIFS = Statement(
    sa.update(servers).where(*_LIVE).values(vifs=given("shown", type_=servers.c.vifs.type))
)


def lock(conn: sa.Connection, server_id: str) -> bool:
    """Nobody else changes the server until the transaction ends; False if there is no such one alive."""
    return _LOCK.row(conn, {"server": server_id}) is not None


@dialect.once
def _lock_several(conn: sa.Connection) -> Statement:
    query = sa.select(servers.c.id).where(
        dialect.among(conn, servers.c.id, "ids"), dialect.by_key(servers.c.deleted_at).is_(None)
    )
    return Statement(query.order_by(servers.c.id).with_for_update(key_share=True))


def lock_several(conn: sa.Connection, server_ids: Sequence[str]) -> list[str]:
    """lock() of all of them, in the order of their ids; those that live."""
    return [row.id for row in _lock_several(conn).rows(conn, {"ids": list(server_ids)})]


def show_vifs(conn: sa.Connection, vifs: Mapping[str, list[Vif]]) -> None:
    """Server id → what others changed of its NICs. The servers themselves have not changed, as their
    ``updated_at`` shows."""
    _SHOW_VIFS.each(conn, [{"server": server_id, "shown": shown} for server_id, shown in vifs.items()])


_MARK_DELETED = Statement(
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
_FORGET_USER_DATA = Statement(
    sa.update(servers)
    .where(servers.c.id == given("server"))
    .values(user_data=None, spec=given("bare", type_=servers.c.spec.type))
)
_SPEC = Statement(sa.select(servers.c.spec).where(servers.c.id == given("server")))
_FORGET_TAGS = Statement(sa.delete(server_tags).where(server_tags.c.server_id == given("server")))


def mark_deleted(conn: sa.Connection, server_id: str) -> bool:
    """The end of a server: its row stays for the record, without what may be secret; its quota is given
    back. Safe to call again."""
    row = _MARK_DELETED.row(conn, {"server": server_id, "at": now()})
    if row is None:
        return False
    _FORGET_TAGS.count(conn, {"server": server_id})
    server_passwords.clear(conn, server_id)
    usage.release(conn, row.project_id, row.flavor)
    if row.user_data is not None:
        kept = _found(_SPEC.row(conn, {"server": server_id}), server_id)
        bare = structs.replace(kept.spec, user_data=None)
        _FORGET_USER_DATA.count(conn, {"server": server_id, "bare": bare})
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


def shelved_before(conn: sa.Connection, before: float) -> Sequence[str]:
    """Servers that were shelved before that, are on their hosts still, and idle."""
    query = sa.select(servers.c.id).where(
        servers.c.vm_state == VmState.SHELVED,
        servers.c.deleted_at.is_(None),
        servers.c.host.is_not(None),
        servers.c.task_state.is_(None),
        servers.c.shelved_at < before,
    )
    return conn.execute(query).scalars().all()


_ON_HOSTS = sa.select(servers.c.host, servers.c.id, servers.c.power_state, servers.c.vifs).where(
    servers.c.host.in_(given("names", expanding=True)), servers.c.deleted_at.is_(None)
)


def on_hosts(conn: sa.Connection, hosts: Sequence[str]) -> Sequence[Row]:
    """Every live server placed on these hosts, one query."""
    return conn.execute(_ON_HOSTS, {"names": hosts}).all()


_POWER_STATES = sa.select(servers.c.host, servers.c.id, servers.c.power_state).where(
    servers.c.host.in_(given("names", expanding=True)),
    servers.c.deleted_at.is_(None),
    servers.c.updated_at < given("before"),
)


def power_states(conn: sa.Connection, hosts: Sequence[str], before: float) -> Mapping[tuple[str, str], int]:
    """By host and server, of every live server placed on these hosts and unchanged since, one query."""
    rows = conn.execute(_POWER_STATES, {"names": hosts, "before": before})
    return {(host, server_id): state for host, server_id, state in rows}


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
