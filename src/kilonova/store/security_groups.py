"""Queries about security groups, and which of them is a project's default one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain.security_groups import SecurityGroup
from kilonova.store import dialect, revisions, sharing
from kilonova.store.network_lists import Condition, Listing, Page
from kilonova.store.schema.network_rbac import security_group_rbac as policies
from kilonova.store.schema.security_groups import default_security_groups as defaults
from kilonova.store.schema.security_groups import port_security_groups as members
from kilonova.store.schema.security_groups import security_groups as groups
from kilonova.store.statement import Statement

ATTRIBUTES = {
    **{name: groups.c[name] for name in ("id", "name", "description", "project_id", "revision_number")},
    "tenant_id": groups.c.project_id,
    "stateful": sa.literal(True),
}

# Asked for at each build.
_DEFAULT = Statement(
    sa.select(defaults.c.security_group_id).where(defaults.c.project_id == sa.bindparam("project"))
)


def visible_to(project_id: str | None) -> Condition:
    """Its own, and those that are shared with it. None: everything (an admin)."""
    if project_id is None:
        return sa.true()
    return sa.or_(groups.c.project_id == project_id, shared_with(project_id))


def shared_with(project_id: str | None) -> Condition:
    """A policy says so. None: with everybody."""
    return policies_share(groups.c.id, project_id)


def policies_share(group_id: sa.ColumnElement[str], project_id: str | None) -> Condition:
    """The group of that id is shared with the project (None: with everybody)."""
    return sharing.share(policies, group_id, project_id)


def page(
    conn: sa.Connection, asked: Page, project_id: str | None
) -> tuple[list[SecurityGroup], bool, bool] | None:
    """Groups, more after, more before; None if the marker is unknown."""
    listing = Listing(groups, ATTRIBUTES | {"shared": shared_with(project_id)}, {})
    found = listing.page(conn, asked, visible_to(project_id))
    return None if found is None else ([_group(row) for row in found[0]], found[1], found[2])


def get(
    conn: sa.Connection,
    group_id: str,
    project_id: str | None,
    for_update: bool = False,
    for_delete: bool = False,
) -> SecurityGroup | None:
    """The group, if that project sees it.

    ``for_update``: nobody else changes it or its rules, or deletes it. ``for_delete``: nor comes to be in it.
    """
    query = sa.select(groups).where(groups.c.id == group_id, visible_to(project_id))
    if for_update or for_delete:
        query = query.with_for_update(key_share=not for_delete)
    row = conn.execute(query).first()
    return None if row is None else _group(row)


def kept(conn: sa.Connection, group_ids: Sequence[str], project_id: str | None) -> set[str]:
    """Those of the groups that the project sees; they are not deleted until the transaction ends."""
    query = sa.select(groups.c.id, groups.c.project_id).where(
        groups.c.id.in_(group_ids), visible_to(project_id)
    )
    rows = conn.execute(query.order_by(groups.c.id).with_for_update(read=True, key_share=True)).all()
    found = {row.id for row in rows}
    others = [row.id for row in rows if row.project_id != project_id]
    if others and project_id is not None:  # who had to wait sees now whether they are still shared
        found = found - set(others) | shared(conn, others, project_id)
    return found


def named(conn: sa.Connection, names: Sequence[str], project_id: str | None) -> list[SecurityGroup]:
    """Groups that have one of these words for a name or an id."""
    query = sa.select(groups).where(
        visible_to(project_id), sa.or_(groups.c.name.in_(names), groups.c.id.in_(names))
    )
    return [_group(row) for row in conn.execute(query.order_by(groups.c.id))]


def shared(conn: sa.Connection, group_ids: Sequence[str], project_id: str | None) -> set[str]:
    """Those of the groups that are shared with the project (None: with everybody)."""
    return set(
        conn.scalars(sa.select(groups.c.id).where(groups.c.id.in_(group_ids), shared_with(project_id)))
    )


def insert(conn: sa.Connection, group: SecurityGroup) -> None:
    conn.execute(sa.insert(groups), msgspec.structs.asdict(group))


def update(conn: sa.Connection, group_id: str, changes: Mapping[str, Any]) -> None:
    """Its values, or, without any, only that something of it changed."""
    revisions.change(conn, groups, groups.c.id == group_id, changes)


def delete(conn: sa.Connection, group_id: str) -> None:
    """The group with its rules, and the rules of others that are about it; no port may be in it."""
    conn.execute(sa.delete(defaults).where(defaults.c.security_group_id == group_id))
    conn.execute(sa.delete(groups).where(groups.c.id == group_id))


def in_use(conn: sa.Connection, group_id: str) -> bool:
    return bool(conn.scalar(sa.select(sa.exists().where(members.c.security_group_id == group_id))))


def default_of(conn: sa.Connection, project_id: str) -> str | None:
    """Id of the project's default group, if that was made already."""
    row = _DEFAULT.row(conn, {"project": project_id})
    return None if row is None else row.security_group_id


def lock_default(conn: sa.Connection, project_id: str) -> None:
    """Nobody else makes the project's default group until the transaction ends."""
    dialect.lock(conn, "default-security-group", project_id)


def put_default(conn: sa.Connection, project_id: str, group_id: str) -> None:
    conn.execute(sa.insert(defaults), {"project_id": project_id, "security_group_id": group_id})


def defaults_among(conn: sa.Connection, group_ids: Sequence[str]) -> set[str]:
    """Those of the groups that are a project's default one."""
    if not group_ids:
        return set()
    query = sa.select(defaults.c.security_group_id).where(defaults.c.security_group_id.in_(group_ids))
    return {row.security_group_id for row in conn.execute(query)}


def _group(row: sa.Row[Any]) -> SecurityGroup:
    return SecurityGroup(**row._mapping)
