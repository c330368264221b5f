"""A router's ports on networks: added and removed. Every function runs inside the caller's transaction."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from kilonova.config import Config
from kilonova.domain.addresses import parse_network
from kilonova.domain.context import RequestContext
from kilonova.domain.network import Network, Port, Subnet
from kilonova.domain.routers import INTERFACE_OWNER, Router
from kilonova.network.builtin import (
    macs,
    networks,
    placement,
    policy,
    port_groups,
    quotas,
    router_routes,
    routers,
    subnets,
)
from kilonova.network.builtin import ports as port_service
from kilonova.network.builtin.changes import membership
from kilonova.network.builtin.errors import (
    BadRouterRequest,
    PortInUse,
    RouterInterfaceInUseByFloatingIP,
    RouterInterfaceInUseByRoute,
    RouterInterfaceNotFound,
    RouterInterfaceNotFoundForSubnet,
    SubnetMismatchForPort,
)
from kilonova.network.builtin.ipam import Allocator
from kilonova.network.builtin.router_requests import InterfaceRequest
from kilonova.store import floating_ips, port_security
from kilonova.store import network_tags as tags
from kilonova.store import networks as network_store
from kilonova.store import ports as port_store
from kilonova.store import routers as store
from kilonova.store import subnets as subnet_store


class Interface(NamedTuple):
    router: Router
    port: Port


def add(
    conn: sa.Connection, config: Config, context: RequestContext, router_id: str, asked: InterfaceRequest
) -> Interface:
    router = routers.to_change(conn, context, router_id, "rule:add_router_interface")
    if (asked.subnet_id is None) == (asked.port_id is None):
        both = asked.subnet_id is not None
        raise BadRouterRequest(
            "Cannot specify both subnet-id and port-id"
            if both
            else "Either subnet_id or port_id must be specified"
        )
    if asked.port_id is not None:
        port = _take(conn, context, router, asked.port_id)
    else:
        port = _make(conn, config, context, router, asked.subnet_id or "")
    placement.place(conn, config, router)
    store.update(conn, router.id, {})
    placement.tell(conn, [router.id], [port.network_id])
    return Interface(routers.find(conn, context, router_id), port)


def remove(
    conn: sa.Connection, context: RequestContext, router_id: str, asked: InterfaceRequest
) -> Interface:
    router = routers.to_change(conn, context, router_id, "rule:remove_router_interface")
    if asked.subnet_id is None and asked.port_id is None:
        raise BadRouterRequest("Either subnet_id or port_id must be specified")
    if asked.subnet_id is not None:
        subnets.find(conn, context, asked.subnet_id)
    port = _found(store.interfaces(conn, [router.id]), router, asked)
    _check_unneeded(conn, router, port)
    port_store.delete(conn, [port.id])
    tags.remove(conn, [port.id])
    store.update(conn, router.id, {})
    placement.tell(conn, [router.id], [port.network_id])
    return Interface(router, port)


def _make(
    conn: sa.Connection, config: Config, context: RequestContext, router: Router, subnet_id: str
) -> Port:
    """A new port with the subnet's gateway address: for the network's owner: all its guests go there."""
    subnet = subnets.find(conn, context, subnet_id)
    network = networks.find(conn, context, subnet.network_id, for_update=True)
    policy.owner_only(context, "rule:add_router_interface:gateway", network.project_id, subnet.project_id)
    if subnet.gateway_ip is None:
        raise BadRouterRequest("Subnet for router interface must have a gateway IP")
    _check_network(network)
    _check_overlap(conn, router, [subnet])
    quotas.check(conn, config, router.project_id, "port")
    own = subnet_store.of_networks(conn, [network.id], for_update=True).get(network.id, [])
    fixed = Allocator(conn, network, own).gateway(subnet.id)
    port = port_service.new_port(
        network,
        project_id=router.project_id,
        mac_address=macs.draw(conn, [network.id])[0],
        fixed_ips=[fixed],
        device_id=router.id,
        device_owner=INTERFACE_OWNER,
        port_security_enabled=False,
    )
    port_store.insert(conn, [port])
    return port


def _take(conn: sa.Connection, context: RequestContext, router: Router, port_id: str) -> Port:
    """A port that the user made becomes the router's."""
    (port,) = port_groups.adopted(conn, [port_service.find(conn, context, port_id, for_update=True)])
    policy.owner_only(context, "rule:add_router_interface", *port_service.owners(conn, port))
    if port.device_id:
        raise PortInUse(
            f"Unable to complete operation on port {port.id} for network {port.network_id}. "
            f"Port already has an attached device {port.device_id}."
        )
    if not port.fixed_ips:
        raise BadRouterRequest("Router port must have at least one fixed IP")
    if len([fixed for fixed in port.fixed_ips if ":" not in fixed.ip_address]) > 1:
        raise BadRouterRequest("Cannot have multiple IPv4 subnets on router port")
    network = network_store.by_id(conn, [port.network_id])[port.network_id]
    _check_network(network)
    wanted = {fixed.subnet_id for fixed in port.fixed_ips}
    own = subnet_store.of_networks(conn, [network.id])[network.id]
    _check_overlap(conn, router, [subnet for subnet in own if subnet.id in wanted])
    port_store.update(
        conn,
        [port.id],
        {
            "device_id": router.id,
            "device_owner": INTERFACE_OWNER,
            "port_security_enabled": False,
            "allowed_address_pairs": [],
        },
    )
    port_security.leave(conn, [port.id])
    membership(conn, [port])
    return port_store.by_id(conn, [port.id])[port.id]


