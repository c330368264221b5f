"""The admin's view of services: /os-services."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, UnsetType

from kilonova.api.compute import inputs, liveness, queries
from kilonova.api.compute.policy import require_admin
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.clock import iso8601_micro
from kilonova.domain.errors import BadRequest, Conflict, NotFound
from kilonova.store import host_lists
from kilonova.store.database import Row
from kilonova.store.schema.hosts import services

_COMPUTE = "nova-compute"
_NUMBER = re.compile(r"[0-9]{1,15}")


def _word(field: str, value: str) -> str:
    if not 1 <= len(value) <= 255:
        raise ValueError(f"{field} must have 1 to 255 characters")
    return value


class OldUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """Until 2.52 the body says which service, and the path what to do."""

    host: str
    binary: str
    disabled_reason: str | UnsetType = UNSET
    forced_down: bool | str | UnsetType = UNSET

    def __post_init__(self) -> None:
        inputs.matching("host", self.host, r"[a-zA-Z0-9._-]{1,255}")
        _word("binary", self.binary)
        if self.disabled_reason is not UNSET:
            _word("disabled_reason", self.disabled_reason)
        if self.forced_down is not UNSET:
            self.forced_down = inputs.truth("forced_down", self.forced_down)


class Update(msgspec.Struct, forbid_unknown_fields=True):
    status: str | UnsetType = UNSET
    disabled_reason: str | UnsetType = UNSET
    forced_down: bool | str | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.status not in {UNSET, "enabled", "disabled"}:
            raise ValueError("status must be enabled or disabled")
        if self.disabled_reason is not UNSET:
            _word("disabled_reason", self.disabled_reason)
        if self.forced_down is not UNSET:
            self.forced_down = inputs.truth("forced_down", self.forced_down)


def index(api: ComputeAPI, request: Request) -> Reply:
    require_admin(request.context, "os-services:list")
    queries.check(request, ("host", "binary"), strict_since=(2, 75))
    with api.db.read() as conn:
        # An empty filter is none.
        rows = host_lists.all_services(
            conn, binary=request.query("binary") or None, host=request.query("host") or None
        )
    return Reply(body={"services": [_view(api, request, row) for row in rows]})


def update(api: ComputeAPI, request: Request, service_id: str) -> Reply:
    """Since 2.53: enable, disable, force down by the service's UUID."""
    require_admin(request.context, "os-services:update")
    service_id = _uuid(service_id)
    asked = request.json(Update)
    with api.db.write() as conn:
        _require_compute(host_lists.service(conn, service_id).binary)
        host_lists.change_service(conn, service_id, **_changes(asked))
        row = host_lists.service(conn, service_id)
    return Reply(body={"service": _view(api, request, row)})


def _changes(asked: Update) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if asked.status == "enabled":
        if asked.disabled_reason:
            raise BadRequest("Specifying 'disabled_reason' with status 'enabled' is invalid.")
        changes |= {"disabled": False, "disabled_reason": None}
    elif asked.status == "disabled":
        changes |= {"disabled": True, "disabled_reason": asked.disabled_reason or None}
    if asked.forced_down is not UNSET:
        changes["forced_down"] = asked.forced_down
    if not changes:
        raise BadRequest("No updates were requested. Fields 'status' or 'forced_down' should be specified.")
    return changes


def delete(api: ComputeAPI, request: Request, service_id: str) -> Reply:
    """Forget a service that is dead. One that lives would only come back, its host half known meanwhile."""
    require_admin(request.context, "os-services:delete")
    with api.db.write() as conn:
        row = host_lists.service(conn, _id(conn, request, service_id))
        if liveness.is_up(row, api.config):
            raise Conflict(f"Unable to delete service {row.id}: it is up. Stop it or force it down first.")
        host_lists.delete_service(conn, row.id)
    if row.binary == _COMPUTE:
        api.network.host_moved(row.host)  # those that it has networks in common with take it for no peer
    return Reply(204)


