"""Floating IPs: create, associate, move, disassociate, delete. Every function runs inside the caller's
transaction.

A router's row is locked before its floating IPs change: nobody takes its gateway or interface away meanwhile.
Of two routers the one with the lower id comes first.
"""

from __future__ import annotations

import uuid
from typing import NamedTuple

import sqlalchemy as sa
from msgspec import UNSET

from kilonova.config import Config
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.network import FixedIp, Network, Port
from kilonova.domain.routers import FLOATING_OWNER, FloatingIp
from kilonova.network.builtin import addressing, macs, networks, placement, policy, quotas, vifs
from kilonova.network.builtin import ports as port_service
from kilonova.network.builtin.errors import (
    BadFloatingIpRequest,
    ExternalGatewayForFloatingIPNotFound,
    FipInUseByPortForwarding,
    FloatingIPNotFound,
    FloatingIPPortAlreadyAssociated,
)
from kilonova.network.builtin.ipam import Allocator
from kilonova.network.builtin.requests import FixedIpRequest
from kilonova.network.builtin.router_requests import FloatingIpCreate, FloatingIpUpdate
from kilonova.store import floating_ips as store
from kilonova.store import network_tags as tags
from kilonova.store import ports as port_store
from kilonova.store import routers as router_store
from kilonova.store import subnets as subnet_store


class Target(NamedTuple):
    """Where a floating IP leads."""

    port: Port
    fixed_ip: str
    router_id: str


def find(
    conn: sa.Connection, context: RequestContext, floating_id: str, for_update: bool = False
) -> FloatingIp:
    """The floating IP, if the asker sees it; FloatingIPNotFound else."""
    floating = store.get(conn, floating_id, policy.scope(context), for_update)
    if floating is None:
        raise FloatingIPNotFound(f"Floating IP {floating_id} could not be found")
    return floating


def create(
    conn: sa.Connection, config: Config, context: RequestContext, body: FloatingIpCreate
) -> FloatingIp:
    project_id = policy.project_of_new(context, body.project_id, body.tenant_id, "rule:create_floatingip")
    network = networks.find(conn, context, body.floating_network_id)
    if not network.external:
        raise BadFloatingIpRequest(f"Network {network.id} is not a valid external network")
    if body.floating_ip_address not in (UNSET, None):
        policy.admin_only(context, "rule:create_floatingip:floating_ip_address")
    floating_id = str(uuid.uuid4())
    target = _target(conn, context, body, network.id, project_id, None, floating_id)
    quotas.check(conn, config, project_id, "floatingip")
    port = _hold(conn, network, body, floating_id)
    made = now()
    floating = FloatingIp(
        id=floating_id,
        project_id=project_id,
        description=body.description or "",
        floating_network_id=network.id,
        floating_ip_address=port.fixed_ips[0].ip_address,
        floating_port_id=port.id,
        fixed_port_id=target.port.id if target else None,
        fixed_ip_address=target.fixed_ip if target else None,
        router_id=target.router_id if target else None,
        created_at=made,
        updated_at=made,
    )
    store.insert(conn, floating)
    if target:
        vifs.show(conn, target.port)
        placement.tell(conn, [target.router_id])
    return find(conn, context, floating_id)


def update(
    conn: sa.Connection, _config: Config, context: RequestContext, floating_id: str, body: FloatingIpUpdate
) -> FloatingIp:
    floating = find(conn, context, floating_id)
    policy.owner_only(context, "rule:update_floatingip", floating.project_id)
    changes: dict[str, object] = {}
    if body.description is not UNSET and body.description != floating.description:
        changes["description"] = body.description
    if body == FloatingIpUpdate():  # Neutron's oldest way to say that it shall lead nowhere
        body = FloatingIpUpdate(port_id=None)
    if body.port_id is UNSET and body.fixed_ip_address is UNSET:
        find(conn, context, floating_id, for_update=True)
        if changes:
            store.update(conn, floating.id, changes)
        return find(conn, context, floating_id)
    network_id = floating.floating_network_id
    target = _target(conn, context, body, network_id, floating.project_id, floating, floating.id)
    floating = find(conn, context, floating_id, for_update=True)
    if target is None and floating.forwardings:  # it leads nowhere as a whole, and goes on by its ports
        store.update(conn, floating.id, changes)
        return find(conn, context, floating_id)
    _check_whole(floating)
    changes |= {
        "fixed_port_id": target.port.id if target else None,
        "fixed_ip_address": target.fixed_ip if target else None,
        "router_id": target.router_id if target else None,
    }
    store.update(conn, floating.id, changes)
    for port in (floating.port, target.port if target else None):
        if port is not None:
            vifs.show(conn, port)
    through = {floating.router_id, target.router_id if target else None}
    placement.tell(conn, [router_id for router_id in through if router_id])
    return find(conn, context, floating_id)


def delete(conn: sa.Connection, context: RequestContext, floating_id: str) -> None:
    floating = find(conn, context, floating_id)
    policy.owner_only(context, "rule:delete_floatingip", floating.project_id)
    lock_routers(conn, floating.router_id)
    floating = find(conn, context, floating_id, for_update=True)
    _check_whole(floating)
    store.delete(conn, [floating.id])
    port_store.delete(conn, [floating.floating_port_id])
    tags.remove(conn, [floating.id, floating.floating_port_id])
    if floating.port is not None:
        vifs.show(conn, floating.port)
        placement.tell(conn, [floating.router_id] if floating.router_id else [])


