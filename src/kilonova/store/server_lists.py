"""Lists of servers: which ones, in which order, one page at a time.

One statement a page, and one more to find the marker, however long the page is. JSON columns come as the
text that is stored: the API splices them into its answer without reading them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import sqlalchemy as sa

from kilonova.domain.errors import BadRequest, NotFound
from kilonova.domain.servers import TaskState, VmState
from kilonova.store import dialect, regexp
from kilonova.store.database import Row
from kilonova.store.schema.base import Json
from kilonova.store.schema.hosts import hosts, services
from kilonova.store.schema.servers import server_tags, servers

States = tuple[VmState, frozenset[TaskState] | None]
"""A vm_state, and the task states it may have; None: any."""


@dataclass(frozen=True, kw_only=True)
class ServerQuery:
    """What a list asks for. All conditions hold together; column names are those of the table."""

    equal: Mapping[str, Any] = field(default_factory=dict)
    among: Mapping[str, Collection[Any]] = field(default_factory=dict)
    matching: Mapping[str, str] = field(default_factory=dict)
    """Regular expressions that are found somewhere in the value."""
    in_second: Mapping[str, float] = field(default_factory=dict)
    """Times, to the second: epoch seconds of its beginning."""
    states: Collection[States] | None = None
    locked: bool | None = None
    deleted: bool | None = False
    """None: both."""
    changed_since: float | None = None
    changed_before: float | None = None
    hypervisor_hostname: str | None = None
    tags: frozenset[str] = frozenset()
    tags_any: frozenset[str] = frozenset()
    not_tags: frozenset[str] = frozenset()
    not_tags_any: frozenset[str] = frozenset()
    addresses: Callable[[str], bool] | None = None
    """Asked of the text of the ``vifs`` column."""
    sort: Sequence[tuple[str, bool]] = ()
    """(column, descending). Equal ones come in order of creation."""
    marker: str | None = None
    limit: int = 1000


def as_text(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """A JSON column as it is stored; any other as it is."""
    return sa.type_coerce(column, sa.Text).label(column.name) if isinstance(column.type, Json) else column


_UNSHOWN = {"spec", "user_data", "shelved_image_id", "shelved_at"}
BRIEF = [servers.c.id, servers.c.name]
DETAIL = [as_text(column) for column in servers.c if column.name not in _UNSHOWN]
DETAIL_AND_USER_DATA = [*DETAIL, servers.c.user_data]
OWNER = [servers.c.id, servers.c.project_id]
ADDRESSES = [as_text(servers.c.vifs)]


def get(
    conn: sa.Connection,
    server_id: str,
    project_id: str | None,
    columns: Sequence[Any] = DETAIL,
    gone_too: bool = False,
) -> Row:
    """One server with its JSON as text; NotFound unless it is ``project_id``'s (None: anybody's).

    ``gone_too``: deleted ones as well.
    """
    query = _one(tuple(columns), project_id is not None, gone_too)
    row = conn.execute(query, {"server_id": server_id, "owner": project_id}).one_or_none()
    if row is None:
        raise NotFound(f"Instance {server_id} could not be found.")
    return row


@cache
def _one(columns: tuple[Any, ...], owned: bool, gone_too: bool) -> sa.Select[Any]:
    """SELECT … FROM servers WHERE id = :server_id [AND deleted_at IS NULL] [AND project_id = :owner]"""
    query = sa.select(*columns).where(servers.c.id == sa.bindparam("server_id"))
    if not gone_too:
        query = query.where(servers.c.deleted_at.is_(None))
    return query.where(servers.c.project_id == sa.bindparam("owner")) if owned else query


def page(conn: sa.Connection, wanted: ServerQuery, columns: Sequence[Any] = DETAIL) -> list[Row]:
    """One page. BadRequest if the marker is no server of the list's owner."""
    if wanted.limit == 0:
        return []
    order = _order(wanted.sort)
    query = sa.select(*columns).where(*_conditions(wanted))
    patterns = []
    for name, pattern in wanted.matching.items():
        test = _compared(servers.c[name], pattern)
        if test is None:
            patterns.append((servers.c[name], pattern))
        else:
            query = query.where(test)
    if wanted.marker is not None:
        query = query.where(_after(order, _marker(conn, wanted, order)))
    query = query.order_by(*(expression.desc() if down else expression.asc() for expression, down in order))
    also = [] if wanted.addresses is None else [(as_text(servers.c.vifs), wanted.addresses)]
    return regexp.rows(conn, query, patterns, wanted.limit, also)


def host_states(conn: sa.Connection, names: Collection[str]) -> dict[str, Row]:
    """Host → (hypervisor_hostname, disabled, forced_down, last_seen), one query for all of them."""
    if not names:
        return {}
    return {row.host: row for row in conn.execute(_host_states(conn), {"names": list(names)})}


@dialect.once
def _host_states(conn: sa.Connection) -> sa.Select[Any]:
    """SELECT … FROM hosts JOIN services ON services.id = hosts.service_id WHERE hosts.host IN (:names)"""
    query = sa.select(
        hosts.c.host,
        hosts.c.hypervisor_hostname,
        services.c.disabled,
        services.c.forced_down,
        services.c.last_seen,
    )
    joined = query.join(services, services.c.id == hosts.c.service_id)
    return joined.where(dialect.among(conn, hosts.c.host, "names"))


