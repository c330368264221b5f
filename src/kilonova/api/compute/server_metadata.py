"""/servers/{id}/metadata: what users write on their servers; guests read it from the metadata service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
import sqlalchemy as sa
from msgspec import Meta

from kilonova.api.compute import policy, queries
from kilonova.api.compute.create_checks import metadata_quota
from kilonova.api.compute.server_access import find, refuse_locked, refuse_unsettled
from kilonova.api.compute.server_fields import Metadata
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.errors import BadRequest, NotFound
from kilonova.store import quotas, servers
from kilonova.store.database import Row


class Items(msgspec.Struct, forbid_unknown_fields=True):
    metadata: Metadata


class OneItem(msgspec.Struct, forbid_unknown_fields=True):
    meta: Annotated[Metadata, Meta(min_length=1, max_length=1)]


def listed(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    return Reply(body={"metadata": _read(api, request, server_id)})


def show(api: ComputeAPI, request: Request, server_id: str, key: str) -> Reply:
    items = _read(api, request, server_id)
    if key not in items:
        raise NotFound("Metadata item was not found")
    return Reply(body={"meta": {key: items[key]}})


def add(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    """Those that are not named stay."""
    return _write(api, request, server_id, "create", replace=False)


def replace(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    """Exactly those that are named."""
    return _write(api, request, server_id, "update_all", replace=True)


def put(api: ComputeAPI, request: Request, server_id: str, key: str) -> Reply:
    item = request.json(OneItem).meta
    if key not in item:
        raise BadRequest("Request body and URI mismatch")
    with api.db.write() as conn:
        server = _changeable(conn, request, server_id, "update", "update metadata")
        _keep(api, conn, server, server.metadata | item)
    return Reply(body={"meta": item})


def delete(api: ComputeAPI, request: Request, server_id: str, key: str) -> Reply:
    with api.db.write() as conn:
        server = _changeable(conn, request, server_id, "delete", "delete metadata")
        if key not in server.metadata:
            raise NotFound("Metadata item was not found")
        left = {name: value for name, value in server.metadata.items() if name != key}
        servers.change(conn, server_id, metadata=left)
    return Reply(204)


def _read(api: ComputeAPI, request: Request, server_id: str) -> dict[str, str]:
    queries.check(request)
    with api.db.read() as conn:
        found: dict[str, str] = servers.get(conn, server_id, policy.owner_filter(request.context)).metadata
    return found


def _write(api: ComputeAPI, request: Request, server_id: str, rule: str, replace: bool) -> Reply:
    items = request.json(Items).metadata
    with api.db.write() as conn:
        server = _changeable(conn, request, server_id, rule, "update metadata")
        items = items if replace else server.metadata | items
        _keep(api, conn, server, items)
    return Reply(body={"metadata": items})


def _changeable(conn: sa.Connection, request: Request, server_id: str, rule: str, action: str) -> Row:
    server = find(conn, request.context, server_id, f"server-metadata:{rule}", for_update=True)
    refuse_locked(request.context, server)
    refuse_unsettled(server, action)
    return server


def _keep(api: ComputeAPI, conn: sa.Connection, server: Row, items: Mapping[str, str]) -> None:
    metadata_quota(items, quotas.limits(conn, server.project_id, api.config.quota))
    servers.change(conn, server.id, metadata=items)


_ALL = "/servers/{server_id}/metadata"
_ONE = "/servers/{server_id}/metadata/{key}"

ROUTES = [
    Route("GET", _ALL, listed),
    Route("POST", _ALL, add),
    Route("PUT", _ALL, replace),
    Route("GET", _ONE, show),
    Route("PUT", _ONE, put),
    Route("DELETE", _ONE, delete),
]
