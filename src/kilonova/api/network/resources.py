"""What networks, subnets, ports and the other resources have in common: five verbs over one URL.

A ``Resource`` says what is its own (the bodies, the functions of the service, the view); the handlers here
open one transaction for each request, so that a bulk create is all or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.api.http import Reply, Request, Route
from kilonova.api.network import lists
from kilonova.config import Config
from kilonova.domain import codec
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, NotFound
from kilonova.network.builtin import policy
from kilonova.network.builtin.errors import RevisionNumberConstraintFailed
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import revisions
from kilonova.store.network_lists import Page

View = dict[str, Any]

_REVISION = re.compile(r"revision_number=([0-9]{1,18})")
_SERVICES_OWN = frozenset({"id", "status", "revision_number", "created_at", "updated_at", "tags"})
"""What no body says."""
_UNKNOWN = re.compile(r"Object contains unknown field `([^`]+)`")


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One of Neutron's resources. Items are structs with an ``id``."""

    name: str
    plural: str
    create_body: Any
    create: Callable[[sa.Connection, Config, RequestContext, Any], Any]
    delete: Callable[[sa.Connection, RequestContext, str], None]
    find: Callable[[sa.Connection, RequestContext, str], Any]
    page: Callable[[sa.Connection, Page, str | None], tuple[Sequence[Any], bool, bool] | None]
    owners: Callable[[sa.Connection, Any], Sequence[str]]
    """The projects that may change an item."""
    views: Callable[[sa.Connection, RequestContext, Sequence[Any]], list[View]]
    """Items as the API shows them, with a constant number of statements."""
    update_body: Any = None
    update: Callable[[sa.Connection, Config, RequestContext, str, Any], Any] | None = None
    """None: its items never change."""
    table: sa.Table | None = None
    """Where its items' revisions are; None: they have none."""
    touch: Callable[[sa.Connection, str], None] = lambda _conn, _id: None
    """A change of the item that changes none of its columns: it counts a revision."""
    admin_filters: frozenset[str] = frozenset()
    path: str = ""
    """In URLs; empty: the plural."""
    before_list: Callable[[BuiltinNetwork, RequestContext], None] | None = None
    """Makes what a list must show."""

    @property
    def url(self) -> str:
        return f"/v2.0/{self.path or self.plural}"


def routes(resource: Resource) -> list[Route]:
    several = resource.url
    one = f"{several}/{{item_id}}"
    return [
        Route("GET", several, partial(index, resource)),
        Route("POST", several, partial(create, resource), creates=True),
        Route("GET", one, partial(show, resource)),
        *([Route("PUT", one, partial(update, resource))] if resource.update else []),
        Route("DELETE", one, partial(delete, resource)),
    ]


def index(resource: Resource, network: BuiltinNetwork, request: Request) -> Reply:
    page = lists.asked(request, resource.admin_filters)
    if resource.before_list:
        resource.before_list(network, request.context)
    with network.db.read() as conn:
        found = resource.page(conn, page, policy.scope(request.context))
        if found is None:
            raise NotFound(f"{resource.name.capitalize()} {page.marker} (the marker) could not be found.")
        items, more, before = found
        views = resource.views(conn, request.context, items)
    links = lists.links(
        request, resource.plural, resource.url, page, [item.id for item in items], more, before
    )
    return Reply(body={resource.plural: [lists.fields(request, view) for view in views], **links})


def create(resource: Resource, network: BuiltinNetwork, request: Request) -> Reply:
    bodies, bulk = _new(resource, request)
    with network.write() as conn:
        items = [resource.create(conn, network.config, request.context, body) for body in bodies]
        views = resource.views(conn, request.context, items)
    return Reply(201, {resource.plural: views} if bulk else {resource.name: views[0]})


def show(resource: Resource, network: BuiltinNetwork, request: Request, item_id: str) -> Reply:
    with network.db.read() as conn:
        item = resource.find(conn, request.context, item_id)
        (view,) = resource.views(conn, request.context, [item])
    return Reply(body={resource.name: lists.fields(request, view)})


def update(resource: Resource, network: BuiltinNetwork, request: Request, item_id: str) -> Reply:
    assert resource.update is not None, "a route to what can be changed"
    raw = _envelope(request, resource.name)[resource.name]
    fixed = {field.encode_name for field in msgspec.structs.fields(resource.create_body)}
    body = _decode(raw, resource.update_body, fixed | _SERVICES_OWN)
    with network.write() as conn:
        _check_revision(conn, resource, request, item_id)
        item = resource.update(conn, network.config, request.context, item_id, body)
        (view,) = resource.views(conn, request.context, [item])
    return Reply(body={resource.name: view})


def delete(resource: Resource, network: BuiltinNetwork, request: Request, item_id: str) -> Reply:
    with network.write() as conn:
        _check_revision(conn, resource, request, item_id)
        resource.delete(conn, request.context, item_id)
    return Reply(204)


def _check_revision(conn: sa.Connection, resource: Resource, request: Request, item_id: str) -> None:
    """The item is still as the asker has read it, and stays so, if ``If-Match: revision_number=N`` says that
    it must (Neutron's ``revision-if-match``)."""
    condition = request.raw.get_header("If-Match")
    if condition is None:
        return
    asked = _REVISION.fullmatch(condition.strip())
    if asked is None:
        raise BadRequest("Invalid input for If-Match: it must be revision_number=NUMBER")
    if resource.table is None:
        raise BadRequest(f"Invalid input for If-Match: a {resource.name} has no revision number")
    current = revisions.locked(conn, resource.table, item_id)
    resource.find(conn, request.context, item_id)  # it is not gone; who does not see it learns nothing of it
    if current != int(asked[1]):
        raise RevisionNumberConstraintFailed(f"Constrained to {asked[1]}, but current revision is {current}")


def _new(resource: Resource, request: Request) -> tuple[list[Any], bool]:
    """The bodies of what shall be made, and whether they came as a list."""
    envelope = _envelope(request, resource.name, resource.plural)
    if resource.name in envelope:
        return [_decode(envelope[resource.name], resource.create_body)], False
    raws: list[msgspec.Raw] = _decode(envelope[resource.plural], list[msgspec.Raw])
    if not raws:
        raise BadRequest("Resources required")
    return [_decode(raw, resource.create_body) for raw in raws], True


def _envelope(request: Request, *names: str) -> dict[str, msgspec.Raw]:
    """The body's outer object: exactly one of these names."""
    envelope = request.json(dict[str, msgspec.Raw])
    if len(envelope) != 1 or next(iter(envelope)) not in names:
        raise BadRequest(f"The body must be an object with one key: {' or '.join(names)}")
    return envelope


def _decode(raw: msgspec.Raw, kind: Any, fixed: Collection[str] = ()) -> Any:
    """Not strict: Neutron takes "1400" for 1400 and "true" for true, and the openstack client sends such.
    ``fixed``: what there is, and never changes."""
    try:
        return codec.from_json(raw, kind, strict=False)
    except msgspec.ValidationError as error:
        unknown = _UNKNOWN.search(str(error))
        if unknown and unknown[1] in fixed:
            raise BadRequest(f"Cannot update read-only attribute {unknown[1]}") from error
        if unknown:  # Neutron's words for what is of no extension that is here
            raise BadRequest(f"Unrecognized attribute(s) '{unknown[1]}'") from error
        raise BadRequest(f"Invalid input: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest("Malformed request body: it is not valid JSON") from error
