"""Volume types: which one a volume gets, and what an admin changes of them."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa

from kilonova.config import Config
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, Conflict, NotFound
from kilonova.store import volume_quotas, volumes
from kilonova.store import volume_types as store
from kilonova.store.database import Row
from kilonova.volume.builtin.errors import type_not_found


def viewer(context: RequestContext) -> str | None:
    """Whose types are seen; None: an admin, who sees all."""
    return None if context.is_admin else context.project_id or ""


def default(conn: sa.Connection, config: Config, project_id: str | None) -> Row:
    """The project's, else the deployment's. NotFound if the configuration names none that exists."""
    own = store.default_of(conn, project_id) if project_id else None
    found = store.get(conn, own) if own else store.find(conn, config.volume.default_volume_type)
    if found is None:
        raise NotFound("Default volume type can not be found.")
    return found


def wanted(conn: sa.Connection, config: Config, context: RequestContext, id_or_name: str | None) -> Row:
    """The type that was asked for, or the default one. NotFound."""
    if id_or_name is None:
        return default(conn, config, context.project_id)
    return find(conn, context, id_or_name)


def find(conn: sa.Connection, context: RequestContext, id_or_name: str) -> Row:
    found = store.find(conn, id_or_name, viewer(context))
    if found is None:
        raise type_not_found(id_or_name)
    return found


def get(conn: sa.Connection, context: RequestContext, type_id: str, for_update: bool = False) -> Row:
    found = store.get(conn, type_id, viewer(context), for_update)
    if found is None:
        raise type_not_found(type_id)
    return found


def create(
    conn: sa.Connection, name: str, description: str | None, is_public: bool, extra_specs: dict[str, str]
) -> Row:
    """Conflict if the name is taken."""
    row: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "name": name,
        "description": description,
        "is_public": is_public,
        "extra_specs": extra_specs,
        "created_at": now(),
    }
    if not store.insert(conn, row):
        raise Conflict(f"Volume Type {name} already exists.")
    made = store.get(conn, row["id"])
    assert made is not None
    return made


def update(conn: sa.Connection, context: RequestContext, type_id: str, **values: Any) -> Row:
    before = get(conn, context, type_id, for_update=True)
    name = values.get("name")
    if isinstance(name, str) and name != before.name:
        if store.name_taken(conn, name, type_id):
            raise Conflict(f"Volume Type {name} already exists.")
        volume_quotas.rename_type(conn, before.name, name)
    if values:
        store.change(conn, type_id, **values)
    return get(conn, context, type_id)


def delete(conn: sa.Connection, config: Config, context: RequestContext, type_id: str) -> None:
    """BadRequest while anything is of it, or it is a default."""
    kind = get(conn, context, type_id, for_update=True)
    if type_id == store.SEEDED_ID or default(conn, config, None).id == type_id:
        raise BadRequest(f"The volume type {type_id} is the default volume type and cannot be deleted.")
    if store.is_default(conn, type_id):
        raise BadRequest(f"The volume type {type_id} is a project's default and cannot be deleted.")
    if volumes.of_type(conn, type_id):
        raise BadRequest("Target volume type is still in use.")
    volume_quotas.forget_type(conn, kind.name)
    store.delete(conn, type_id)
