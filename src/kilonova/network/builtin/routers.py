"""Routers: create, update, delete. Every function runs inside the caller's transaction.

What changes a router locks its row first, then networks, ports, quotas and subnets as everything does.
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from msgspec import UNSET

from kilonova.config import Config
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.routers import Router
from kilonova.network.builtin import placement, policy, quotas, router_gateway, router_routes
from kilonova.network.builtin.errors import (
    AvailabilityZoneNotFound,
    InvalidInput,
    RouterInUse,
    RouterNotFound,
)
from kilonova.network.builtin.requests import said
from kilonova.network.builtin.router_requests import RouterCreate, RouterUpdate
from kilonova.store import network_tags as tags
from kilonova.store import network_zones
from kilonova.store import routers as store


def find(conn: sa.Connection, context: RequestContext, router_id: str, for_update: bool = False) -> Router:
    """The router, if the asker sees it; RouterNotFound else."""
    router = store.get(conn, router_id, policy.scope(context), for_update)
    if router is None:
        raise RouterNotFound(f"Router {router_id} could not be found.")
    return router


def to_change(conn: sa.Connection, context: RequestContext, router_id: str, rule: str) -> Router:
    """The router, locked, if the asker may change it."""
    router = find(conn, context, router_id, for_update=True)
    policy.owner_only(context, rule, router.project_id)
    return router


def create(conn: sa.Connection, config: Config, context: RequestContext, body: RouterCreate) -> Router:
    project_id = policy.project_of_new(context, body.project_id, body.tenant_id, "rule:create_router")
    _check_offered(body)
    quotas.check(conn, config, project_id, "router")
    made = now()
    router = Router(
        id=str(uuid.uuid4()),
        project_id=project_id,
        name=body.name or "",
        description=body.description or "",
        admin_state_up=body.admin_state_up is not False,
        availability_zone_hints=_zones(conn, config, body),
        created_at=made,
        updated_at=made,
    )
    store.insert(conn, router)
    if body.external_gateway_info not in (UNSET, None):
        router_gateway.change(conn, config, context, router, body.external_gateway_info)
    if body.routes:
        changed = find(conn, context, router.id)
        store.update(conn, router.id, {"routes": router_routes.check(conn, changed, body.routes)})
    placement.tell(conn, [router.id])
    return find(conn, context, router.id)


def update(
    conn: sa.Connection, config: Config, context: RequestContext, router_id: str, body: RouterUpdate
) -> Router:
    router = to_change(conn, context, router_id, "rule:update_router")
    _check_offered(body)
    asked = said(body, "name", "description", "admin_state_up")
    changes = {name: value for name, value in asked.items() if value != getattr(router, name)}
    if body.external_gateway_info is not UNSET:
        router_gateway.change(conn, config, context, router, body.external_gateway_info)
        router = find(conn, context, router_id)
    if body.routes is not UNSET:
        changes["routes"] = router_routes.check(conn, router, body.routes or [])
    elif router.routes and body.external_gateway_info is not UNSET:
        router_routes.check(conn, router, router.routes)
    if changes:
        store.update(conn, router.id, changes)
    placement.tell(conn, [router.id])
    if "admin_state_up" in changes:
        placement.tell_inside(conn, router.id)
    return find(conn, context, router_id)


def delete(conn: sa.Connection, context: RequestContext, router_id: str) -> None:
    """The router and its gateway. RouterInUse while it has interfaces."""
    router = to_change(conn, context, router_id, "rule:delete_router")
    if store.interfaces(conn, [router.id]):
        raise RouterInUse(f"Router {router.id} still has ports")
    router_gateway.clear(conn, router)
    placement.tell(conn, [router.id])
    store.delete(conn, router.id)
    tags.remove(conn, [router.id])


def owners(_conn: sa.Connection, router: Router) -> list[str]:
    return [router.project_id]


def _zones(conn: sa.Connection, config: Config, body: RouterCreate) -> list[str]:
    """The zones that its host may be in; none: any."""
    asked = [] if body.availability_zone_hints is UNSET else body.availability_zone_hints
    known = network_zones.zones(conn, config.compute.service_down_time) if asked else {}
    for zone in asked:
        if zone not in known:
            raise AvailabilityZoneNotFound(f"AvailabilityZone {zone} could not be found.")
    return list(dict.fromkeys(asked))


def _check_offered(body: RouterUpdate) -> None:
    """A router is on one host; who asks for just that gets it."""
    for name in ("ha", "distributed"):
        if getattr(body, name) is True:
            raise InvalidInput(f"{name}: a router is on one host, and goes to another when that is down")
