"""Tags of networks, subnets, ports and security groups: ``…/{id}/tags`` and ``…/{id}/tags/{tag}``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
import sqlalchemy as sa
from msgspec import Meta

from kilonova.api.http import Reply, Request, Route
from kilonova.api.network.resources import Resource
from kilonova.domain import codec
from kilonova.domain.errors import BadRequest
from kilonova.network.builtin import policy
from kilonova.network.builtin.errors import TagNotFound
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import network_tags as store

Tag = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"\A[^\x00,]*\Z")]
"""No comma: it divides the tags of a filter."""


class TagsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tags: Annotated[list[Tag], Meta(max_length=50)]


Change = Callable[[sa.Connection, str], None]


def routes(resource: Resource) -> list[Route]:
    def index(network: BuiltinNetwork, request: Request, item_id: str) -> Reply:
        return Reply(body={"tags": _read(resource, network, request, item_id)})

    def replace(network: BuiltinNetwork, request: Request, item_id: str) -> Reply:
        wanted = request.json(TagsBody).tags

        def change(conn: sa.Connection, owner: str) -> None:
            store.remove(conn, [owner])
            store.add(conn, owner, wanted)

        return Reply(body={"tags": _write(resource, network, request, item_id, change)})

    def add(network: BuiltinNetwork, request: Request, item_id: str) -> Reply:
        wanted = request.json(TagsBody).tags
        changed = _write(resource, network, request, item_id, lambda c, owner: store.add(c, owner, wanted))
        return Reply(201, {"tags": changed})

    def clear(network: BuiltinNetwork, request: Request, item_id: str) -> Reply:
        _write(resource, network, request, item_id, lambda conn, owner: _drop(conn, owner, None))
        return Reply(204)

    def has(network: BuiltinNetwork, request: Request, item_id: str, tag: str) -> Reply:
        if tag not in _read(resource, network, request, item_id):
            raise _not_found(tag)
        return Reply(204)

    def put(network: BuiltinNetwork, request: Request, item_id: str, tag: str) -> Reply:
        wanted = _checked(tag)
        _write(resource, network, request, item_id, lambda conn, owner: store.add(conn, owner, [wanted]))
        return Reply(201)

    def remove(network: BuiltinNetwork, request: Request, item_id: str, tag: str) -> Reply:
        _write(resource, network, request, item_id, lambda conn, owner: _drop(conn, owner, tag))
        return Reply(204)

    several = f"{resource.url}/{{item_id}}/tags"
    one = f"{several}/{{tag}}"
    return [
        Route("GET", several, index),
        Route("PUT", several, replace),
        Route("POST", several, add),
        Route("DELETE", several, clear),
        Route("GET", one, has),
        Route("PUT", one, put),
        Route("DELETE", one, remove),
    ]


def _read(resource: Resource, network: BuiltinNetwork, request: Request, item_id: str) -> Sequence[str]:
    with network.db.read() as conn:
        item = resource.find(conn, request.context, item_id)
        return store.of(conn, [item.id]).get(item.id, [])


def _write(
    resource: Resource, network: BuiltinNetwork, request: Request, item_id: str, change: Change
) -> Sequence[str]:
    """The tags after the change."""
    rule = f"rule:update_{resource.plural}_tags"
    with network.db.write() as conn:
        item = resource.find(conn, request.context, item_id)
        policy.owner_only(request.context, rule, *resource.owners(conn, item))
        store.lock(conn, item.id)
        before = store.of(conn, [item.id]).get(item.id, [])
        change(conn, item.id)
        after = store.of(conn, [item.id]).get(item.id, [])
        if after != before:
            resource.touch(conn, item.id)
            resource.find(conn, request.context, item.id)  # not deleted meanwhile
        return after


def _drop(conn: sa.Connection, owner: str, tag: str | None) -> None:
    """That tag (TagNotFound if it is not there), or all of them."""
    if tag is None:
        store.remove(conn, [owner])
    elif not store.remove(conn, [owner], [tag]):
        raise _not_found(tag)


def _checked(tag: str) -> str:
    try:
        return codec.convert(tag, Tag)
    except msgspec.ValidationError as error:
        raise BadRequest(f"Invalid input for tag: {error}") from error


def _not_found(tag: str) -> TagNotFound:
    return TagNotFound(f"Tag {tag} could not be found.")
