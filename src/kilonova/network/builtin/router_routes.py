"""Extra routes of a router: each leads to a neighbour on one of the router's own subnets."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.domain.addresses import Network as Cidr
from kilonova.domain.addresses import parse_network
from kilonova.domain.context import RequestContext
from kilonova.domain.network import HostRoute
from kilonova.domain.routers import Router
from kilonova.network.builtin import addressing, placement, policy
from kilonova.network.builtin.errors import InvalidRoutes, RouterNotFound, RoutesExhausted
from kilonova.store import routers as store
from kilonova.store import subnets as subnet_store

MAX_ROUTES = 30
"""Of one router (Neutron's max_routes)."""


def check(conn: sa.Connection, router: Router, routes: Sequence[HostRoute]) -> list[HostRoute]:
    """In their canonical form, if the router can have them. InvalidRoutes, RoutesExhausted, InvalidInput."""
    wanted = list(dict.fromkeys(addressing.check_routes(routes)))
    if len(wanted) > MAX_ROUTES:
        raise RoutesExhausted(
            f"Unable to complete operation for {router.id}. The number of routes exceeds the maximum "
            f"{MAX_ROUTES}."
        )
    if not wanted:
        return []
    cidrs, own = _connected(conn, router)
    for route in wanted:
        nexthop = addressing.parse_address(route.nexthop, "nexthop of a route")
        if nexthop.version == 6:
            raise _invalid(route, "extra routes are of IPv4 only")
        if route.destination == "0.0.0.0/0":
            raise _invalid(route, "the gateway is the way to everywhere else")
        if not any(nexthop in cidr for cidr in cidrs):
            raise _invalid(route, "the nexthop is not connected with router")
        if str(nexthop) in own:
            raise _invalid(route, "the nexthop is used by router")
    return wanted


def change(
    conn: sa.Connection,
    context: RequestContext,
    router_id: str,
    *,
    add: Sequence[HostRoute] = (),
    remove: Sequence[HostRoute] = (),
) -> Router:
    """Some routes more, or fewer, whatever others change at the same time."""
    router = store.get(conn, router_id, policy.scope(context), for_update=True)
    if router is None:
        raise RouterNotFound(f"Router {router_id} could not be found.")
    policy.owner_only(context, "rule:update_router", router.project_id)
    gone = set(addressing.check_routes(remove))
    kept = [route for route in router.routes if route not in gone]
    routes = check(conn, router, [*kept, *add]) if add else kept
    if routes != router.routes:
        store.update(conn, router.id, {"routes": routes})
        placement.tell(conn, [router.id])
    changed = store.get(conn, router_id, None)
    assert changed is not None, "locked before"
    return changed


def needs(router: Router, cidrs: Sequence[str]) -> bool:
    """Whether a route's next hop is in one of these subnets."""
    nexthops = [addressing.parse_address(route.nexthop, "nexthop") for route in router.routes]
    return any(nexthop in parse_network(cidr) for nexthop in nexthops for cidr in cidrs)


def _connected(conn: sa.Connection, router: Router) -> tuple[list[Cidr], set[str]]:
    """The subnets that the router is on, and its own addresses there."""
    ports = [*store.interfaces(conn, [router.id]), *store.gateways(conn, [router]).values()]
    fixed = [one for port in ports for one in port.fixed_ips]
    subnets = subnet_store.of_networks(conn, sorted({port.network_id for port in ports}))
    ids = {one.subnet_id for one in fixed}
    cidrs = [parse_network(s.cidr) for several in subnets.values() for s in several if s.id in ids]
    return cidrs, {one.ip_address for one in fixed}


def _invalid(route: HostRoute, why: str) -> InvalidRoutes:
    shown = f"destination {route.destination}, nexthop {route.nexthop}"
    return InvalidRoutes(f"Invalid format for routes: {shown}, {why}.")
