"""Host aggregates: /os-aggregates. Hosts that an admin puts together, what is said of them, the zone that
they are in, and images that they shall have before servers ask for them (2.81)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, UnsetType

from kilonova.api.compute import inputs, queries
from kilonova.api.compute.policy import require_admin
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain import hosts as host_names
from kilonova.domain.clock import iso8601_micro
from kilonova.domain.errors import BadRequest, Conflict, NotFound
from kilonova.domain.messages import CacheImages
from kilonova.store import aggregates
from kilonova.store.aggregates import ZONE, Aggregate

_NUMBER = re.compile(r"-?[0-9]{1,15}")
_KEY = re.compile(r"[a-zA-Z0-9\-_:. ]{1,255}")


def _zone(value: str) -> str:
    """``zone:host`` is how a server asks for a host, so that no zone's name has a colon."""
    if ":" in value:
        raise ValueError("availability_zone must have no colon")
    return inputs.name("availability_zone", value)


class New(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    availability_zone: str | None = None

    def __post_init__(self) -> None:
        inputs.name("name", self.name)
        if self.availability_zone is not None:
            _zone(self.availability_zone)


class Create(msgspec.Struct, forbid_unknown_fields=True):
    aggregate: New


class Changes(msgspec.Struct, forbid_unknown_fields=True):
    name: str | UnsetType = UNSET
    availability_zone: str | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        if self.name is UNSET and self.availability_zone is UNSET:
            raise ValueError("aggregate must have a name or an availability_zone")
        if self.name is not UNSET:
            inputs.name("name", self.name)
        if isinstance(self.availability_zone, str):
            _zone(self.availability_zone)


class Update(msgspec.Struct, forbid_unknown_fields=True):
    aggregate: Changes


class Host(msgspec.Struct, forbid_unknown_fields=True):
    host: str

    def __post_init__(self) -> None:
        inputs.matching("host", self.host, r"[a-zA-Z0-9._-]{1,255}")


class Metadata(msgspec.Struct, forbid_unknown_fields=True):
    metadata: dict[str, str | None]

    def __post_init__(self) -> None:
        for key, value in self.metadata.items():
            if not _KEY.fullmatch(key):
                raise ValueError("metadata has a key that it must not have")
            if value is not None and len(value) > 255:
                raise ValueError(f"{key} must have at most 255 characters")
            if value is not None and "\0" in value:
                raise ValueError(f"{key} must be printable characters")
        if isinstance(zone := self.metadata.get(ZONE), str):
            _zone(zone)


class Action(msgspec.Struct, forbid_unknown_fields=True):
    """Exactly one of them."""

    add_host: Host | None = None
    remove_host: Host | None = None
    set_metadata: Metadata | None = None

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.add_host, self.remove_host, self.set_metadata)) != 1:
            raise ValueError("the body must hold one action: add_host, remove_host or set_metadata")


class CachedImage(msgspec.Struct, forbid_unknown_fields=True):
    id: UUID


class Cache(msgspec.Struct, forbid_unknown_fields=True):
    cache: list[CachedImage]

    def __post_init__(self) -> None:
        if not self.cache:
            raise ValueError("cache must have an image")
        if len({image.id for image in self.cache}) != len(self.cache):
            raise ValueError("cache has an image twice")


def index(api: ComputeAPI, request: Request) -> Reply:
    require_admin(request.context, "os-aggregates:index")
    queries.check(request)
    with api.db.read() as conn:
        found = aggregates.listed(conn)
    return Reply(body={"aggregates": [_view(request, one) for one in found]})


def show(api: ComputeAPI, request: Request, aggregate_id: str) -> Reply:
    require_admin(request.context, "os-aggregates:show")
    queries.check(request)
    with api.db.read() as conn:
        found = aggregates.get(conn, _id(aggregate_id))
    return Reply(body={"aggregate": _view(request, found)})


def create(api: ComputeAPI, request: Request) -> Reply:
    require_admin(request.context, "os-aggregates:create")
    new = request.json(Create).aggregate
    with api.db.write() as conn:
        view = _view(request, aggregates.create(conn, new.name, new.availability_zone))
    del view["hosts"], view["metadata"]  # as Nova's answer, which has none yet to show
    return Reply(body={"aggregate": view})


def update(api: ComputeAPI, request: Request, aggregate_id: str) -> Reply:
    require_admin(request.context, "os-aggregates:update")
    asked = request.json(Update).aggregate
    with api.db.write() as conn:
        found = aggregates.get(conn, _id(aggregate_id), for_update=True)
        if asked.name is not UNSET:
            aggregates.rename(conn, found.id, asked.name)
        if asked.availability_zone is not UNSET:
            _tell(api, conn, found, {ZONE: asked.availability_zone}, "update aggregate")
        return _shown(conn, request, found.id)


def delete(api: ComputeAPI, request: Request, aggregate_id: str) -> Reply:
    require_admin(request.context, "os-aggregates:delete")
    with api.db.write() as conn:
        found = aggregates.get(conn, _id(aggregate_id), for_update=True)
        if found.hosts:
            raise BadRequest(_refused("delete", found, "Host aggregate is not empty"))
        aggregates.delete(conn, found.id)
    return Reply(200, b"")