def _check_network(network: Network) -> None:
    if network.external:
        raise BadRouterRequest(
            f"Network {network.id} is external: a router's gateway is on it, not its interfaces"
        )


def _check_overlap(conn: sa.Connection, router: Router, new: list[Subnet]) -> None:
    """A router knows by the address alone where a packet goes."""
    ports = [*store.interfaces(conn, [router.id]), *store.gateways(conn, [router]).values()]
    used = {fixed.subnet_id for port in ports for fixed in port.fixed_ips}
    several = subnet_store.of_networks(conn, sorted({port.network_id for port in ports}))
    for other in (subnet for own in several.values() for subnet in own if subnet.id in used):
        for subnet in new:
            if subnet.id == other.id:
                raise BadRouterRequest(f"Router already has a port on subnet {subnet.id}")
            if parse_network(subnet.cidr).overlaps(parse_network(other.cidr)):
                raise BadRouterRequest(
                    f"Cidr {subnet.cidr} of subnet {subnet.id} overlaps with cidr {other.cidr} "
                    f"of subnet {other.id}"
                )


def _found(ports: list[Port], router: Router, asked: InterfaceRequest) -> Port:
    """The interface that is meant."""
    for port in ports:
        on = {fixed.subnet_id for fixed in port.fixed_ips}
        if asked.port_id is None and asked.subnet_id in on:
            return port
        if asked.port_id == port.id:
            if asked.subnet_id is not None and asked.subnet_id not in on:
                raise SubnetMismatchForPort(
                    f"Subnet on port {port.id} does not match the requested subnet {asked.subnet_id}."
                )
            return port
    if asked.port_id is not None:
        raise RouterInterfaceNotFound(
            f"Router {router.id} does not have an interface with id {asked.port_id}"
        )
    raise RouterInterfaceNotFoundForSubnet(f"Router {router.id} has no interface on subnet {asked.subnet_id}")


def _check_unneeded(conn: sa.Connection, router: Router, port: Port) -> None:
    """No floating IP leads there, and no extra route."""
    ids = {fixed.subnet_id for fixed in port.fixed_ips}
    own = [s for s in subnet_store.of_networks(conn, [port.network_id])[port.network_id] if s.id in ids]
    subnet = next(iter(ids))
    for floating in floating_ips.of_routers(conn, [router.id]):
        led = [floating.fixed_ip_address, *(one.fixed_ip_address for one in floating.forwardings)]
        if any(ip is not None and subnets.contains(one, ip) for one in own for ip in led):
            raise RouterInterfaceInUseByFloatingIP(
                f"Router interface for subnet {subnet} on router {router.id} cannot be deleted, as it is "
                "required by one or more floating IPs."
            )
    if router_routes.needs(router, [one.cidr for one in own]):
        raise RouterInterfaceInUseByRoute(
            f"Router interface for subnet {subnet} on router {router.id} cannot be deleted, as it is "
            "required by one or more routes."
        )
