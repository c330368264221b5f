"""Snapshots: /snapshots."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, UnsetType

from kilonova.api.http import Reply, Request, Route
from kilonova.api.volume import inputs, policy, queries, views
from kilonova.api.volume.state import VolumeAPI
from kilonova.domain.errors import BadRequest
from kilonova.domain.volumes import SnapshotStatus
from kilonova.store import block_lists
from kilonova.store import volume_snapshots as store
from kilonova.store.schema.volumes import volume_snapshots as table
from kilonova.volume.builtin import snapshots as rules

_NO_FORCE = (3, 66)
"""Since then a volume in use needs no ``force``."""


class Create(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    volume_id: str | None
    """Nothing is a volume that there is not, as in Cinder."""
    name: str | None = None
    display_name: str | None = None
    description: str | None = None
    display_description: str | None = None
    force: bool | None = None
    metadata: dict[str, str] | None = None


class Update(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str | UnsetType | None = UNSET
    description: str | UnsetType | None = UNSET


class ResetStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: str


def index(api: VolumeAPI, request: Request) -> Reply:
    return _list(api, request, "snapshots", detail=False)


def detail(api: VolumeAPI, request: Request) -> Reply:
    return _list(api, request, "snapshots/detail", detail=True)


def _list(api: VolumeAPI, request: Request, path: str, detail: bool) -> Reply:
    window = queries.window(request)
    with api.db.read() as conn:
        where = [*queries.of_project(request, table.c.project_id), *_filters(conn, request)]
        rows = block_lists.page(conn, table, where, store.KEYS, window)
        body: dict[str, Any] = {"snapshots": [views.snapshot(request, row, detail) for row in rows]}
        if request.at_least(3, 45) and inputs.boolean("with_count", request.query("with_count") or ""):
            body["count"] = block_lists.count(conn, table, where)
    return Reply(body=body | queries.next_page(request, "snapshots", path, rows, window))


def _filters(conn: sa.Connection, request: Request) -> list[queries.Condition]:
    one = table.c
    known: dict[str, queries.Filter] = {
        "id": queries.equals(one.id),
        "name": queries.exactly(one.name),
        "display_name": queries.exactly(one.name),
        "status": queries.equals(one.status),
        "volume_id": queries.equals(one.volume_id),
        "user_id": queries.equals(one.user_id),
    }
    if request.at_least(3, 22):
        known["metadata"] = lambda text: sa.and_(
            sa.true(), *block_lists.holds(conn, one.metadata, queries.texts("metadata", text))
        )
    if request.at_least(3, 34):
        known["name~"] = queries.contains(one.name)
        known["status~"] = queries.contains(one.status)
        known["description~"] = queries.contains(one.description)
    if request.at_least(3, 60):
        known["created_at"] = queries.at_time(one.created_at)
        known["updated_at"] = queries.at_time(one.updated_at)
    if request.at_least(3, 65):
        known["consumes_quota"] = lambda text: sa.literal(inputs.boolean("consumes_quota", text))
    return queries.conditions(request, known)


def show(api: VolumeAPI, request: Request, snapshot_id: str) -> Reply:
    with api.db.read() as conn:
        row = rules.find(conn, request.context, snapshot_id)
    return Reply(body={"snapshot": views.snapshot(request, row)})


def create(api: VolumeAPI, request: Request) -> Reply:
    context = request.context
    policy.require_writer(context, "volume:create_snapshot")
    asked = inputs.envelope(request, "snapshot", Create)
    name = asked.name if asked.name is not None else asked.display_name
    description = asked.description if asked.description is not None else asked.display_description
    inputs.check_name(name, description)
    inputs.check_metadata(asked.metadata or {})
    force = bool(asked.force)
    if request.version >= _NO_FORCE:
        if asked.force is False:
            raise BadRequest(
                "Invalid input received: 'force' is not accepted any more: a snapshot may be made of a "
                "volume in use."
            )
        force = True
    snapshot_id = str(uuid.uuid4())
    with api.db.write() as conn:
        rules.create(
            conn,
            api.parts,
            context,
            snapshot_id,
            asked.volume_id or "",
            name,
            description,
            asked.metadata,
            force=force,
        )
        row = rules.find(conn, context, snapshot_id)
    return Reply(202, {"snapshot": views.snapshot(request, row, detail=False)})


def update(api: VolumeAPI, request: Request, snapshot_id: str) -> Reply:
    policy.require_writer(request.context, "volume:update_snapshot")
    values = inputs.changed(inputs.envelope(request, "snapshot", Update), "name", "description")
    if not values:
        raise BadRequest("Invalid input received: nothing is to be updated.")
    inputs.check_name(values.get("name"), values.get("description"))
    with api.db.write() as conn:
        rules.find(conn, request.context, snapshot_id, for_update=True)
        store.change(conn, snapshot_id, **values)
        row = rules.find(conn, request.context, snapshot_id)
    return Reply(body={"snapshot": views.snapshot(request, row, detail=False)})


def delete(api: VolumeAPI, request: Request, snapshot_id: str) -> Reply:
    policy.require_writer(request.context, "volume:delete_snapshot")
    with api.db.write() as conn:
        rules.delete(conn, api.parts, request.context, snapshot_id)
    return Reply(202)


def act(api: VolumeAPI, request: Request, snapshot_id: str) -> Reply:
    body = inputs.body(request, dict[str, msgspec.Raw])
    if len(body) != 1:
        raise BadRequest("The body must be an object with one key: the action")
    name, raw = next(iter(body.items()))
    if name not in ("os-reset_status", "os-force_delete"):
        raise BadRequest(f"There is no such action: {name}")
    policy.require_admin(request.context, f"volume_extension:snapshot_admin_actions:{name[3:]}")
    with api.db.write() as conn:
        if name == "os-force_delete":
            rules.delete(conn, api.parts, request.context, snapshot_id, force=True)
            return Reply(202)
        status = inputs.decode(name, raw, ResetStatus).status
        if status not in set(SnapshotStatus):
            raise BadRequest(f"Invalid input received: there is no status '{status}' of snapshots.")
        rules.find(conn, request.context, snapshot_id, for_update=True)
        store.change(conn, snapshot_id, status=status)
    return Reply(202)


ROUTES = [
    Route("GET", "/snapshots", index),
    Route("POST", "/snapshots", create, creates=True),
    Route("GET", "/snapshots/detail", detail),
    Route("GET", "/snapshots/{snapshot_id}", show),
    Route("PUT", "/snapshots/{snapshot_id}", update),
    Route("DELETE", "/snapshots/{snapshot_id}", delete),
    Route("POST", "/snapshots/{snapshot_id}/action", act),
]