def act(api: ComputeAPI, request: Request, aggregate_id: str) -> Reply:
    require_admin(request.context, "os-aggregates:action")
    action = request.json(Action)
    with api.db.write() as conn:
        found = aggregates.get(conn, _id(aggregate_id), for_update=True)
        if action.add_host is not None:
            _add_host(api, conn, found, action.add_host.host)
        elif action.remove_host is not None:
            _remove_host(api, conn, found, action.remove_host.host)
        elif action.set_metadata is not None:
            _tell(api, conn, found, action.set_metadata.metadata, "update aggregate metadata")
        return _shown(conn, request, found.id)


def cache_images(api: ComputeAPI, request: Request, aggregate_id: str) -> Reply:
    """Since 2.81: every host of it that lives begins to fetch these images. What becomes of it, hosts say in
    their logs, and ``kilonova images`` there. BadRequest: no server could be made of one of them."""
    require_admin(request.context, "compute:aggregates:images")
    asked = request.json(Cache).cache
    with api.db.read() as conn:
        found = aggregates.get(conn, _id(aggregate_id))
        names = aggregates.up_hosts(conn, found.hosts, api.config.compute.service_down_time)
    refs = []
    for image in asked:
        try:
            refs.append(api.images.ref(request.context, str(image.id)))
        except NotFound as error:
            raise BadRequest(f"Image {image.id} could not be found.") from error
    for name in names:
        api.bus.cast(host_names.topic(name), "cache_images", CacheImages(images=refs))
    return Reply(202)


def _add_host(api: ComputeAPI, conn: sa.Connection, found: Aggregate, host: str) -> None:
    if not aggregates.knows_host(conn, host):
        raise NotFound(f"Compute host {host} could not be found.")
    aggregates.add_host(conn, found.id, host)
    if found.availability_zone is not None:
        _check_zone(conn, [host], found, found.availability_zone, "add host to aggregate", Conflict)
    aggregates.settle(conn, [host], api.config.default_availability_zone)


def _remove_host(api: ComputeAPI, conn: sa.Connection, found: Aggregate, host: str) -> None:
    if host not in found.hosts:
        raise NotFound(f"Cannot remove host {host} in aggregate {found.id}: not found")
    if found.availability_zone is not None and aggregates.have_servers(conn, [host]):
        reason = "One or more hosts contain instances in this zone"
        raise Conflict(_refused("remove host from aggregate", found, reason))
    aggregates.remove_host(conn, found.id, host)
    aggregates.settle(conn, [host], api.config.default_availability_zone)


def _tell(
    api: ComputeAPI, conn: sa.Connection, found: Aggregate, changes: dict[str, str | None], action: str
) -> None:
    if ZONE in changes and changes[ZONE] != found.availability_zone:
        _check_zone(conn, found.hosts, found, changes[ZONE], action, BadRequest)
    aggregates.set_metadata(conn, found.id, changes)
    aggregates.settle(conn, found.hosts, api.config.default_availability_zone)


def _check_zone(
    conn: sa.Connection,
    names: Collection[str],
    found: Aggregate,
    zone: str | None,
    action: str,
    error: type[BadRequest | Conflict],
) -> None:
    """A host is in one zone, and does not leave it while it has servers, who asked for it."""
    others = aggregates.zones_of(conn, names, besides=found.id)
    if zone is not None and others - {zone}:
        listed = ", ".join(sorted(others))
        raise error(_refused(action, found, f"One or more hosts already in availability zone(s) [{listed}]"))
    if others != {zone} and aggregates.have_servers(conn, names):
        raise error(_refused(action, found, "One or more hosts contain instances in this zone"))


def _refused(action: str, found: Aggregate, reason: str) -> str:
    return f"Cannot perform action '{action}' on aggregate {found.id}. Reason: {reason}."


def _shown(conn: sa.Connection, request: Request, aggregate_id: int) -> Reply:
    return Reply(body={"aggregate": _view(request, aggregates.get(conn, aggregate_id))})


def _id(given: str) -> int:
    if not _NUMBER.fullmatch(given):
        raise BadRequest(f"Invalid aggregate id {given}: it is a number.")
    return int(given)


def _view(request: Request, found: Aggregate) -> dict[str, Any]:
    view = {
        "id": found.id,
        "name": found.name,
        "availability_zone": found.availability_zone,
        "hosts": found.hosts,
        "metadata": found.metadata,
        "created_at": iso8601_micro(found.created_at),
        "updated_at": None if found.updated_at is None else iso8601_micro(found.updated_at),
        "deleted": False,
        "deleted_at": None,
    }
    return view | {"uuid": found.uuid} if request.at_least(2, 41) else view


ROUTES = [
    Route("GET", "/os-aggregates", index),
    Route("POST", "/os-aggregates", create, creates=True),
    Route("GET", "/os-aggregates/{aggregate_id}", show),
    Route("PUT", "/os-aggregates/{aggregate_id}", update),
    Route("DELETE", "/os-aggregates/{aggregate_id}", delete),
    Route("POST", "/os-aggregates/{aggregate_id}/action", act),
    Route("POST", "/os-aggregates/{aggregate_id}/images", cache_images, since=(2, 81)),
]
