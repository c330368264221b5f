"""Attachments: /attachments, since 3.27."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import msgspec

from kilonova.api.http import Reply, Request, Route
from kilonova.api.volume import inputs, policy, queries, views
from kilonova.api.volume.compute_use import refuse_if_used
from kilonova.api.volume.connectors import ConnectorBody, connector_of
from kilonova.api.volume.state import VolumeAPI
from kilonova.domain.errors import BadRequest, KilonovaError
from kilonova.domain.volumes import connection_info
from kilonova.store import block_lists
from kilonova.store import volume_attachments as store
from kilonova.store.schema.volumes import volume_attachments as table
from kilonova.volume.builtin import attachments as rules

_SINCE = (3, 27)


class Create(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    volume_uuid: str
    instance_uuid: str | None = None
    connector: ConnectorBody | None = None
    mode: Literal["rw", "ro"] = "rw"


class Update(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    connector: ConnectorBody


def index(api: VolumeAPI, request: Request) -> Reply:
    return _list(api, request, "attachments", views.attachment_summary)


def detail(api: VolumeAPI, request: Request) -> Reply:
    return _list(api, request, "attachments/detail", partial(views.attachment, request))


def _list(api: VolumeAPI, request: Request, path: str, view: Any) -> Reply:
    window = queries.window(request)
    one = table.c
    where = queries.of_project(request, one.project_id) + queries.conditions(
        request,
        {
            "volume_id": queries.equals(one.volume_id),
            "instance_id": queries.equals(one.server_id),
            "instance_uuid": queries.equals(one.server_id),
            "status": queries.equals(one.status),
            "attach_status": queries.equals(one.status),
            "attach_mode": queries.equals(one.attach_mode),
            "id": queries.equals(one.id),
        },
    )
    with api.db.read() as conn:
        rows = block_lists.page(conn, table, where, store.KEYS, window)
    body = {"attachments": [view(row) for row in rows]}
    return Reply(body=body | queries.next_page(request, "attachments", path, rows, window))


def show(api: VolumeAPI, request: Request, attachment_id: str) -> Reply:
    with api.db.read() as conn:
        return Reply(
            body={"attachment": views.attachment(request, rules.find(conn, request.context, attachment_id))}
        )


def create(api: VolumeAPI, request: Request) -> Reply:
    policy.require_writer(request.context, "volume:attachment_create")
    asked = inputs.envelope(request, "attachment", Create)
    # An empty one is none, as in Cinder: so does its client promise a volume.
    connector = connector_of(asked.connector) if asked.connector else None
    mode = asked.mode if request.at_least(3, 54) else "rw"
    with api.db.write() as conn:
        attachment_id = rules.reserve(
            conn, request.context, asked.volume_uuid, asked.instance_uuid, mode=mode
        )
    if connector is None:
        with api.db.read() as conn:
            view = views.attachment(request, rules.find(conn, request.context, attachment_id))
        return Reply(body={"attachment": view})
    try:
        return _connected(api, request, attachment_id, connector)
    except KilonovaError:
        with api.db.write() as conn:
            rules.release(conn, api.parts, attachment_id, request_id=request.request_id)
        raise


def update(api: VolumeAPI, request: Request, attachment_id: str) -> Reply:
    """A host says that it wants to reach the volume: the way there, its secrets included."""
    policy.require_writer(request.context, "volume:attachment_update")
    asked = inputs.envelope(request, "attachment", Update)
    connector = connector_of(asked.connector)
    with api.db.read() as conn:
        before = rules.find(conn, request.context, attachment_id)
    if before.host not in (None, connector.host):
        raise BadRequest(f"Invalid input received: Attachment {attachment_id} is of another host already.")
    return _connected(api, request, attachment_id, connector)


def _connected(api: VolumeAPI, request: Request, attachment_id: str, connector: Any) -> Reply:
    connection = rules.connect(api.parts, attachment_id, connector)
    with api.db.read() as conn:
        row = rules.find(conn, request.context, attachment_id)
    view = views.attachment(request, row)
    view["connection_info"] = connection_info(connection) | {
        "access_mode": row.attach_mode,
        "attachment_id": attachment_id,
        "encrypted": False,
    }
    return Reply(body={"attachment": view})


def complete(api: VolumeAPI, request: Request, attachment_id: str) -> Reply:
    """POST /attachments/{id}/action {"os-complete": null}; also of what no host has yet, as in Cinder: so is
    a volume in use by a server that is shelved."""
    policy.require_writer(request.context, "volume:attachment_complete")
    body = inputs.body(request, dict[str, msgspec.Raw])
    if set(body) != {"os-complete"}:
        raise BadRequest(f"There is no such action: {next(iter(body), '')}")
    with api.db.write() as conn:
        before = rules.find(conn, request.context, attachment_id)
        rules.complete(conn, attachment_id, before.mountpoint or "")
    return Reply(204)


def delete(api: VolumeAPI, request: Request, attachment_id: str) -> Reply:
    """What other attachments its volume has."""
    policy.require_writer(request.context, "volume:attachment_delete")
    with api.db.write() as conn:
        before = rules.find(conn, request.context, attachment_id)
        refuse_if_used(conn, request.context, before)
        rules.release(conn, api.parts, attachment_id, request_id=request.request_id)
        left = [views.attachment_summary(row) for row in store.of_volume(conn, before.volume_id)]
    return Reply(body={"attachments": left})


ROUTES = [
    Route("GET", "/attachments", index, since=_SINCE),
    Route("POST", "/attachments", create, since=_SINCE),
    Route("GET", "/attachments/detail", detail, since=_SINCE),
    Route("GET", "/attachments/{attachment_id}", show, since=_SINCE),
    Route("PUT", "/attachments/{attachment_id}", update, since=_SINCE),
    Route("DELETE", "/attachments/{attachment_id}", delete, since=_SINCE),
    Route("POST", "/attachments/{attachment_id}/action", complete, since=(3, 44)),
]
