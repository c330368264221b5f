"""Metadata of volumes and of snapshots: the same five verbs over /…/metadata."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from kilonova.api.http import Reply, Request, Route
from kilonova.api.volume import inputs, policy
from kilonova.api.volume.state import VolumeAPI
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, NotFound
from kilonova.store.database import Row

Find = Callable[[sa.Connection, RequestContext, str, bool], Row]
Change = Callable[..., bool]


def routes(path: str, name: str, rule: str, find: Find, change: Change) -> list[Route]:
    """``find(conn, context, id, for_update)`` and ``change(conn, id, metadata=…)`` of what has it; ``name``:
    of its id in the path."""

    def index(api: VolumeAPI, request: Request, **ids: str) -> Reply:
        item_id = ids[name]
        with api.db.read() as conn:
            return Reply(body={"metadata": find(conn, request.context, item_id, False).metadata})

    def replace(api: VolumeAPI, request: Request, **ids: str) -> Reply:
        item_id = ids[name]
        return _set(api, request, item_id, lambda _old, new: new)

    def add(api: VolumeAPI, request: Request, **ids: str) -> Reply:
        item_id = ids[name]
        return _set(api, request, item_id, lambda old, new: old | new)

    def _set(api: VolumeAPI, request: Request, item_id: str, merge: Any) -> Reply:
        policy.require_writer(request.context, rule)
        given = inputs.envelope(request, "metadata", dict[str, str])
        inputs.check_metadata(given)
        with api.db.write() as conn:
            after = merge(find(conn, request.context, item_id, True).metadata, given)
            change(conn, item_id, metadata=after)
        return Reply(body={"metadata": after})

    def show(api: VolumeAPI, request: Request, key: str, **ids: str) -> Reply:
        item_id = ids[name]
        with api.db.read() as conn:
            metadata = find(conn, request.context, item_id, False).metadata
        return Reply(body={"meta": {key: _of(metadata, key, item_id)}})

    def set_one(api: VolumeAPI, request: Request, key: str, **ids: str) -> Reply:
        item_id = ids[name]
        policy.require_writer(request.context, rule)
        given = inputs.envelope(request, "meta", dict[str, str])
        if set(given) != {key}:
            raise BadRequest(
                "Request body and URI mismatch" if len(given) == 1 else "Request body contains too many items"
            )
        inputs.check_metadata(given)
        with api.db.write() as conn:
            before = find(conn, request.context, item_id, True).metadata
            change(conn, item_id, metadata=before | given)
        return Reply(body={"meta": given})

    def remove(api: VolumeAPI, request: Request, key: str, **ids: str) -> Reply:
        item_id = ids[name]
        policy.require_writer(request.context, rule)
        with api.db.write() as conn:
            metadata = dict(find(conn, request.context, item_id, True).metadata)
            _of(metadata, key, item_id)
            del metadata[key]
            change(conn, item_id, metadata=metadata)
        return Reply(200)

    several, one = f"{path}/{{{name}}}/metadata", f"{path}/{{{name}}}/metadata/{{key}}"
    return [
        Route("GET", several, index),
        Route("POST", several, add),
        Route("PUT", several, replace),
        Route("GET", one, show),
        Route("PUT", one, set_one),
        Route("DELETE", one, remove),
    ]


def _of(metadata: dict[str, str], key: str, item_id: str) -> str:
    if key not in metadata:
        raise NotFound(f"Metadata item was not found: {key} of {item_id}.")
    return metadata[key]