def owners(_conn: sa.Connection, floating: FloatingIp) -> list[str]:
    return [floating.project_id]


def _check_whole(floating: FloatingIp) -> None:
    """Nothing is forwarded by some of its ports alone."""
    if floating.forwardings:
        raise FipInUseByPortForwarding(f"Floating IP {floating.id} in use by Port Forwarding resources.")


def _hold(conn: sa.Connection, network: Network, body: FloatingIpCreate, floating_id: str) -> Port:
    """The service's own port on the external network: it has the address, so nobody else gets it."""
    subnets = subnet_store.of_networks(conn, [network.id], for_update=True).get(network.id, [])
    allocator = Allocator(conn, network, subnets, FLOATING_OWNER)
    wanted = FixedIpRequest(subnet_id=body.subnet_id or None, ip_address=body.floating_ip_address or None)
    found = allocator.default() if wanted == FixedIpRequest() else allocator.requested([wanted])
    if not found:
        raise BadFloatingIpRequest(f"Network {network.id} does not contain any IPv4 subnet")
    allocator.finish()
    port = port_service.new_port(
        network,
        project_id="",  # the network's owner sees it, as Neutron's
        mac_address=macs.draw(conn, [network.id])[0],
        fixed_ips=found,
        device_id=floating_id,
        device_owner=FLOATING_OWNER,
        port_security_enabled=False,
        status="N/A",
    )
    port_store.insert(conn, [port])
    return port


def _target(
    conn: sa.Connection,
    context: RequestContext,
    body: FloatingIpUpdate,
    external_id: str,
    project_id: str,
    floating: FloatingIp | None,
    floating_id: str,
) -> Target | None:
    """Where it shall lead, checked; None: nowhere. The router there is locked, and the one it leaves."""
    left = floating.router_id if floating else None
    port_id = floating.fixed_port_id if floating and body.port_id is UNSET else body.port_id
    if port_id in (UNSET, None):
        if body.fixed_ip_address not in (UNSET, None):
            raise BadFloatingIpRequest("fixed_ip_address cannot be specified without a port_id")
        lock_routers(conn, left)
        return None
    port = port_service.find(conn, context, str(port_id))
    if not context.is_admin and port.project_id != project_id:
        raise BadFloatingIpRequest(
            f"Port {port.id} is associated with a different tenant than Floating IP {floating_id} and "
            "therefore cannot be bound"
        )
    if port.device_owner.startswith("network:"):
        raise BadFloatingIpRequest(f"Port {port.id} is the network service's own ({port.device_owner})")
    wanted = None if body.fixed_ip_address in (UNSET, None) else str(body.fixed_ip_address)
    fixed = _fixed(port, wanted)
    router_id = router_out(conn, external_id, fixed.subnet_id, left)
    if router_id is None:
        raise ExternalGatewayForFloatingIPNotFound(
            f"External network {external_id} is not reachable from subnet {fixed.subnet_id}.  "
            f"Therefore, cannot associate Port {port.id} with a Floating IP."
        )
    port = port_service.find(conn, context, port.id, for_update=True)
    if fixed not in port.fixed_ips:
        raise BadFloatingIpRequest(f"Port {port.id} does not have fixed ip {fixed.ip_address}")
    there = store.at(conn, external_id, port.id, fixed.ip_address)
    if there is not None and (floating is None or there != floating.floating_ip_address):
        raise FloatingIPPortAlreadyAssociated(
            f"Cannot associate floating IP {there if floating is None else floating.floating_ip_address} "
            f"({floating_id}) with port {port.id} using fixed IP {fixed.ip_address}, as that fixed IP "
            f"already has a floating IP on external network {external_id}."
        )
    return Target(port, fixed.ip_address, router_id)


def router_out(conn: sa.Connection, external_id: str, subnet_id: str, left: str | None) -> str | None:
    """The router from the external network to the subnet; None: none, or not any more. It is locked, with the
    one that is ``left``."""
    router_id = router_store.leading_out(conn, external_id, subnet_id)
    lock_routers(conn, left, router_id)
    stays = router_id is not None and router_store.leading_out(conn, external_id, subnet_id) == router_id
    return router_id if stays else None


def lock_routers(conn: sa.Connection, *router_ids: str | None) -> None:
    for router_id in sorted({router_id for router_id in router_ids if router_id is not None}):
        router_store.get(conn, router_id, None, for_update=True)


def _fixed(port: Port, wanted: str | None) -> FixedIp:
    """The port's address that is meant."""
    if wanted is not None:
        ip = str(addressing.parse_address(wanted, "fixed_ip_address", 4))
        for fixed in port.fixed_ips:
            if fixed.ip_address == ip:
                return fixed
        raise BadFloatingIpRequest(f"Port {port.id} does not have fixed ip {ip}")
    four = [fixed for fixed in port.fixed_ips if ":" not in fixed.ip_address]
    if not four:
        raise BadFloatingIpRequest(
            f"Cannot add floating IP to port {port.id} that has no fixed IPv4 addresses"
        )
    if len(four) > 1:
        raise BadFloatingIpRequest(
            f"Port {port.id} has multiple fixed IPv4 addresses.  Must provide a specific IPv4 address when "
            "assigning a floating IP"
        )
    return four[0]
