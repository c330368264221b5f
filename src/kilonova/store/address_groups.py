"""Queries about address groups."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain.security_groups import AddressGroup
from kilonova.store import revisions, sharing
from kilonova.store.network_lists import Condition, Listing, Page
from kilonova.store.schema.network_rbac import address_group_rbac as policies
from kilonova.store.schema.security_groups import address_groups as groups
from kilonova.store.schema.security_groups import security_group_rules as rules

_COLUMNS = ("id", "name", "description", "project_id", "revision_number")
ATTRIBUTES = {**{name: groups.c[name] for name in _COLUMNS}, "tenant_id": groups.c.project_id}


def visible_to(project_id: str | None) -> Condition:
    """Its own, and those that are shared with it. None: everything (an admin)."""
    if project_id is None:
        return sa.true()
    return sa.or_(groups.c.project_id == project_id, shared_with(project_id))


def shared_with(project_id: str | None) -> Condition:
    """A policy says so. None: with everybody."""
    return sharing.share(policies, groups.c.id, project_id)


def page(
    conn: sa.Connection, asked: Page, project_id: str | None
) -> tuple[list[AddressGroup], bool, bool] | None:
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
    to_use: bool = False,
) -> AddressGroup | None:
    """The group, if that project sees it.

    ``for_update``: nobody else changes it. ``for_delete``: nor writes a rule about it. ``to_use``: nobody
    deletes it, or takes it away from the project.
    """
    query = sa.select(groups).where(groups.c.id == group_id, visible_to(project_id))
    if for_update or for_delete or to_use:
        query = query.with_for_update(read=to_use, key_share=not for_delete)
    row = conn.execute(query).first()
    if row is None:
        return None
    if to_use and project_id not in (None, row.project_id) and not shared(conn, [group_id], project_id):
        return None  # who had to wait sees now whether it is still shared
    return _group(row)


def shared(conn: sa.Connection, group_ids: Collection[str], project_id: str | None) -> set[str]:
    """Those of the groups that are shared with the project (None: with everybody)."""
    return set(
        conn.scalars(sa.select(groups.c.id).where(groups.c.id.in_(group_ids), shared_with(project_id)))
    )


def addresses_of(conn: sa.Connection, group_ids: Collection[str]) -> dict[str, list[str]]:
    """Group id → its addresses; of one that is not there, none."""
    found: dict[str, list[str]] = {group_id: [] for group_id in group_ids}
    if found:
        query = sa.select(groups.c.id, groups.c.addresses).where(groups.c.id.in_(sorted(found)))
        found |= {row.id: row.addresses for row in conn.execute(query)}
    return found


def in_use(conn: sa.Connection, group_id: str) -> bool:
    """Whether a rule is about it."""
    return bool(conn.scalar(sa.select(sa.exists().where(rules.c.remote_address_group_id == group_id))))


def insert(conn: sa.Connection, group: AddressGroup) -> None:
    conn.execute(sa.insert(groups), msgspec.structs.asdict(group))


def update(conn: sa.Connection, group_id: str, changes: Mapping[str, Any]) -> None:
    revisions.change(conn, groups, groups.c.id == group_id, changes)


def delete(conn: sa.Connection, group_id: str) -> None:
    conn.execute(sa.delete(groups).where(groups.c.id == group_id))


def _group(row: sa.Row[Any]) -> AddressGroup:
    return AddressGroup(**row._mapping)
