"""/os-server-external-events: what other services tell of a server. For admins and services.

network-changed, -vif-plugged, -vif-unplugged: the record is read anew from the ports, and the host compares
the guest's NICs with it. network-vif-deleted: the port in ``tag`` is none of the server's any more.
power-update: ``tag`` says POWER_ON or POWER_OFF. volume-extended: the guest sees that the volume in ``tag``
has grown. What this cloud has not (accelerators of other services) is answered with 422.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from kilonova import log
from kilonova.api.compute import microversions
from kilonova.api.compute import server_fields as fields
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.errors import BadRequest, Conflict, Forbidden, NotFound
from kilonova.domain.servers import VmState
from kilonova.engine import accept, interfaces, server_volumes
from kilonova.store import block_devices, servers
from kilonova.store.database import Row

_log = log.get("api")

_NETWORK = ("network-changed", "network-vif-plugged", "network-vif-unplugged", "network-vif-deleted")
_NAMES: dict[tuple[int, int], tuple[str, ...]] = {
    (2, 1): _NETWORK,
    (2, 51): (*_NETWORK, "volume-extended"),
    (2, 76): (*_NETWORK, "volume-extended", "power-update"),
    (2, 82): (*_NETWORK, "volume-extended", "power-update", "accelerator-request-bound"),
    (2, 93): (
        *(*_NETWORK, "volume-extended", "power-update"),
        *("accelerator-request-bound", "volume-reimaged"),
    ),
}
"""Which events there are since which microversion."""
_TAG_REQUIRED = ("volume-extended", "power-update", "accelerator-request-bound")


class Event(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    server_uuid: str
    status: Literal["failed", "completed", "in-progress"] = "completed"
    tag: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        self.server_uuid = fields.uuid("server_uuid", self.server_uuid)
        if self.tag is not UNSET and len(self.tag) > 255:
            raise ValueError("tag must have at most 255 characters")


class Events(msgspec.Struct, forbid_unknown_fields=True):
    events: list[Event]


def create(api: ComputeAPI, request: Request) -> Reply:
    """200 if all were taken, else 207; each says its own code."""
    if not (request.context.is_admin or request.context.is_service):
        rule = "os_compute_api:os-server-external-events:create"
        raise Forbidden(f"Policy doesn't allow {rule} to be performed.")
    events = request.json(Events).events
    names = microversions.pick(request, _NAMES)
    if not events:
        raise BadRequest("Invalid input for field/attribute events. [] is too short")
    for event in events:
        if event.name not in names:
            raise BadRequest(f"Invalid input for field/attribute name. '{event.name}' is not one of {names}")
    codes = [_take(api, request, event) for event in events]
    answers = [_answer(event, code) for event, code in zip(events, codes, strict=True)]
    return Reply(200 if set(codes) == {200} else 207, {"events": answers})


def _answer(event: Event, code: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"name": event.name, "server_uuid": event.server_uuid, "code": code}
    answer["status"] = event.status if code == 200 else "failed"
    if code == 200 and event.status != "failed":
        answer["status"] = "completed"
    if event.tag is not UNSET:
        answer["tag"] = event.tag
    return answer


def _take(api: ComputeAPI, request: Request, event: Event) -> int:
    """Do what it asks for: its code."""
    try:
        with api.db.read() as conn:
            server = servers.get(conn, event.server_uuid)
    except NotFound:
        return 404
    if event.name in _TAG_REQUIRED and event.tag is UNSET:
        return 400
    act = _ACTS.get(event.name)
    if act is None or server.host is None:
        return 422
    _log.info("external_event", event_name=event.name, server=server.id, tag=event.tag or None)
    try:
        return act(api, request, server, event.tag or "")
    except NotFound:  # it went since
        return 404


def _refresh(api: ComputeAPI, _request: Request, server: Row, _tag: str) -> int:
    interfaces.refresh(api.interfaces, server.id)
    return 200


def _forget(api: ComputeAPI, _request: Request, server: Row, port_id: str) -> int:
    interfaces.forget(api.interfaces, server.id, port_id)
    return 200


def _power(api: ComputeAPI, request: Request, server: Row, tag: str) -> int:
    """Nothing for a server that is so already; 422 in a state in which it cannot be."""
    known = {"POWER_ON": ("start", VmState.ACTIVE), "POWER_OFF": ("stop", VmState.STOPPED)}.get(tag)
    if known is None:
        return 400
    action, goal = known
    if server.vm_state == goal and server.task_state is None:
        return 200
    try:
        accept.act(api.db, api.bus, api.config, request.context, server.id, action, faults=api.faults)
    except Conflict:
        return 422
    return 200


def _extended(api: ComputeAPI, _request: Request, server: Row, volume_id: str) -> int:
    """404 for a volume that the server has not."""
    with api.db.read() as conn:
        if block_devices.find(conn, server.id, volume_id) is None:
            return 404
    server_volumes.extended(api.server_volumes, server.id)
    return 200


_ACTS: dict[str, Callable[[ComputeAPI, Request, Row, str], int]] = {
    "network-changed": _refresh,
    "network-vif-plugged": _refresh,
    "network-vif-unplugged": _refresh,
    "network-vif-deleted": _forget,
    "power-update": _power,
    "volume-extended": _extended,
}

ROUTES = [Route("POST", "/os-server-external-events", create)]
