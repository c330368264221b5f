"""Queries about the rules that security groups are made with. They are the cloud's, no project's."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain.security_groups import DefaultRule
from kilonova.store import dialect
from kilonova.store.network_lists import Column, Listing, Page
from kilonova.store.schema.security_groups import default_security_group_rules as rules

ATTRIBUTES: dict[str, Column] = {
    **{column.name: column for column in rules.columns},
    "remote_address_group_id": sa.literal(None, sa.String()),
}
_listing = Listing(rules, ATTRIBUTES, {})


def page(
    conn: sa.Connection, asked: Page, _project_id: str | None
) -> tuple[list[DefaultRule], bool, bool] | None:
    """Rules, more after, more before; None if the marker is unknown. Everybody sees all."""
    found = _listing.page(conn, asked, sa.true())
    return None if found is None else ([_rule(row) for row in found[0]], found[1], found[2])


def get(conn: sa.Connection, rule_id: str) -> DefaultRule | None:
    row = conn.execute(sa.select(rules).where(rules.c.id == rule_id)).first()
    return None if row is None else _rule(row)


def every(conn: sa.Connection) -> list[DefaultRule]:
    return [_rule(row) for row in conn.execute(sa.select(rules).order_by(rules.c.id))]


def lock(conn: sa.Connection) -> None:
    """Nobody else makes one until the transaction ends."""
    dialect.lock(conn, "default-security-group-rules")


def insert(conn: sa.Connection, rule: DefaultRule) -> None:
    conn.execute(sa.insert(rules), msgspec.structs.asdict(rule))


def delete(conn: sa.Connection, rule_id: str) -> bool:
    """Whether it was there."""
    return conn.execute(sa.delete(rules).where(rules.c.id == rule_id)).rowcount > 0


def _rule(row: sa.Row[Any]) -> DefaultRule:
    return DefaultRule(**row._mapping)
