"""Which type a project's volumes get by default: /default-types, an admin's, since 3.62."""

from __future__ import annotations

import msgspec

from kilonova.api.http import Reply, Request, Route
from kilonova.api.volume import inputs, policy
from kilonova.api.volume.state import VolumeAPI
from kilonova.domain.errors import NotFound
from kilonova.store import volume_types as store
from kilonova.volume.builtin import types as rules

_SINCE = (3, 62)


class Set(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    volume_type: str


def index(api: VolumeAPI, request: Request) -> Reply:
    policy.require_admin(request.context, "volume_extension:default_get_all")
    with api.db.read() as conn:
        rows = store.every_default(conn)
    views = [{"project_id": row.project_id, "volume_type_id": row.volume_type_id} for row in rows]
    return Reply(body={"default_types": views})


def show(api: VolumeAPI, request: Request, owner_id: str) -> Reply:
    policy.require_admin(request.context, "volume_extension:default_get")
    with api.db.read() as conn:
        found = store.default_of(conn, owner_id)
    if found is None:
        raise NotFound(f"Default type for project {owner_id} not found.")
    return Reply(body={"default_type": {"project_id": owner_id, "volume_type_id": found}})


def put(api: VolumeAPI, request: Request, owner_id: str) -> Reply:
    policy.require_admin(request.context, "volume_extension:default_set_or_update")
    asked = inputs.envelope(request, "default_type", Set)
    with api.db.write() as conn:
        kind = rules.find(conn, request.context, asked.volume_type)
        store.set_default(conn, owner_id, kind.id)
    return Reply(body={"default_type": {"project_id": owner_id, "volume_type_id": kind.id}})


def delete(api: VolumeAPI, request: Request, owner_id: str) -> Reply:
    policy.require_admin(request.context, "volume_extension:default_unset")
    with api.db.write() as conn:
        store.set_default(conn, owner_id, None)
    return Reply(204)


ROUTES = [
    Route("GET", "/default-types", index, since=_SINCE),
    Route("GET", "/default-types/{owner_id}", show, since=_SINCE),
    Route("PUT", "/default-types/{owner_id}", put, since=_SINCE),
    Route("DELETE", "/default-types/{owner_id}", delete, since=_SINCE),
]
