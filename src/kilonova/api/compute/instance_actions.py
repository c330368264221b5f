"""/servers/{id}/os-instance-actions: the operations of a server and their steps, as the API tells them.

The record is the engine's own journal (invariant 9): an action is an operation, an event is a step.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from kilonova.api.compute import links, policy, queries
from kilonova.api.compute.server_view import host_id
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.compute.times import query_time
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.clock import iso8601_micro
from kilonova.domain.errors import BadRequest, NotFound
from kilonova.store import operation_lists, operations, server_lists
from kilonova.store.database import Row


def listed(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    """The newest first; pages since 2.58."""
    since, before, marker, limit = _asked(request)
    with api.db.read() as conn:
        _check_server(conn, request, server_id)
        rows = operation_lists.of_server(conn, server_id, since, before, marker, limit)
    body: dict[str, Any] = {"instanceActions": [_action(request, row) for row in rows]}
    if request.at_least(2, 58) and rows:
        path = f"servers/{server_id}/os-instance-actions"
        page = links.page(request, "page", path, rows, rows[-1].request_id)
        if page:
            body["links"] = page["page_links"]
    return Reply(body=body)


def show(api: ComputeAPI, request: Request, server_id: str, request_id: str) -> Reply:
    """One action with its events: for the admin, and since 2.51 for the owner."""
    queries.check(request)
    with api.db.read() as conn:
        server = _check_server(conn, request, server_id)
        action = operation_lists.by_request(conn, server_id, request_id)
        if action is None:
            raise NotFound(f"Action {request_id} not found")
        steps = operations.steps_of(conn, [action.id])
    body = _action(request, action)
    if request.context.is_admin or request.at_least(2, 51):
        body["events"] = [_event(request, step, server.project_id) for step in reversed(steps)]
    return Reply(body={"instanceAction": body})


def _asked(request: Request) -> tuple[float | None, float | None, str | None, int]:
    """(changes-since, changes-before, marker, limit)"""
    if not request.at_least(2, 58):
        return None, None, None, queries.MAX_LIMIT
    names = ["limit", "marker", "changes-since"] + ["changes-before"] * request.at_least(2, 66)
    queries.check(request, names, strict_since=(2, 58))
    queries.single(request, *names)
    since, before = query_time(request, "changes-since"), None
    if request.at_least(2, 66):
        before = query_time(request, "changes-before")
    if since is not None and before is not None and before < since:
        raise BadRequest("The value of changes-since must be less than or equal to changes-before.")
    return since, before, queries.marker(request), queries.limit(request)


def _check_server(conn: sa.Connection, request: Request, server_id: str) -> Row:
    """Since 2.21 deleted servers are remembered, too."""
    owner = policy.owner_filter(request.context)
    return server_lists.get(conn, server_id, owner, server_lists.OWNER, gone_too=request.at_least(2, 21))


def _action(request: Request, row: Row) -> dict[str, Any]:
    action = {
        "action": row.record,
        "instance_uuid": row.server_id,
        "request_id": row.request_id,
        "user_id": row.user_id,
        "project_id": row.project_id,
        "start_time": iso8601_micro(row.created_at),
        "message": row.message,
    }
    if request.at_least(2, 58):
        action["updated_at"] = iso8601_micro(row.updated_at)
    return action


def _event(request: Request, step: Row, project_id: str) -> dict[str, Any]:
    """Only the admin sees hosts and what went wrong in detail."""
    admin = request.context.is_admin
    event = {
        "event": step.name,
        "start_time": iso8601_micro(step.started_at),
        "finish_time": iso8601_micro(step.finished_at),
        "result": step.result,
    }
    if admin:
        event["traceback"] = step.details
    if request.at_least(2, 62):
        event["hostId"] = host_id(project_id, step.host) if step.host else ""
        if admin:
            event["host"] = step.host or ""
    if admin and request.at_least(2, 84):
        event["details"] = step.message
    return event


_ALL = "/servers/{server_id}/os-instance-actions"

ROUTES = [
    Route("GET", _ALL, listed),
    Route("GET", _ALL + "/{request_id}", show),
]
