"""/os-simple-tenant-usage: how long each project's servers ran, and what they had meanwhile.

It follows from the records of the servers. Those of deleted ones are forgotten after ``[database]
keep_deleted_days``: what is asked of longer ago is less than it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kilonova.api.compute import links, queries
from kilonova.api.compute.policy import require_admin, require_project
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain import clock
from kilonova.domain.clock import iso8601_micro
from kilonova.domain.errors import BadRequest, NotFound
from kilonova.store import server_usage
from kilonova.store.database import Row

_PAGED = (2, 40)
_STRICT = (2, 75)
_HOUR = 3600.0

Usage = dict[str, Any]


def index(api: ComputeAPI, request: Request) -> Reply:
    """All projects that had servers then; ``detailed=1``: with the servers. NotFound for a path that ends
    with a slash: that asks for one project, with an empty id."""
    if request.raw.env["PATH_INFO"].endswith("/"):
        raise NotFound("No project has an empty id")
    require_admin(request.context, "os-simple-tenant-usage:list")
    start, end = _period(request, ("detailed",))
    detailed = (request.query("detailed") or "").lower() in ("1", "true")
    rows, now = _ran(api, request, start, end, None), clock.now()
    projects: dict[str, list[Row]] = {}
    for row in rows:
        projects.setdefault(row.project_id, []).append(row)
    usages = [_project(name, found, start, end, now, detailed) for name, found in projects.items()]
    return Reply(body={"tenant_usages": usages, **_next(request, "tenant_usages", "", rows)})


def show(api: ComputeAPI, request: Request, project_id: str) -> Reply:
    """Of one project with its servers; nothing if it had none."""
    require_project(request.context, project_id, "os-simple-tenant-usage:show")
    start, end = _period(request)
    rows = _ran(api, request, start, end, project_id)
    usage = _project(project_id, rows, start, end, clock.now(), True) if rows else {}
    return Reply(body={"tenant_usage": usage, **_next(request, "tenant_usage", f"/{project_id}", rows)})


def _period(request: Request, more: Sequence[str] = ()) -> tuple[float, float]:
    paging = ("limit", "marker") if request.version >= _PAGED else ()
    queries.check(request, ("start", "end", *more, *paging), strict_since=_STRICT)
    queries.single(request, "start", "end", *more)
    now = clock.now()
    start, end = _time(request, "start", now), _time(request, "end", clock.now())
    if start > end:
        raise BadRequest("Invalid start time. The start time cannot occur after the end time.")
    return start, end


def _time(request: Request, name: str, default: float) -> float:
    """Epoch seconds of an ISO 8601 time; an empty one is now, as in Nova."""
    value = request.query(name)
    if not value:
        return default
    try:
        time = clock.parse(value)
        iso8601_micro(time)  # what is no year of ours in UTC cannot be shown
        return time
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"Datetime is in invalid format: {name}={value}") from error


def _ran(
    api: ComputeAPI, request: Request, start: float, end: float, project_id: str | None
) -> Sequence[Row]:
    with api.db.read() as conn:
        if request.version < _PAGED:
            return server_usage.ran(conn, start, end, project_id)
        marker, limit = queries.marker(request), queries.limit(request)
        return server_usage.ran(conn, start, end, project_id, marker, limit)


def _next(request: Request, name: str, path: str, rows: Sequence[Row]) -> dict[str, Any]:
    if request.version < _PAGED or not rows:
        return {}
    return links.page(request, name, f"os-simple-tenant-usage{path}", rows, rows[-1].id)


def _project(
    project_id: str, rows: Sequence[Row], start: float, end: float, now: float, detailed: bool
) -> Usage:
    servers = [_server(row, start, min(end, now), now) for row in rows]
    usage: Usage = {
        "tenant_id": project_id,
        "total_hours": sum(one["hours"] for one in servers),
        "total_vcpus_usage": sum(one["vcpus"] * one["hours"] for one in servers),
        "total_memory_mb_usage": sum(one["memory_mb"] * one["hours"] for one in servers),
        "total_local_gb_usage": sum(one["local_gb"] * one["hours"] for one in servers),
        "start": iso8601_micro(start),
        "stop": iso8601_micro(end),
    }
    return usage | {"server_usages": servers} if detailed else usage


def _server(row: Row, start: float, end: float, now: float) -> Usage:
    """``hours`` within the period, which ends now at the latest; ``uptime``: seconds since it was built."""
    flavor, ended = row.flavor, row.terminated_at
    seconds = min(end, ended or end) - max(start, row.launched_at)
    return {
        "instance_id": row.id,
        "name": row.name,
        "tenant_id": row.project_id,
        "hours": max(0.0, seconds) / _HOUR,
        "flavor": flavor.name,
        "vcpus": flavor.vcpus,
        "memory_mb": flavor.memory_mb,
        "local_gb": flavor.root_gb + flavor.ephemeral_gb,
        "started_at": iso8601_micro(row.launched_at),
        "ended_at": iso8601_micro(ended),
        "state": "terminated" if ended else str(row.vm_state),
        "uptime": int((ended or now) - row.launched_at),
    }


ROUTES = [
    Route("GET", "/os-simple-tenant-usage", index),
    Route("GET", "/os-simple-tenant-usage/{project_id}", show),
]
