"""Volume types: /types, their extra specs, and who may use the private ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, Meta, UnsetType

from kilonova.api.http import Reply, Request, Route
from kilonova.api.volume import faults, inputs, policy, queries
from kilonova.api.volume.state import VolumeAPI
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, Conflict, NotFound
from kilonova.store import block_lists
from kilonova.store import volume_types as store
from kilonova.store.database import Row
from kilonova.store.schema.volumes import volume_types as table
from kilonova.volume.builtin import types as rules

Name = Annotated[str, Meta(min_length=1, max_length=255)]
_KEY = re.compile(r"[\w\-.: ]{1,255}")
_SHOWN_TO_ALL = ("multiattach", "RESKEY:availability_zones", "replication_enabled")
"""Extra specs that are no secret of the operator's (Cinder's user-visible ones)."""


class Create(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    description: Annotated[str, Meta(max_length=255)] | None = None
    is_public: bool | None = msgspec.field(name="os-volume-type-access:is_public", default=None)
    extra_specs: dict[str, str] | None = None


class Update(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name | UnsetType | None = UNSET
    description: Annotated[str, Meta(max_length=255)] | UnsetType | None = UNSET
    is_public: bool | UnsetType | None = UNSET
    # As the `openstack` client names it.
    access_is_public: bool | UnsetType | None = msgspec.field(
        name="os-volume-type-access:is_public", default=UNSET
    )


class Access(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    project: Annotated[str, Meta(min_length=1, max_length=255)]


def _view(context: RequestContext, row: Row) -> dict[str, Any]:
    specs = row.extra_specs
    if not context.is_admin:
        specs = {key: value for key, value in specs.items() if key in _SHOWN_TO_ALL}
    return {
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "is_public": bool(row.is_public),
        "os-volume-type-access:is_public": bool(row.is_public),
        "extra_specs": specs,
    }


def _shown(context: RequestContext, row: Row) -> dict[str, Any]:
    """Who made or changed it is not told of QoS specs."""
    return _view(context, row) | ({"qos_specs_id": None} if context.is_admin else {})


def index(api: VolumeAPI, request: Request) -> Reply:
    window, context = queries.window(request), request.context
    with api.db.read() as conn:
        where = [_visible(request), *_filters(conn, request)]
        rows = block_lists.page(conn, table, where, store.KEYS, window)
    body = {"volume_types": [_shown(context, row) for row in rows]}
    return Reply(body=body | queries.next_page(request, "volume_type", "types", rows, window))


def _visible(request: Request) -> queries.Condition:
    """Public ones, and what the project has access to; an admin may ask for others (``is_public``)."""
    context = request.context
    asked = request.query("is_public")
    if context.is_admin and asked is not None:
        if asked.strip().lower() == "none":
            return sa.true()
        return table.c.is_public == inputs.boolean("is_public", asked)
    return store.visible(context.project_id or "")


def _filters(conn: sa.Connection, request: Request) -> list[queries.Condition]:
    def specs(text: str) -> queries.Condition:
        wanted = queries.texts("extra_specs", text)
        return sa.and_(sa.true(), *block_lists.holds(conn, table.c.extra_specs, wanted))

    known: dict[str, queries.Filter] = {
        "name": queries.exactly(table.c.name),
        "id": queries.equals(table.c.id),
        "description": queries.exactly(table.c.description),
    }
    if request.at_least(3, 34):
        known["name~"] = queries.contains(table.c.name)
    if request.at_least(3, 52):
        known["extra_specs"] = specs
    return queries.conditions(request, known, ignored=("is_public",))


def show(api: VolumeAPI, request: Request, type_id: str) -> Reply:
    with api.db.read() as conn:
        return Reply(body={"volume_type": _shown(request.context, rules.get(conn, request.context, type_id))})


def default(api: VolumeAPI, request: Request) -> Reply:
    """GET /types/default: what a volume without a type gets."""
    with api.db.read() as conn:
        row = rules.default(conn, api.config, request.context.project_id)
    return Reply(body={"volume_type": _shown(request.context, row)})


def create(api: VolumeAPI, request: Request) -> Reply:
    policy.require_admin(request.context, "volume_extension:type_create")
    asked = inputs.envelope(request, "volume_type", Create)
    specs = asked.extra_specs or {}
    _check_specs(specs)
    if not asked.name.strip():
        raise BadRequest("Invalid input received: Volume type name can not be empty.")
    with api.db.write() as conn:
        row = rules.create(conn, asked.name.strip(), asked.description, asked.is_public is not False, specs)
    return Reply(body={"volume_type": _view(request.context, row)})


def update(api: VolumeAPI, request: Request, type_id: str) -> Reply:
    policy.require_admin(request.context, "volume_extension:type_update")
    asked = inputs.envelope(request, "volume_type", Update)
    values = {"is_public": asked.access_is_public} | inputs.changed(asked, "name", "description", "is_public")
    values = {key: value for key, value in values.items() if value is not UNSET}
    values = {key: value for key, value in values.items() if value is not None or key == "description"}
    if not values:
        raise BadRequest("Invalid input received: Specify volume type name, description or is_public.")
    if "name" in values and not values["name"].strip():
        raise BadRequest("Invalid input received: Volume type name can not be empty.")
    with api.db.write() as conn:
        row = rules.update(conn, request.context, type_id, **values)
    view = _view(request.context, row)
    del view["os-volume-type-access:is_public"]  # as Cinder, which has its extension only show it
    return Reply(body={"volume_type": view})


def delete(api: VolumeAPI, request: Request, type_id: str) -> Reply:
    policy.require_admin(request.context, "volume_extension:type_delete")
    with api.db.write() as conn:
        rules.delete(conn, api.config, request.context, type_id)
    return Reply(202)


# --- extra specs


def _check_specs(specs: Mapping[str, str]) -> None:
    for key, value in specs.items():
        if not _KEY.fullmatch(key):
            raise BadRequest(
                f"Invalid input received: Key {key!r} can only contain alphanumeric characters, "
                "underscores, periods, colons and hyphens."
            )
        if not 1 <= len(value) <= 255:
            raise BadRequest(f"Invalid input received: the value of {key} must have 1 to 255 characters.")


def show_specs(api: VolumeAPI, request: Request, type_id: str) -> Reply:
    with api.db.read() as conn:
        row = rules.get(conn, request.context, type_id)
    return Reply(body={"extra_specs": _view(request.context, row)["extra_specs"]})


def add_specs(api: VolumeAPI, request: Request, type_id: str) -> Reply:
    policy.require_admin(request.context, "volume_extension:types_extra_specs:create")
    given = inputs.envelope(request, "extra_specs", dict[str, str])
    _check_specs(given)
    _put_specs(api, request, type_id, given)
    return Reply(body={"extra_specs": given})


def show_spec(api: VolumeAPI, request: Request, type_id: str, key: str) -> Reply:
    with api.db.read() as conn:
        specs = _view(request.context, rules.get(conn, request.context, type_id))["extra_specs"]
    return Reply(body={key: _spec(specs, key, type_id)})


def set_spec(api: VolumeAPI, request: Request, type_id: str, key: str) -> Reply:
    policy.require_admin(request.context, "volume_extension:types_extra_specs:update")
    given = inputs.body(request, dict[str, str])
    if set(given) != {key}:
        raise BadRequest("Request body and URI mismatch")
    _check_specs(given)
    _put_specs(api, request, type_id, given)
    return Reply(body=given)


def _put_specs(api: VolumeAPI, request: Request, type_id: str, given: dict[str, str]) -> None:
    with api.db.write() as conn:
        row = rules.get(conn, request.context, type_id, for_update=True)
        store.change(conn, type_id, extra_specs=row.extra_specs | given)


def delete_spec(api: VolumeAPI, request: Request, type_id: str, key: str) -> Reply:
    policy.require_admin(request.context, "volume_extension:types_extra_specs:delete")
    with api.db.write() as conn:
        specs = dict(rules.get(conn, request.context, type_id, for_update=True).extra_specs)
        _spec(specs, key, type_id)
        del specs[key]
        store.change(conn, type_id, extra_specs=specs)
    return Reply(202)


def _spec(specs: Mapping[str, str], key: str, type_id: str) -> str:
    if key not in specs:
        raise NotFound(f"Volume Type {type_id} has no extra specs with key {key}.")
    return specs[key]


def show_encryption(api: VolumeAPI, request: Request, type_id: str) -> Reply:
    """Volumes of no type are encrypted: what Cinder answers then."""
    policy.require_admin(request.context, "volume_extension:volume_type_encryption:get")
    with api.db.read() as conn:
        rules.get(conn, request.context, type_id)
    return Reply(body={})


def set_encryption(_api: VolumeAPI, _request: Request, **_: str) -> Reply:
    return faults.not_offered("encryption of volumes")


# --- access


def show_access(api: VolumeAPI, request: Request, type_id: str) -> Reply:
    policy.require_admin(request.context, "volume_extension:volume_type_access:get_all_for_type")
    with api.db.read() as conn:
        if rules.get(conn, request.context, type_id).is_public:
            raise NotFound("Access list not available for public volume types.")
        projects = store.projects(conn, type_id)
    views = [{"volume_type_id": type_id, "project_id": project} for project in projects]
    return Reply(body={"volume_type_access": views})


def act(api: VolumeAPI, request: Request, type_id: str) -> Reply:
    body = inputs.body(request, dict[str, msgspec.Raw])
    name = next(iter(body), "")
    if len(body) != 1 or name not in ("addProjectAccess", "removeProjectAccess"):
        raise BadRequest(f"There is no such action: {name}")
    policy.require_admin(request.context, f"volume_extension:volume_type_access:{name}")
    project = inputs.decode(name, body[name], Access).project
    with api.db.write() as conn:
        if rules.get(conn, request.context, type_id, for_update=True).is_public:
            raise Conflict("Type access modification is not applicable to public volume type.")
        if name == "addProjectAccess" and not store.admit(conn, type_id, project):
            raise Conflict(f"Volume type access for {type_id} / {project} combination already exists.")
        if name == "removeProjectAccess" and not store.expel(conn, type_id, project):
            raise NotFound(f"Volume type access not found for {type_id} / {project} combination.")
    return Reply(202)


ROUTES = [
    Route("GET", "/types", index),
    Route("POST", "/types", create, creates=True),
    Route("GET", "/types/default", default),
    Route("GET", "/types/{type_id}", show),
    Route("PUT", "/types/{type_id}", update),
    Route("DELETE", "/types/{type_id}", delete),
    Route("GET", "/types/{type_id}/extra_specs", show_specs),
    Route("POST", "/types/{type_id}/extra_specs", add_specs),
    Route("GET", "/types/{type_id}/extra_specs/{key}", show_spec),
    Route("PUT", "/types/{type_id}/extra_specs/{key}", set_spec),
    Route("DELETE", "/types/{type_id}/extra_specs/{key}", delete_spec),
    Route("GET", "/types/{type_id}/encryption", show_encryption),
    Route("POST", "/types/{type_id}/encryption", set_encryption),
    Route("GET", "/types/{type_id}/os-volume-type-access", show_access),
    Route("POST", "/types/{type_id}/action", act),
]
