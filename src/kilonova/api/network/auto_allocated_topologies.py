"""/auto-allocated-topology/{project_id}: a network with a way out, made when somebody asks for it."""

from __future__ import annotations

from typing import Any

from kilonova.api.http import Reply, Request, Route
from kilonova.network.builtin import auto_allocated_topologies as topologies
from kilonova.network.builtin import policy
from kilonova.network.builtin.service import BuiltinNetwork

_ONE = "/v2.0/auto-allocated-topology/{project_id}"
_OWN = ("null", "None")
"""How clients say: that of the token's project."""


def show(network: BuiltinNetwork, request: Request, project_id: str) -> Reply:
    """``fields=dry-run``: whether it could be made."""
    project_id = _project(request, project_id)
    if "dry-run" in request.query_all("fields"):
        policy.owner_only(request.context, "rule:get_auto_allocated_topology", project_id)
        with network.db.read() as conn:
            topologies.check(conn)
        return _reply("dry-run=pass", project_id)
    with network.write() as conn:
        made = topologies.ensure(conn, network.config, request.context, project_id)
    return _reply(made, project_id)


def delete(network: BuiltinNetwork, request: Request, project_id: str) -> Reply:
    with network.write() as conn:
        topologies.delete(conn, request.context, _project(request, project_id))
    return Reply(204)


def _project(request: Request, asked: str) -> str:
    return (request.context.project_id or "") if asked in _OWN else asked


def _reply(found: str, project_id: str) -> Reply:
    view: dict[str, Any] = {"id": found, "tenant_id": project_id, "project_id": project_id}
    return Reply(body={"auto_allocated_topology": view})


ROUTES = [Route("GET", _ONE, show), Route("DELETE", _ONE, delete)]
