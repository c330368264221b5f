"""Availability zones: /os-availability-zone. The zones that services say they are in."""

from __future__ import annotations

from typing import Any

from kilonova.api.compute import liveness, queries
from kilonova.api.compute.policy import require_admin
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.clock import iso8601_micro
from kilonova.store import host_lists
from kilonova.store.database import Row

INTERNAL = "internal"
"""The zone of services that run no servers; only the admin's detail shows it."""


def index(api: ComputeAPI, request: Request) -> Reply:
    queries.check(request)
    with api.db.read() as conn:
        zones = _zones(host_lists.all_services(conn))
    shown = [
        {"zoneName": zone, "zoneState": {"available": _available(rows)}, "hosts": None}
        for zone, rows in zones
        if zone != INTERNAL
    ]
    return Reply(body={"availabilityZoneInfo": shown})


def detail(api: ComputeAPI, request: Request) -> Reply:
    require_admin(request.context, "os-availability-zone:detail")
    queries.check(request)
    with api.db.read() as conn:
        zones = _zones(host_lists.all_services(conn))
    shown = [
        {
            "zoneName": zone,
            "zoneState": {"available": _available(rows)},
            "hosts": _hosts(api, rows) if _available(rows) else None,
        }
        for zone, rows in zones
    ]
    return Reply(body={"availabilityZoneInfo": shown})


def _zones(services: Any) -> list[tuple[str, list[Row]]]:
    """Zones by name, those that can be used first."""
    found: dict[str, list[Row]] = {}
    for row in services:
        found.setdefault(row.availability_zone, []).append(row)
    return sorted(found.items(), key=lambda item: (not _available(item[1]), item[0]))


def _available(rows: list[Row]) -> bool:
    """A zone is available while one of its services is enabled."""
    return any(not row.disabled for row in rows)


def _hosts(api: ComputeAPI, rows: list[Row]) -> dict[str, dict[str, Any]]:
    hosts: dict[str, dict[str, Any]] = {}
    for row in rows:
        if not row.disabled:
            hosts.setdefault(row.host, {})[row.binary] = {
                "available": liveness.is_up(row, api.config),
                "active": True,
                "updated_at": iso8601_micro(row.last_seen),
            }
    return hosts


ROUTES = [
    Route("GET", "/os-availability-zone", index),
    Route("GET", "/os-availability-zone/detail", detail),
]