def enable(api: ComputeAPI, request: Request) -> Reply:
    body = _old_body(request)
    return _old(api, body, {"disabled": False, "disabled_reason": None}, {"status": "enabled"})


def disable(api: ComputeAPI, request: Request) -> Reply:
    body = _old_body(request)
    return _old(api, body, {"disabled": True, "disabled_reason": None}, {"status": "disabled"})


def disable_log_reason(api: ComputeAPI, request: Request) -> Reply:
    body = _old_body(request)
    if body.disabled_reason is UNSET:
        raise BadRequest("Missing disabled reason field")
    said = {"status": "disabled", "disabled_reason": body.disabled_reason}
    return _old(api, body, {"disabled": True, "disabled_reason": body.disabled_reason}, said)


def force_down(api: ComputeAPI, request: Request) -> Reply:
    body = _old_body(request)
    if body.forced_down is UNSET:
        raise BadRequest("Missing forced_down field")
    return _old(api, body, {"forced_down": body.forced_down}, {"forced_down": body.forced_down})


def _old_body(request: Request) -> OldUpdate:
    require_admin(request.context, "os-services:update")
    body = request.json(OldUpdate)
    if body.forced_down is not UNSET and not request.at_least(2, 11):
        raise BadRequest("Additional properties are not allowed ('forced_down' was unexpected)")
    return body


def _old(api: ComputeAPI, body: OldUpdate, changes: dict[str, Any], said: dict[str, Any]) -> Reply:
    """Change the service that the body names, and answer what was changed."""
    _require_compute(body.binary)
    with api.db.write() as conn:
        found = host_lists.all_services(conn, binary=body.binary, host=body.host)
        if not found:
            raise NotFound(f"Could not find binary {body.binary} on host {body.host}.")
        host_lists.change_service(conn, found[0].id, **changes)
    return Reply(body={"service": {"host": body.host, "binary": body.binary, **said}})


def _view(api: ComputeAPI, request: Request, row: Row) -> dict[str, Any]:
    view = {
        "id": row.id if request.at_least(2, 53) else host_lists.number_of(row.id),
        "binary": row.binary,
        "host": row.host,
        "zone": row.availability_zone,
        "status": "disabled" if row.disabled else "enabled",
        "state": liveness.state(row, api.config),
        "updated_at": iso8601_micro(max(row.last_seen, row.updated_at)),
        "disabled_reason": row.disabled_reason,
    }
    return view | {"forced_down": row.forced_down} if request.at_least(2, 11) else view


def _require_compute(binary: str) -> None:
    if binary != _COMPUTE:
        raise BadRequest(
            f"Updating a {binary} service is not supported. Only nova-compute services can be updated."
        )


def _uuid(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError as error:
        raise BadRequest(f"Invalid uuid {text}") from error


def _id(conn: sa.Connection, request: Request, text: str) -> str:
    """The service's UUID; until 2.52 it had a number."""
    if request.at_least(2, 53):
        return _uuid(text)
    if not _NUMBER.fullmatch(text):
        raise BadRequest(f"id must be an integer, not {text}")
    found = host_lists.id_of(conn, services, int(text))
    if found is None:
        raise NotFound(f"Service {text} not found.")
    return found


_Handler = Callable[[ComputeAPI, Request], Reply]


def _until_252(action: str, handler: _Handler, since: tuple[int, int] = (2, 1)) -> Route:
    return Route("PUT", f"/os-services/{action}", handler, since=since, until=(2, 52))


ROUTES = [
    Route("GET", "/os-services", index),
    Route("PUT", "/os-services/{service_id}", update, since=(2, 53)),
    Route("DELETE", "/os-services/{service_id}", delete),
    _until_252("enable", enable),
    _until_252("disable", disable),
    _until_252("disable-log-reason", disable_log_reason),
    _until_252("force-down", force_down, since=(2, 11)),
]
