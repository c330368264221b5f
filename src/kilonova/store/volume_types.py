"""Volume types, who may use the private ones, and which is a project's default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.domain.clock import now
from kilonova.store import dialect
from kilonova.store.database import Row
from kilonova.store.schema.volumes import default_volume_types as defaults
from kilonova.store.schema.volumes import volume_type_access as access
from kilonova.store.schema.volumes import volume_types as table

SEEDED_ID = "9a3b5c1e-7d24-4f0a-8c61-5e2f9d0b7a13"
SEEDED_NAME = "__DEFAULT__"
"""The type that there always is (Cinder's name for it)."""

KEYS = {name: table.c[name] for name in ("id", "name", "created_at", "updated_at", "is_public")}
"""What a list may be ordered by."""


def seed(conn: sa.Connection) -> None:
    """Make the type that is the default if the operator names no other. Call it at each start."""
    row = {
        "id": SEEDED_ID,
        "name": SEEDED_NAME,
        "description": "Default Volume Type",
        "is_public": True,
        "extra_specs": {},
        "created_at": now(),
    }
    dialect.insert_new(conn, table, row)


def visible(project_id: str | None) -> sa.ColumnElement[bool]:
    """is_public OR the project has access; None: an admin, who sees all."""
    if project_id is None:
        return sa.true()
    has = sa.exists().where(access.c.volume_type_id == table.c.id, access.c.project_id == project_id)
    return sa.or_(table.c.is_public, has)


def insert(conn: sa.Connection, row: dict[str, Any]) -> bool:
    """False if the name is taken."""
    return dialect.insert_new(conn, table, row)


def get(
    conn: sa.Connection, type_id: str, project_id: str | None = None, for_update: bool = False
) -> Row | None:
    query = sa.select(table).where(table.c.id == type_id, visible(project_id))
    if for_update:
        query = query.with_for_update(key_share=True)
    return conn.execute(query).first()


def find(conn: sa.Connection, id_or_name: str, project_id: str | None = None) -> Row | None:
    """By its id, else by its name."""
    either = sa.or_(table.c.id == id_or_name, table.c.name == id_or_name)
    query = sa.select(table).where(either, visible(project_id))
    rows = conn.execute(query).all()
    return next((row for row in rows if row.id == id_or_name), rows[0] if rows else None)


def every(conn: sa.Connection) -> dict[str, Row]:
    """By id. There are few."""
    return {row.id: row for row in conn.execute(sa.select(table))}


def change(conn: sa.Connection, type_id: str, /, **values: Any) -> bool:
    query = sa.update(table).where(table.c.id == type_id)
    return conn.execute(query.values(updated_at=now(), **values)).rowcount == 1


def name_taken(conn: sa.Connection, name: str, but: str) -> bool:
    query = sa.select(table.c.id).where(table.c.name == name, table.c.id != but)
    return conn.execute(query).first() is not None


def delete(conn: sa.Connection, type_id: str) -> None:
    conn.execute(sa.delete(defaults).where(defaults.c.volume_type_id == type_id))
    conn.execute(sa.delete(table).where(table.c.id == type_id))


def projects(conn: sa.Connection, type_id: str) -> Sequence[str]:
    """Who may use it beside admins, if it is private."""
    query = sa.select(access.c.project_id).where(access.c.volume_type_id == type_id)
    return list(conn.execute(query.order_by(access.c.project_id)).scalars())


def admit(conn: sa.Connection, type_id: str, project_id: str) -> bool:
    """False if it had access already."""
    return dialect.insert_new(conn, access, {"volume_type_id": type_id, "project_id": project_id})


def expel(conn: sa.Connection, type_id: str, project_id: str) -> bool:
    """False if it had no access."""
    query = sa.delete(access).where(access.c.volume_type_id == type_id, access.c.project_id == project_id)
    return conn.execute(query).rowcount > 0


def default_of(conn: sa.Connection, project_id: str) -> str | None:
    """The id of the type that an admin made the project's default."""
    query = sa.select(defaults.c.volume_type_id).where(defaults.c.project_id == project_id)
    found: str | None = conn.execute(query).scalar()
    return found


def every_default(conn: sa.Connection) -> Sequence[Row]:
    return conn.execute(sa.select(defaults).order_by(defaults.c.project_id)).all()


def set_default(conn: sa.Connection, project_id: str, type_id: str | None) -> None:
    """None: the deployment's again."""
    conn.execute(sa.delete(defaults).where(defaults.c.project_id == project_id))
    if type_id is not None:
        conn.execute(sa.insert(defaults), {"project_id": project_id, "volume_type_id": type_id})


def is_default(conn: sa.Connection, type_id: str) -> bool:
    """Of some project."""
    query = sa.select(defaults.c.project_id).where(defaults.c.volume_type_id == type_id).limit(1)
    return conn.execute(query).first() is not None