def availability_zones(conn: sa.Connection) -> set[str]:
    """The zones of the hosts that are enabled."""
    query = sa.select(services.c.availability_zone).join(hosts, hosts.c.service_id == services.c.id)
    return set(conn.execute(query.where(services.c.disabled.is_(False)).distinct()).scalars())


def find_host(conn: sa.Connection, host: str | None, hypervisor_hostname: str | None) -> str | None:
    """The name of the host that is called so, by either name or both; None if there is none."""
    query = sa.select(hosts.c.host)
    if host is not None:
        query = query.where(hosts.c.host == host)
    if hypervisor_hostname is not None:
        query = query.where(hosts.c.hypervisor_hostname == hypervisor_hostname)
    return conn.execute(query.limit(1)).scalar_one_or_none()


def _conditions(wanted: ServerQuery) -> list[sa.ColumnElement[bool]]:
    column = servers.c
    tests: list[sa.ColumnElement[bool]] = [column[name] == value for name, value in wanted.equal.items()]
    tests += [column[name].in_(values) for name, values in wanted.among.items()]
    for name, second in wanted.in_second.items():
        tests += [column[name] >= second, column[name] < second + 1]
    if wanted.states is not None:
        tests.append(sa.or_(sa.false(), *(_state(*state) for state in wanted.states)))
    if wanted.locked is not None:
        tests.append(column.locked_by.is_not(None) if wanted.locked else column.locked_by.is_(None))
    if wanted.deleted is not None:
        tests.append(column.deleted_at.is_not(None) if wanted.deleted else column.deleted_at.is_(None))
    if wanted.changed_since is not None:
        tests.append(column.updated_at >= wanted.changed_since)
    if wanted.changed_before is not None:
        tests.append(column.updated_at <= wanted.changed_before)
    if wanted.hypervisor_hostname is not None:
        named = sa.select(hosts.c.host).where(hosts.c.hypervisor_hostname == wanted.hypervisor_hostname)
        tests.append(column.host.in_(named))
    return tests + _tag_conditions(wanted)


def _state(vm_state: VmState, task_states: frozenset[TaskState] | None) -> sa.ColumnElement[bool]:
    test = servers.c.vm_state == vm_state
    return test if task_states is None else sa.and_(test, servers.c.task_state.in_(task_states))


_META = frozenset("\\.^$*+?{}[]|()")


def _compared(column: sa.Column[Any], pattern: str) -> sa.ColumnElement[bool] | None:
    """``^prefix`` and ``^whole$`` said without a pattern; None for one that must be run."""
    text = pattern[1:].removesuffix("$")
    if not pattern.startswith("^") or _META.intersection(text):
        return None
    if pattern.endswith("$"):
        return column == text
    return sa.func.substr(column, 1, len(text)) == text


def _tag_conditions(wanted: ServerQuery) -> list[sa.ColumnElement[bool]]:
    """tags: has all of them; tags_any: one of them; not_tags: not all of them; not_tags_any: none of them."""
    one = servers.c.id
    tests: list[sa.ColumnElement[bool]] = []
    if wanted.tags:
        tests.append(one.in_(_tagged(wanted.tags, every=True)))
    if wanted.tags_any:
        tests.append(one.in_(_tagged(wanted.tags_any, every=False)))
    if wanted.not_tags:
        tests.append(one.not_in(_tagged(wanted.not_tags, every=True)))
    if wanted.not_tags_any:
        tests.append(one.not_in(_tagged(wanted.not_tags_any, every=False)))
    return tests


def _tagged(tags: frozenset[str], every: bool) -> sa.Select[str]:
    """SELECT server_id FROM server_tags WHERE tag IN (…) [GROUP BY server_id HAVING count(*) = n]"""
    query = sa.select(server_tags.c.server_id).where(server_tags.c.tag.in_(sorted(tags)))
    if every:
        return query.group_by(server_tags.c.server_id).having(sa.func.count() == len(tags))
    return query


_Order = list[tuple[sa.ColumnElement[Any], bool]]


def _order(sort: Sequence[tuple[str, bool]]) -> _Order:
    """The columns to sort by. The last is the id, so that every server has its own place."""
    down = sort[0][1] if sort else True
    named = {name for name, _ in sort}
    rest = [(name, down) for name in ("created_at", "id") if name not in named]
    return [(_sortable(servers.c[name]), descending) for name, descending in [*sort, *rest]]


def _sortable(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """NULL sorts as the smallest value: each database has its own idea of where NULL belongs."""
    if not column.nullable:
        return column
    return sa.func.coalesce(column, "" if isinstance(column.type, sa.String) else 0)


def _marker(conn: sa.Connection, wanted: ServerQuery, order: _Order) -> Sequence[Any]:
    """The marker's place in the order. It may have been deleted since."""
    query = sa.select(*(expression for expression, _ in order)).where(servers.c.id == wanted.marker)
    if "project_id" in wanted.equal:
        query = query.where(servers.c.project_id == wanted.equal["project_id"])
    row = conn.execute(query).one_or_none()
    if row is None:
        raise BadRequest(f"marker [{wanted.marker}] not found")
    return row


def _after(order: _Order, place: Sequence[Any]) -> sa.ColumnElement[bool]:
    """(a, b, id) beyond the place, each in its own direction:
    a > :a OR (a = :a AND b < :b) OR (a = :a AND b = :b AND id > :id)"""
    tests = []
    for last, (expression, down) in enumerate(order):
        same = [order[i][0] == place[i] for i in range(last)]
        tests.append(sa.and_(*same, expression < place[last] if down else expression > place[last]))
    return sa.or_(*tests)
