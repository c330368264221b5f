"""A router's way out: its port on an external network. Every function runs with the router's row locked."""

from __future__ import annotations

import sqlalchemy as sa
from msgspec import UNSET

from kilonova.config import Config
from kilonova.domain.addresses import parse_network
from kilonova.domain.context import RequestContext
from kilonova.domain.network import FixedIp, Network, Port
from kilonova.domain.routers import GATEWAY_OWNER, Router
from kilonova.network.builtin import macs, networks, placement, policy
from kilonova.network.builtin.errors import (
    BadRouterRequest,
    InvalidInput,
    RouterExternalGatewayInUseByFloatingIp,
)
from kilonova.network.builtin.ipam import Allocator
from kilonova.network.builtin.ports import new_port
from kilonova.network.builtin.requests import FixedIpRequest
from kilonova.network.builtin.router_requests import ExternalGatewayInfo
from kilonova.store import floating_ips
from kilonova.store import network_tags as tags
from kilonova.store import ports as port_store
from kilonova.store import routers as store
from kilonova.store import subnets as subnet_store


def change(
    conn: sa.Connection,
    config: Config,
    context: RequestContext,
    router: Router,
    info: ExternalGatewayInfo | None,
) -> None:
    """The router's gateway is as asked: none, on another network, with other addresses, with SNAT or not."""
    if info is None or info.network_id is None:
        if info is not None and info != ExternalGatewayInfo():
            raise InvalidInput("external_gateway_info needs a network_id")
        if router.gateway_port_id is not None:
            clear(conn, router)
            store.update(conn, router.id, {"gateway_port_id": None, "enable_snat": True})
        return
    _check_rights(context, info)
    network = networks.find(conn, context, info.network_id, for_update=True)
    if not network.external:
        raise BadRouterRequest(f"Network {network.id} is not an external network")
    port = store.gateways(conn, [router]).get(router.id)
    if port is None or port.network_id != network.id:
        if port is not None:
            clear(conn, router)
        port = _make(conn, router, network, info)
    elif info.external_fixed_ips is not UNSET:
        _move(conn, router, port, network, info.external_fixed_ips)
    snat = True if info.enable_snat is UNSET else info.enable_snat
    store.update(conn, router.id, {"gateway_port_id": port.id, "enable_snat": snat})
    placement.place(conn, config, router)


def clear(conn: sa.Connection, router: Router) -> None:
    """The gateway's port is gone. RouterExternalGatewayInUseByFloatingIp while it is needed."""
    if router.gateway_port_id is None:
        return
    port = store.gateways(conn, [router])[router.id]
    if floating_ips.of_routers(conn, [router.id]):
        raise RouterExternalGatewayInUseByFloatingIp(
            f"Gateway cannot be updated for router {router.id}, since a gateway to external network "
            f"{port.network_id} is required by one or more floating IPs."
        )
    store.update(conn, router.id, {"gateway_port_id": None})
    port_store.delete(conn, [port.id])
    tags.remove(conn, [port.id])


def _check_rights(context: RequestContext, info: ExternalGatewayInfo) -> None:
    """Which address, and whether guests hide behind it, is for admins (Neutron's policy)."""
    for name in ("enable_snat", "external_fixed_ips"):
        if getattr(info, name) is not UNSET:
            policy.admin_only(context, f"rule:update_router:external_gateway_info:{name}")


def _make(conn: sa.Connection, router: Router, network: Network, info: ExternalGatewayInfo) -> Port:
    subnets = subnet_store.of_networks(conn, [network.id], for_update=True).get(network.id, [])
    if not subnets:
        raise BadRouterRequest(f"No IPs available for external network {network.id}")
    for port in store.interfaces(conn, [router.id]):
        own = subnet_store.of_networks(conn, [port.network_id])[port.network_id]
        used = {fixed.subnet_id for fixed in port.fixed_ips}
        for inside in (parse_network(subnet.cidr) for subnet in own if subnet.id in used):
            for outside in subnets:
                if inside.overlaps(parse_network(outside.cidr)):
                    raise BadRouterRequest(
                        f"Cidr {outside.cidr} of subnet {outside.id} overlaps with cidr {inside}"
                    )
    allocator = Allocator(conn, network, subnets, GATEWAY_OWNER)
    if info.external_fixed_ips is UNSET or not info.external_fixed_ips:
        addresses = allocator.default()
    else:
        addresses = allocator.requested(info.external_fixed_ips)
    allocator.finish()
    port = new_port(
        network,
        project_id="",  # the network's owner sees it, as Neutron's
        mac_address=macs.draw(conn, [network.id])[0],
        fixed_ips=addresses,
        device_id=router.id,
        device_owner=GATEWAY_OWNER,
        port_security_enabled=False,
    )
    port_store.insert(conn, [port])
    return port


def _move(
    conn: sa.Connection, router: Router, port: Port, network: Network, wanted: list[FixedIpRequest]
) -> None:
    """The gateway has these addresses; those it has and keeps stay as they are."""
    have = {fixed.ip_address: fixed for fixed in port.fixed_ips}
    if wanted and all(ask.ip_address in have for ask in wanted) and len(wanted) == len(have):
        return
    if not wanted:
        raise InvalidInput("external_fixed_ips: a gateway needs an address")
    port_store.take_back(conn, port.id)
    subnets = subnet_store.of_networks(conn, [network.id], for_update=True).get(network.id, [])
    allocator = Allocator(conn, network, subnets)
    addresses: list[FixedIp] = allocator.requested(wanted)
    allocator.finish()
    port_store.give(conn, {port.id: addresses})
    port_store.update(conn, [port.id], {})
