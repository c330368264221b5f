"""Volumes: /volumes."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, Meta, UnsetType

from kilonova.api.http import Reply, Request, Route
from kilonova.api.volume import inputs, policy, queries, views
from kilonova.api.volume.state import VolumeAPI
from kilonova.domain.errors import BadRequest, Forbidden, NotFound
from kilonova.domain.servers import ImageRef
from kilonova.store import block_lists
from kilonova.store import volumes as store
from kilonova.store.schema.volumes import volume_types as types_table
from kilonova.store.schema.volumes import volumes as table
from kilonova.volume.builtin import create as creation
from kilonova.volume.builtin import types
from kilonova.volume.builtin import volumes as rules
from kilonova.volume.builtin.backends import is_true

Size = Annotated[int, Meta(ge=1, le=inputs.MAX_INT)]


class Create(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    size: Size | None = None
    name: str | None = None
    display_name: str | None = None
    description: str | None = None
    display_description: str | None = None
    availability_zone: str | None = None
    volume_type: str | None = None
    image_ref: str | None = msgspec.field(name="imageRef", default=None)
    image_id: str | None = None
    snapshot_id: str | None = None
    source_volid: str | None = None
    metadata: dict[str, str] | None = None
    multiattach: bool = False
    # What clients send as null, or what they know of the caller already.
    backup_id: str | None = None
    group_id: str | None = None
    consistencygroup_id: str | None = None
    source_replica: str | None = None
    project_id: str | None = None
    user_id: str | None = None
    status: str | None = None
    attach_status: str | None = None


class Update(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str | UnsetType | None = UNSET
    display_name: str | UnsetType | None = UNSET
    description: str | UnsetType | None = UNSET
    display_description: str | UnsetType | None = UNSET
    metadata: dict[str, str] | UnsetType = UNSET


def index(api: VolumeAPI, request: Request) -> Reply:
    return _list(api, request, "volumes", detail=False)


def detail(api: VolumeAPI, request: Request) -> Reply:
    return _list(api, request, "volumes/detail", detail=True)


def _list(api: VolumeAPI, request: Request, path: str, detail: bool) -> Reply:
    window = queries.window(request)
    keys = {name: key for name, key in store.KEYS.items() if name != "host" or views.sees_hosts(request)}
    with api.db.read() as conn:
        where = [*queries.of_project(request, table.c.project_id), *_filters(conn, request)]
        rows = block_lists.page(conn, table, where, keys, window)
        body: dict[str, Any] = {
            "volumes": views.volumes(conn, request, rows)
            if detail
            else [views.volume_summary(request, row) for row in rows]
        }
        if request.at_least(3, 45) and inputs.boolean("with_count", request.query("with_count") or ""):
            body["count"] = block_lists.count(conn, table, where)
    return Reply(body=body | queries.next_page(request, "volumes", path, rows, window))


def _filters(conn: sa.Connection, request: Request) -> list[queries.Condition]:
    one = table.c
    named = sa.select(types_table.c.id)
    known: dict[str, queries.Filter] = {
        "id": queries.equals(one.id),
        "name": queries.exactly(one.name),
        "display_name": queries.exactly(one.name),
        "status": queries.equals(one.status),
        "size": queries.equals(one.size),
        "bootable": queries.equals(one.bootable),
        "multiattach": queries.equals(one.multiattach),
        "availability_zone": queries.exactly(one.availability_zone),
        "snapshot_id": queries.equals(one.snapshot_id),
        "source_volid": queries.equals(one.source_volid),
        "user_id": queries.equals(one.user_id),
        "volume_type_id": queries.equals(one.volume_type_id),
        "volume_type": lambda text: one.volume_type_id.in_(
            named.where(sa.or_(types_table.c.id == text, types_table.c.name == text))
        ),
        "migration_status": lambda text: (
            one.migration_status.is_(None) if text in ("", "none", "None") else one.migration_status == text
        ),
        "metadata": lambda text: sa.and_(
            sa.true(), *block_lists.holds(conn, one.metadata, queries.texts("metadata", text))
        ),
    }
    if request.context.is_admin:
        known["host"] = queries.exactly(one.host)
    if request.at_least(3, 4):
        known["glance_metadata"] = lambda text: sa.and_(
            sa.true(), *block_lists.holds(conn, one.image_metadata, queries.texts("glance_metadata", text))
        )
    if request.at_least(3, 10):
        known["group_id"] = lambda _text: sa.false()  # there are none
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


def summary(api: VolumeAPI, request: Request) -> Reply:
    context = request.context
    everyone = inputs.boolean("all_tenants", request.query("all_tenants") or "") and context.is_admin
    project = None if everyone else context.project_id or ""
    with api.db.read() as conn:
        count, size = store.summary(conn, project)
        metadata = store.metadata_of_all(conn, project)
    body: dict[str, Any] = {"total_count": count, "total_size": size}
    if request.at_least(3, 36):
        values: dict[str, set[str]] = {}
        for one in metadata:
            for key, value in one.items():
                values.setdefault(key, set()).add(value)
        body["metadata"] = {key: sorted(found) for key, found in sorted(values.items())}
    return Reply(body={"volume-summary": body})


def show(api: VolumeAPI, request: Request, volume_id: str) -> Reply:
    with api.db.read() as conn:
        row = rules.find(conn, request.context, volume_id)
        return Reply(body={"volume": views.volume(conn, request, row)})


def create(api: VolumeAPI, request: Request) -> Reply:
    context = request.context
    policy.require_writer(context, "volume:create")
    asked = inputs.envelope(request, "volume", Create, "OS-SCH-HNT:scheduler_hints", "scheduler_hints")
    _check(request, asked)
    volume_id = str(uuid.uuid4())
    image = _image(api, request, asked)
    with api.db.write() as conn:
        kind = types.wanted(conn, api.config, context, asked.volume_type or None)
        wanted = creation.Asked(
            id=volume_id,
            name=asked.name if asked.name is not None else asked.display_name,
            description=asked.description if asked.description is not None else asked.display_description,
            size_gb=asked.size,
            volume_type=asked.volume_type or None,
            zone=asked.availability_zone or None,
            image=image,
            snapshot_id=asked.snapshot_id,
            source_volid=asked.source_volid,
            metadata=asked.metadata or {},
        )
        record = creation.record(conn, api.parts, context, kind, wanted)
        if asked.multiattach and not is_true(record.kind.extra_specs.get("multiattach")):
            raise BadRequest(
                "Invalid input received: multiattach is of a volume's type: give one with the extra spec "
                'multiattach="<is> True".'
            )
        creation.create(conn, api.parts, context, [record])
        row = rules.find(conn, context, volume_id)
        view = views.written(conn, request, row)
    return Reply(202, {"volume": view})


def _check(request: Request, asked: Create) -> None:
    inputs.check_name(asked.name or asked.display_name, asked.description or asked.display_description)
    inputs.check_metadata(asked.metadata or {})
    for name in ("backup_id", "group_id", "consistencygroup_id", "source_replica"):
        if getattr(asked, name):
            raise BadRequest(f"Invalid input received: {name}: this service has no such thing.")
    for name in ("snapshot_id", "source_volid"):
        value = getattr(asked, name)
        if value is not None and not inputs.is_uuid(value):
            raise BadRequest(f"Invalid input received: {name} '{value}' is not a UUID.")
    sources = [asked.image_ref or asked.image_id, asked.snapshot_id, asked.source_volid]
    if sum(source is not None for source in sources) > 1:
        raise BadRequest(
            "Invalid input received: source volume, snapshot, and image can't be given together."
        )
    if asked.project_id not in (None, request.context.project_id):
        raise Forbidden("A volume is made in the project of the token.")


def _image(api: VolumeAPI, request: Request, asked: Create) -> ImageRef | None:
    image_id = asked.image_ref or asked.image_id
    if not image_id:
        return None
    image_id = image_id.rsplit("/", 1)[-1]
    if not inputs.is_uuid(image_id):
        raise BadRequest(
            "Invalid input received: Invalid image identifier or unable to access requested image."
        )
    try:
        return api.images.ref(request.context, image_id)
    except NotFound as error:
        raise BadRequest(
            "Invalid input received: Invalid image identifier or unable to access requested image."
        ) from error


def update(api: VolumeAPI, request: Request, volume_id: str) -> Reply:
    policy.require_writer(request.context, "volume:update")
    asked = inputs.envelope(request, "volume", Update)
    values = inputs.changed(asked, "name", "description", "metadata")
    values = {
        **{"name": asked.display_name, "description": asked.display_description},
        **values,
    }
    values = {name: value for name, value in values.items() if value is not UNSET}
    if not values:
        raise BadRequest("Invalid input received: nothing is to be updated.")
    inputs.check_name(values.get("name"), values.get("description"))
    inputs.check_metadata(values.get("metadata") or {})
    with api.db.write() as conn:
        rules.find(conn, request.context, volume_id, for_update=True)
        store.change(conn, volume_id, **values)
        return Reply(
            body={"volume": views.written(conn, request, rules.find(conn, request.context, volume_id))}
        )


def delete(api: VolumeAPI, request: Request, volume_id: str) -> Reply:
    policy.require_writer(request.context, "volume:delete")
    cascade = inputs.boolean("cascade", request.query("cascade") or "")
    force = inputs.boolean("force", request.query("force") or "") and request.at_least(3, 23)
    if force:
        policy.require_admin(request.context, "volume:force_delete")
    with api.db.write() as conn:
        rules.delete(conn, api.parts, request.context, volume_id, force=force, cascade=cascade)
    return Reply(202)


ROUTES = [
    Route("GET", "/volumes", index),
    Route("POST", "/volumes", create, creates=True),
    Route("GET", "/volumes/detail", detail),
    Route("GET", "/volumes/summary", summary, since=(3, 12)),
    Route("GET", "/volumes/{volume_id}", show),
    Route("PUT", "/volumes/{volume_id}", update),
    Route("DELETE", "/volumes/{volume_id}", delete),
]
