"""Where volumes are kept: /os-services, /os-hosts' zones, /scheduler-stats/get_pools, /capabilities."""

from __future__ import annotations

from typing import Any

import msgspec

from kilonova.api.http import Reply, Request, Route
from kilonova.api.volume import inputs, policy
from kilonova.api.volume.state import VolumeAPI
from kilonova.domain.clock import iso8601_micro
from kilonova.domain.errors import BadRequest, NotFound
from kilonova.store import volume_backends as store
from kilonova.store import volumes
from kilonova.store.database import Row
from kilonova.volume.builtin.backends import is_up, location

_BINARY = "cinder-volume"


class Switch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str
    binary: str = _BINARY
    service: str = _BINARY
    disabled_reason: str | None = None
    cluster: str | None = None


def index(api: VolumeAPI, request: Request) -> Reply:
    """A backend is a service, as in Cinder: ``cinder-volume`` of ``name@backend``."""
    policy.require_admin(request.context, "volume_extension:services:index")
    host, binary = request.query("host"), request.query("binary") or request.query("service")
    with api.db.read() as conn:
        rows = store.every(conn)
    if host is not None:
        rows = [row for row in rows if host in (row.host, row.host.partition("@")[0])]
    if binary not in (None, _BINARY):
        rows = []
    return Reply(body={"services": [_service(api, request, row) for row in rows]})


def _service(api: VolumeAPI, request: Request, row: Row) -> dict[str, Any]:
    view: dict[str, Any] = {
        "binary": _BINARY,
        "host": row.host,
        "zone": row.availability_zone,
        "status": "disabled" if row.disabled else "enabled",
        "state": "up" if is_up(row, api.config) else "down",
        "updated_at": iso8601_micro(row.reported_at or row.created_at),
        "disabled_reason": row.disabled_reason,
        "replication_status": "disabled",
        "active_backend_id": None,
        "frozen": False,
    }
    if request.at_least(3, 7):
        view["cluster"] = None
    if request.at_least(3, 49):
        view["backend_state"] = "up" if row.problem is None else "down"
    return view


def enable(api: VolumeAPI, request: Request) -> Reply:
    return _switch(api, request, disabled=False)


def disable(api: VolumeAPI, request: Request) -> Reply:
    return _switch(api, request, disabled=True)


def disable_with_reason(api: VolumeAPI, request: Request) -> Reply:
    return _switch(api, request, disabled=True, must_say_why=True)


def _switch(api: VolumeAPI, request: Request, disabled: bool, must_say_why: bool = False) -> Reply:
    """A disabled one takes no new volumes; what is there goes on."""
    policy.require_admin(request.context, "volume_extension:services:update")
    asked = inputs.body(request, Switch)
    if must_say_why and not (asked.disabled_reason and len(asked.disabled_reason) <= 255):
        raise BadRequest("Invalid input received: disabled_reason must have 1 to 255 characters.")
    with api.db.write() as conn:
        if asked.binary != _BINARY or not store.switch(conn, asked.host, disabled, asked.disabled_reason):
            raise NotFound(f"Service {asked.binary} could not be found on host {asked.host}.")
    view = {
        "host": asked.host,
        "service": _BINARY,
        "binary": _BINARY,
        "disabled": disabled,
        "status": "disabled" if disabled else "enabled",
    }
    return Reply(body=view | ({"disabled_reason": asked.disabled_reason} if disabled else {}))


def zones(api: VolumeAPI, request: Request) -> Reply:
    with api.db.read() as conn:
        rows = store.every(conn)
    found: dict[str, bool] = {api.config.default_availability_zone: not rows}
    for row in rows:
        usable = not row.disabled and is_up(row, api.config)
        found[row.availability_zone] = found.get(row.availability_zone, False) or usable
    views = [{"zoneName": name, "zoneState": {"available": up}} for name, up in sorted(found.items())]
    return Reply(body={"availabilityZoneInfo": views})


def pools(api: VolumeAPI, request: Request) -> Reply:
    policy.require_admin(request.context, "scheduler_extension:scheduler_stats:get_pools")
    detail = inputs.boolean("detail", request.query("detail") or "")
    with api.db.read() as conn:
        rows, allocated = store.every(conn), volumes.allocated(conn)
    wanted = request.query("name")
    if wanted is not None:
        rows = [row for row in rows if location(row) == wanted]
    views: list[dict[str, Any]] = []
    for row in rows:
        view: dict[str, Any] = {"name": location(row)}
        if detail:
            view["capabilities"] = _capacities(api, row, allocated.get(location(row), 0))
        views.append(view)
    return Reply(body={"pools": views})


def _capacities(api: VolumeAPI, row: Row, allocated: int) -> dict[str, Any]:
    return {
        "pool_name": row.pool,
        "volume_backend_name": row.volume_backend_name,
        "storage_protocol": row.driver,
        "vendor_name": "Kilonova",
        "total_capacity_gb": "unknown" if row.total_gb is None else round(row.total_gb, 2),
        "free_capacity_gb": "unknown" if row.free_gb is None else round(row.free_gb, 2),
        "allocated_capacity_gb": allocated,
        "provisioned_capacity_gb": allocated,
        "max_over_subscription_ratio": str(api.config.volume.max_over_subscription_ratio),
        "thin_provisioning_support": True,
        "reserved_percentage": 0,
        "multiattach": bool(row.multiattach),
        "QoS_support": False,
        "location_info": None,
        "timestamp": iso8601_micro(row.reported_at),
        "backend_state": "up" if row.problem is None else "down",
    }


def capabilities(api: VolumeAPI, request: Request, hostname: str) -> Reply:
    """GET /capabilities/{host@backend}"""
    policy.require_admin(request.context, "volume_extension:capabilities")
    with api.db.read() as conn:
        row = store.get(conn, hostname.partition("#")[0])
    if row is None:
        raise NotFound(f"Service {_BINARY} could not be found on host {hostname}.")
    view = {
        "namespace": f"OS::Storage::Capabilities::{row.host}",
        "vendor_name": "Kilonova",
        "volume_backend_name": row.volume_backend_name,
        "pool_name": row.pool,
        "driver_version": "1.0.0",
        "storage_protocol": row.driver,
        "display_name": f"Capabilities of {row.driver}",
        "description": "None",
        "visibility": "public",
        "replication_targets": [],
        "properties": {
            "multiattach": {
                "title": "Multiattach",
                "description": "Whether several servers may have a volume.",
                "type": "boolean",
                "default": bool(row.multiattach),
            }
        },
    }
    return Reply(body=view)


ROUTES = [
    Route("GET", "/os-services", index),
    Route("PUT", "/os-services/enable", enable),
    Route("PUT", "/os-services/disable", disable),
    Route("PUT", "/os-services/disable-log-reason", disable_with_reason),
    Route("GET", "/os-availability-zone", zones),
    Route("GET", "/scheduler-stats/get_pools", pools),
    Route("GET", "/capabilities/{hostname}", capabilities),
]
