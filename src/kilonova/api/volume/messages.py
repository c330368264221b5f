"""What failed without anybody waiting for the answer: /messages, since 3.3."""

from __future__ import annotations

from typing import Any

from kilonova.api.http import Reply, Request, Route
from kilonova.api.volume import policy, queries
from kilonova.api.volume.state import VolumeAPI
from kilonova.domain.clock import iso8601_micro, now
from kilonova.domain.errors import NotFound
from kilonova.store import block_lists
from kilonova.store import volume_messages as store
from kilonova.store.database import Row
from kilonova.store.schema.volumes import volume_messages as table
from kilonova.volume.builtin.volumes import owner

_SINCE = (3, 3)


def _view(row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "event_id": row.event_id,
        "user_message": row.text,
        "message_level": row.level,
        "created_at": iso8601_micro(row.created_at),
        "guaranteed_until": iso8601_micro(row.expires_at),
        "request_id": row.request_id,
        "resource_type": row.resource_type,
        "resource_uuid": row.resource_uuid,
        "links": [],
    }


def _shown(request: Request, row: Row) -> dict[str, Any]:
    return _view(row) | {"links": queries.links(request, "messages", row.id)}


def index(api: VolumeAPI, request: Request) -> Reply:
    window, one = queries.window(request), table.c
    where = [one.expires_at > now(), *queries.of_project(request, one.project_id)]
    known = {
        "event_id": queries.equals(one.event_id),
        "message_level": queries.equals(one.level),
        "request_id": queries.equals(one.request_id),
        "resource_type": queries.equals(one.resource_type),
        "resource_uuid": queries.equals(one.resource_uuid),
    }
    where += queries.conditions(request, known)
    with api.db.read() as conn:
        rows = block_lists.page(conn, table, where, store.KEYS, window)
    body = {"messages": [_shown(request, row) for row in rows]}
    return Reply(body=body | queries.next_page(request, "messages", "messages", rows, window))


def show(api: VolumeAPI, request: Request, message_id: str) -> Reply:
    with api.db.read() as conn:
        row = store.get(conn, message_id, owner(request.context))
    if row is None:
        raise NotFound(f"message {message_id} could not be found.")
    return Reply(body={"message": _shown(request, row)})


def delete(api: VolumeAPI, request: Request, message_id: str) -> Reply:
    policy.require_writer(request.context, "message:delete")
    with api.db.write() as conn:
        if store.get(conn, message_id, owner(request.context)) is None:
            raise NotFound(f"message {message_id} could not be found.")
        store.delete(conn, message_id)
    return Reply(204)


ROUTES = [
    Route("GET", "/messages", index, since=_SINCE),
    Route("GET", "/messages/{message_id}", show, since=_SINCE),
    Route("DELETE", "/messages/{message_id}", delete, since=_SINCE),
]
