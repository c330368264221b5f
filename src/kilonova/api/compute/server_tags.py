"""/servers/{id}/tags (2.26): words that users sort their servers by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

import msgspec
import sqlalchemy as sa
from msgspec import Meta

from kilonova.api.compute import policy, queries
from kilonova.api.compute.server_access import find, refuse_unsettled
from kilonova.api.compute.server_fields import Tag
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route, Version
from kilonova.domain import codec
from kilonova.domain.errors import BadRequest, NotFound
from kilonova.store import server_tags, servers

MOST = 50
"""Tags of one server."""


class Tags(msgspec.Struct, forbid_unknown_fields=True):
    tags: Annotated[Sequence[Tag], Meta(max_length=MOST)]


def listed(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    return Reply(body={"tags": _read(api, request, server_id)})


def exists(api: ComputeAPI, request: Request, server_id: str, tag: str) -> Reply:
    """204, or 404 without it."""
    if tag not in _read(api, request, server_id):
        raise NotFound(f"Server {server_id} has no tag '{tag}'")
    return Reply(204)


def replace(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    tags = sorted(set(request.json(Tags).tags))
    with api.db.write() as conn:
        _changeable(conn, request, server_id, "update_all", "update tags")
        server_tags.replace(conn, server_id, tags)
    return Reply(body={"tags": tags})


def add(api: ComputeAPI, request: Request, server_id: str, tag: str) -> Reply:
    """201 with its address, or 204 if it was there."""
    if request.body():
        raise BadRequest("Invalid input: a tag is named by the address, not by a body")
    with api.db.write() as conn:
        _changeable(conn, request, server_id, "update", "update tag")
        own = server_tags.of(conn, [server_id]).get(server_id, [])
        if tag in own:
            return Reply(204)
        if len(own) >= MOST:
            raise BadRequest(f"The number of tags exceeded the per-server limit {MOST}")
        server_tags.add(conn, server_id, _checked(tag))
    return Reply(201, headers={"Location": f"{request.url}/servers/{server_id}/tags/{quote(tag, safe='')}"})


def remove(api: ComputeAPI, request: Request, server_id: str, tag: str) -> Reply:
    with api.db.write() as conn:
        _changeable(conn, request, server_id, "delete", "delete tag")
        if not server_tags.remove(conn, server_id, tag):
            raise NotFound(f"Server {server_id} has no tag '{tag}'")
    return Reply(204)


def remove_all(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    with api.db.write() as conn:
        _changeable(conn, request, server_id, "delete_all", "delete tags")
        server_tags.replace(conn, server_id, ())
    return Reply(204)


def _read(api: ComputeAPI, request: Request, server_id: str) -> list[str]:
    queries.check(request)
    with api.db.read() as conn:
        servers.get(conn, server_id, policy.owner_filter(request.context))
        return server_tags.of(conn, [server_id]).get(server_id, [])


def _changeable(conn: sa.Connection, request: Request, server_id: str, rule: str, action: str) -> None:
    server = find(conn, request.context, server_id, f"os-server-tags:{rule}", for_update=True)
    refuse_unsettled(server, action)


def _checked(tag: str) -> str:
    try:
        return codec.convert(tag, Tag)
    except msgspec.ValidationError as error:
        raise BadRequest(
            f"Tag '{tag}' is invalid. It must be a non empty string without characters '/' and ','. "
            f"Validation error message: {error}"
        ) from error


_ALL = "/servers/{server_id}/tags"
_ONE = "/servers/{server_id}/tags/{tag}"
_SINCE: Version = (2, 26)

ROUTES = [
    Route("GET", _ALL, listed, since=_SINCE),
    Route("PUT", _ALL, replace, since=_SINCE),
    Route("DELETE", _ALL, remove_all, since=_SINCE),
    Route("GET", _ONE, exists, since=_SINCE),
    Route("PUT", _ONE, add, since=_SINCE),
    Route("DELETE", _ONE, remove, since=_SINCE),
]
