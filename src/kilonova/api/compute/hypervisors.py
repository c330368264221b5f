"""The admin's view of hosts: /os-hypervisors."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from kilonova.api.compute import links, liveness, queries
from kilonova.api.compute.policy import require_admin
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.errors import BadRequest, KilonovaError, NotFound
from kilonova.domain.hosts import topic
from kilonova.domain.messages import Nothing, Text
from kilonova.store import host_lists
from kilonova.store.database import Row
from kilonova.store.schema.hosts import hosts

_UUIDS = (2, 53)
"""Since here hosts have UUIDs in place of numbers, and search and servers are query parameters."""
_NUMBER = re.compile(r"[0-9]{1,15}")
_PATTERN = re.compile(r"[a-zA-Z0-9._-]{1,255}")

_TIMEOUT = 5.0
"""Seconds for a host to tell its uptime."""

Servers = dict[str, list[dict[str, str]]]


def index(api: ComputeAPI, request: Request) -> Reply:
    require_admin(request.context, "os-hypervisors:list")
    return Reply(body=_page(api, request, "os-hypervisors", full=False))


def detail(api: ComputeAPI, request: Request) -> Reply:
    require_admin(request.context, "os-hypervisors:list-detail")
    return Reply(body=_page(api, request, "os-hypervisors/detail", full=True))


def show(api: ComputeAPI, request: Request, hypervisor_id: str) -> Reply:
    require_admin(request.context, "os-hypervisors:show")
    queries.check(request, ("with_servers",), strict_since=_UUIDS)
    queries.single(request, "with_servers")
    wanted = request.version >= _UUIDS and queries.boolean(request, "with_servers")
    with api.db.read() as conn:
        row = _get(conn, request, hypervisor_id)
        on_it = host_lists.servers_on(conn, [row.host]) if wanted else None
    view = _full(api, request, row, on_it)
    if request.at_least(2, 88):
        view["uptime"] = _uptime(api, row) or None
    return Reply(body={"hypervisor": view})


def uptime(api: ComputeAPI, request: Request, hypervisor_id: str) -> Reply:
    """Until 2.87. BadRequest if the host does not answer; 501 if it cannot say."""
    require_admin(request.context, "os-hypervisors:uptime")
    with api.db.read() as conn:
        row = _get(conn, request, hypervisor_id)
    told = _uptime(api, row)
    if told is None:
        raise BadRequest(f"Compute service of {row.host} is unavailable at this time.")
    if not told:
        message = "The requested functionality is not supported."
        return Reply(501, {"notImplemented": {"code": 501, "message": message}})
    return Reply(body={"hypervisor": _brief(api, request, row, None) | {"uptime": told}})


def _uptime(api: ComputeAPI, row: Row) -> str | None:
    """What the host says; empty: it cannot. None: it does not answer."""
    if not liveness.is_up(row, api.config):
        return None
    try:
        return api.bus.call(topic(row.host), "get_host_uptime", Nothing(), Text, timeout=_TIMEOUT).text
    except KilonovaError:
        return None


def statistics(api: ComputeAPI, request: Request) -> Reply:
    """Until 2.87: the sums over all enabled hosts."""
    require_admin(request.context, "os-hypervisors:statistics")
    with api.db.read() as conn:
        sums = dict(host_lists.statistics(conn)._mapping)
    sums["free_ram_mb"] = sums["memory_mb"] - sums["memory_mb_used"]
    sums["free_disk_gb"] = sums["local_gb"] - sums["local_gb_used"]
    return Reply(body={"hypervisor_statistics": sums})


def search(api: ComputeAPI, request: Request, hypervisor_id: str) -> Reply:
    """Until 2.52: hosts with what stands for the id in their name."""
    require_admin(request.context, "os-hypervisors:search")
    with api.db.read() as conn:
        rows = _matching(conn, hypervisor_id)
    return Reply(body={"hypervisors": [_brief(api, request, row, None) for row in rows]})


def servers(api: ComputeAPI, request: Request, hypervisor_id: str) -> Reply:
    """Until 2.52: the same, with the servers on each."""
    require_admin(request.context, "os-hypervisors:servers")
    with api.db.read() as conn:
        rows = _matching(conn, hypervisor_id)
        on_them = host_lists.servers_on(conn, [row.host for row in rows])
    return Reply(body={"hypervisors": [_brief(api, request, row, on_them) for row in rows]})


def _page(api: ComputeAPI, request: Request, path: str, *, full: bool) -> dict[str, Any]:
    queries.check(
        request,
        ("limit", "marker", "hypervisor_hostname_pattern", "with_servers"),
        strict_since=_UUIDS,
    )
    view = _full if full else _brief
    new = request.version >= _UUIDS
    if new:
        queries.single(request, "limit", "marker", "hypervisor_hostname_pattern", "with_servers")
    pattern = request.query("hypervisor_hostname_pattern") if new else None
    with_servers = new and queries.boolean(request, "with_servers")
    with api.db.read() as conn:
        rows = _matching_page(conn, request, pattern) if pattern is not None else _rows(conn, request)
        on_them = host_lists.servers_on(conn, [row.host for row in rows]) if with_servers else None
    body: dict[str, Any] = {"hypervisors": [view(api, request, row, on_them) for row in rows]}
    if request.at_least(2, 33) and pattern is None and rows:
        body |= links.page(request, "hypervisors", path, rows, str(_shown_id(request, rows[-1].id)))
    return body


def _rows(conn: sa.Connection, request: Request) -> Sequence[Row]:
    if not request.at_least(2, 33):
        return host_lists.hypervisors(conn)
    marker = queries.marker(request)
    if marker is not None and request.version < _UUIDS:
        number = int(marker) if _NUMBER.fullmatch(marker) else -1
        marker = host_lists.id_of(conn, hosts, number) or marker
    return host_lists.hypervisors(conn, marker=marker, limit=queries.limit(request))


def _matching_page(conn: sa.Connection, request: Request, pattern: str) -> Sequence[Row]:
    if request.query("limit") is not None or request.query("marker") is not None:
        raise BadRequest(
            "Paging over hypervisors with the hypervisor_hostname_pattern query parameter is not supported."
        )
    if not _PATTERN.fullmatch(pattern):
        raise BadRequest(f"Invalid input for query parameters hypervisor_hostname_pattern. Value: {pattern}")
    return _matching(conn, pattern)


def _matching(conn: sa.Connection, pattern: str) -> Sequence[Row]:
    rows = host_lists.hypervisors(conn, pattern=pattern)
    if not rows:
        raise NotFound(f"No hypervisor matching '{pattern}' could be found.")
    return rows


def _get(conn: sa.Connection, request: Request, given: str) -> Row:
    row = None
    if request.version >= _UUIDS:
        try:
            row = host_lists.hypervisor(conn, str(UUID(given)))
        except ValueError as error:
            raise BadRequest(f"Invalid uuid {given}") from error
    elif _NUMBER.fullmatch(given):
        host_id = host_lists.id_of(conn, hosts, int(given))
        row = host_lists.hypervisor(conn, host_id) if host_id else None
    if row is None:
        raise NotFound(f"Hypervisor with ID '{given}' could not be found.")
    return row


def _brief(api: ComputeAPI, request: Request, row: Row, on_them: Servers | None) -> dict[str, Any]:
    view = {
        "id": _shown_id(request, row.id),
        "hypervisor_hostname": row.hypervisor_hostname,
        "state": liveness.state(row, api.config),
        "status": "disabled" if row.disabled else "enabled",
    }
    if on_them is not None and (row.host in on_them or request.at_least(2, 75)):
        view["servers"] = on_them.get(row.host, [])
    return view


def _full(api: ComputeAPI, request: Request, row: Row, on_them: Servers | None) -> dict[str, Any]:
    view = _brief(api, request, row, on_them) | {
        "hypervisor_type": row.hypervisor_type,
        "hypervisor_version": row.hypervisor_version,
        "host_ip": row.host_ip,
        "service": {
            "id": _shown_id(request, row.service_id),
            "host": row.host,
            "disabled_reason": row.disabled_reason,
        },
    }
    if request.at_least(2, 88):
        return view | {"uptime": None}  # lists ask no host
    return view | {
        "cpu_info": row.cpu_info if request.at_least(2, 28) else json.dumps(row.cpu_info),
        "vcpus": row.vcpus,
        "vcpus_used": row.vcpus_used,
        "memory_mb": row.memory_mb,
        "memory_mb_used": row.memory_mb_used,
        "free_ram_mb": row.memory_mb - row.memory_mb_used,
        "local_gb": row.disk_gb,
        "local_gb_used": row.disk_gb_used,
        "free_disk_gb": row.disk_gb - row.disk_gb_used,
        "disk_available_least": row.disk_available_least,
        "running_vms": row.servers,
        "current_workload": row.current_workload,
    }


def _shown_id(request: Request, row_id: str) -> str | int:
    return row_id if request.version >= _UUIDS else host_lists.number_of(row_id)


ROUTES = [
    Route("GET", "/os-hypervisors", index),
    Route("GET", "/os-hypervisors/detail", detail),
    Route("GET", "/os-hypervisors/statistics", statistics, until=(2, 87)),
    Route("GET", "/os-hypervisors/{hypervisor_id}", show),
    Route("GET", "/os-hypervisors/{hypervisor_id}/uptime", uptime, until=(2, 87)),
    Route("GET", "/os-hypervisors/{hypervisor_id}/search", search, until=(2, 52)),
    Route("GET", "/os-hypervisors/{hypervisor_id}/servers", servers, until=(2, 52)),
]
