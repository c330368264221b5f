"""Queries about the rules of security groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain.security_groups import IPV4, IPV6, SecurityGroupRule
from kilonova.store import cidrs, revisions, security_groups
from kilonova.store.cidrs import normalized_cidr
from kilonova.store.network_lists import Condition, Listing, Page
from kilonova.store.schema.security_groups import default_security_groups as defaults
from kilonova.store.schema.security_groups import security_group_rules as rules

_NOBODY = {IPV4: "0.0.0.0/32", IPV6: "::/128"}
"""What stands as the prefix where a rule names an address group."""

_PREFIX = sa.case((rules.c.remote_address_group_id.is_(None), rules.c.remote_ip_prefix), else_=sa.null())

ATTRIBUTES = {
    **{
        name: rules.c[name]
        for name in (
            "id",
            "security_group_id",
            "project_id",
            "direction",
            "ethertype",
            "protocol",
            "port_range_min",
            "port_range_max",
            "remote_group_id",
            "remote_address_group_id",
            "description",
            "revision_number",
        )
    },
    "tenant_id": rules.c.project_id,
    "remote_ip_prefix": _PREFIX,
    "normalized_cidr": normalized_cidr(_PREFIX),
    "belongs_to_default_sg": sa.exists().where(defaults.c.security_group_id == rules.c.security_group_id),
}
_listing = Listing(rules, ATTRIBUTES, {"normalized_cidr": lambda values: cidrs.one_of(_PREFIX, values)})


def visible_to(project_id: str | None) -> Condition:
    """Its own, and those of groups that are shared with it. None: everything (an admin)."""
    if project_id is None:
        return sa.true()
    shared = security_groups.policies_share(rules.c.security_group_id, project_id)
    return sa.or_(rules.c.project_id == project_id, shared)


def page(
    conn: sa.Connection, asked: Page, project_id: str | None
) -> tuple[list[SecurityGroupRule], bool, bool] | None:
    """Rules, more after, more before; None if the marker is unknown."""
    found = _listing.page(conn, asked, visible_to(project_id))
    return None if found is None else ([_rule(row) for row in found[0]], found[1], found[2])


def get(conn: sa.Connection, rule_id: str, project_id: str | None) -> SecurityGroupRule | None:
    """The rule, if that project sees it."""
    row = conn.execute(sa.select(rules).where(rules.c.id == rule_id, visible_to(project_id))).first()
    return None if row is None else _rule(row)


def of_groups(conn: sa.Connection, group_ids: Sequence[str]) -> dict[str, list[SecurityGroupRule]]:
    """Group id → its rules, oldest first; groups without rules are missing."""
    found: dict[str, list[SecurityGroupRule]] = {}
    if not group_ids:
        return found
    query = sa.select(rules).where(rules.c.security_group_id.in_(group_ids))
    for row in conn.execute(query.order_by(rules.c.created_at, rules.c.id)):
        found.setdefault(row.security_group_id, []).append(_rule(row))
    return found


def insert(conn: sa.Connection, new: Sequence[SecurityGroupRule]) -> None:
    rows = [msgspec.structs.asdict(rule) for rule in new]
    for row in rows:
        if row["remote_address_group_id"] is not None:
            row["remote_ip_prefix"] = _NOBODY[row["ethertype"]]
    conn.execute(sa.insert(rules), rows)


def update(conn: sa.Connection, rule_id: str, changes: Mapping[str, Any]) -> None:
    revisions.change(conn, rules, rules.c.id == rule_id, changes)


def delete(conn: sa.Connection, rule_id: str) -> bool:
    """Whether it was there."""
    return conn.execute(sa.delete(rules).where(rules.c.id == rule_id)).rowcount > 0


def about(conn: sa.Connection, group_id: str) -> list[str]:
    """Ids of other groups that have a rule about this one."""
    query = sa.select(rules.c.security_group_id).distinct().where(rules.c.remote_group_id == group_id)
    return sorted({row.security_group_id for row in conn.execute(query)} - {group_id})


def _rule(row: sa.Row[Any]) -> SecurityGroupRule:
    values = dict(row._mapping)
    if row.remote_address_group_id is not None:
        values["remote_ip_prefix"] = None
    return SecurityGroupRule(**values)
