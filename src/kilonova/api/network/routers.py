"""Routers as the API shows them, and what is done to them beside the five verbs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.api.http import Reply, Request, Route
from kilonova.api.network.resources import Resource, View
from kilonova.domain import codec
from kilonova.domain.clock import iso8601
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest
from kilonova.domain.network import Port
from kilonova.domain.routers import Router
from kilonova.network.builtin import router_interfaces, router_routes, routers
from kilonova.network.builtin.router_requests import ExtraRoutes, InterfaceRequest, RouterCreate, RouterUpdate
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import network_tags, network_zones
from kilonova.store import routers as store
from kilonova.store.schema.routers import routers as table


def _views(conn: sa.Connection, _context: RequestContext, items: Sequence[Router]) -> list[View]:
    ids = [item.id for item in items]
    tags, gateways, statuses = (
        network_tags.of(conn, ids),
        store.gateways(conn, items),
        store.statuses(conn, ids),
    )
    zones = network_zones.of_hosts(conn, sorted({item.host for item in items if item.host}))
    return [
        _view(item, statuses[item.id], gateways.get(item.id), zones.get(item.host), tags.get(item.id, []))
        for item in items
    ]


def _view(
    router: Router, status: str, gateway: Port | None, zone: str | None, tags: list[str]
) -> dict[str, Any]:
    return {
        "id": router.id,
        "name": router.name,
        "description": router.description,
        "project_id": router.project_id,
        "tenant_id": router.project_id,
        "admin_state_up": router.admin_state_up,
        "status": status,
        "external_gateway_info": _gateway_view(router, gateway),
        "routes": router.routes,
        "availability_zone_hints": router.availability_zone_hints or [],
        "availability_zones": [zone] if zone else [],
        "tags": tags,
        "revision_number": router.revision_number,
        "created_at": iso8601(router.created_at),
        "updated_at": iso8601(router.updated_at),
    }


def _gateway_view(router: Router, gateway: Port | None) -> dict[str, Any] | None:
    if gateway is None:
        return None
    return {
        "network_id": gateway.network_id,
        "enable_snat": router.enable_snat,
        "external_fixed_ips": gateway.fixed_ips,
    }


ROUTERS = Resource(
    name="router",
    plural="routers",
    create_body=RouterCreate,
    update_body=RouterUpdate,
    create=routers.create,
    update=routers.update,
    delete=routers.delete,
    find=routers.find,
    page=store.page,
    owners=routers.owners,
    views=_views,
    table=table,
    touch=lambda conn, item_id: store.update(conn, item_id, {}),
)


def add_interface(network: BuiltinNetwork, request: Request, item_id: str) -> Reply:
    asked = request.json(InterfaceRequest)
    with network.write() as conn:
        done = router_interfaces.add(conn, network.config, request.context, item_id, asked)
    return Reply(200, _interface_view(done))


def remove_interface(network: BuiltinNetwork, request: Request, item_id: str) -> Reply:
    asked = request.json(InterfaceRequest)
    with network.write() as conn:
        done = router_interfaces.remove(conn, request.context, item_id, asked)
    return Reply(200, _interface_view(done))


def add_routes(network: BuiltinNetwork, request: Request, item_id: str) -> Reply:
    asked = _routes(request)
    with network.write() as conn:
        router = router_routes.change(conn, request.context, item_id, add=asked.routes)
        (view,) = _views(conn, request.context, [router])
    return Reply(200, {"router": view})


def remove_routes(network: BuiltinNetwork, request: Request, item_id: str) -> Reply:
    asked = _routes(request)
    with network.write() as conn:
        router = router_routes.change(conn, request.context, item_id, remove=asked.routes)
        (view,) = _views(conn, request.context, [router])
    return Reply(200, {"router": view})


def _routes(request: Request) -> ExtraRoutes:
    body = request.json(dict[str, msgspec.Raw])
    if set(body) != {"router"}:
        raise BadRequest("The body must be an object with one key: router")
    try:
        return codec.from_json(body["router"], ExtraRoutes)
    except msgspec.ValidationError as error:
        raise BadRequest(f"Invalid input: {error}") from error


def _interface_view(done: router_interfaces.Interface) -> dict[str, Any]:
    ids = [fixed.subnet_id for fixed in done.port.fixed_ips]
    return {
        "id": done.router.id,
        "tenant_id": done.router.project_id,
        "project_id": done.router.project_id,
        "port_id": done.port.id,
        "network_id": done.port.network_id,
        "subnet_id": ids[-1],
        "subnet_ids": ids,
    }


_ONE = "/v2.0/routers/{item_id}"

ROUTES = [
    Route("PUT", f"{_ONE}/add_router_interface", add_interface),
    Route("PUT", f"{_ONE}/remove_router_interface", remove_interface),
    Route("PUT", f"{_ONE}/add_extraroutes", add_routes),
    Route("PUT", f"{_ONE}/remove_extraroutes", remove_routes),
]
