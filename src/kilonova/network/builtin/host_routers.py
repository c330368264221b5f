"""What routers mean for one host: read out of the records, in a constant number of statements."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.domain.network import Port, Subnet
from kilonova.domain.routers import (
    ExternalSubnet,
    FloatingIp,
    HostRouters,
    Router,
    RouterAddress,
    RouterFloatingIp,
    RouterForwarding,
    RouterGateway,
    RouterInterface,
    RouterState,
)
from kilonova.store import floating_ips, ports
from kilonova.store import routers as store
from kilonova.store import subnets as subnet_store


def of_host(conn: sa.Connection, host: str) -> HostRouters:
    """The routers on it that are up, and which gateways are routers' on the networks that it serves.

    A router that is down keeps its gateways' addresses: nobody leads out in its place.
    """
    here = [router for router in store.on_host(conn, host) if router.admin_state_up]
    ids = [router.id for router in here]
    interfaces = store.interfaces(conn, ids)
    gateways = store.gateways(conn, here)
    several = [*interfaces, *gateways.values()]
    network_ids = sorted({port.network_id for port in several})
    known = _Known(
        mtus=store.networks_of(conn, network_ids),
        subnets=subnet_store.of_networks(conn, network_ids),
        floating=floating_ips.of_routers(conn, ids),
    )
    served = {*ports.networks_on(conn, host), *(port.network_id for port in interfaces)}
    return HostRouters(
        routers=[
            known.state(router, [p for p in interfaces if p.device_id == router.id], gateways.get(router.id))
            for router in here
        ],
        gateways=store.routed_gateways(conn, sorted(served)),
    )


class _Known:
    """What the ports of all routers of a host refer to."""

    def __init__(
        self, mtus: dict[str, int], subnets: dict[str, list[Subnet]], floating: Sequence[FloatingIp]
    ) -> None:
        self._mtus = mtus
        self._subnets = subnets
        self._floating = floating

    def state(self, router: Router, interfaces: Sequence[Port], gateway: Port | None) -> RouterState:
        floating = [one for one in self._floating if one.router_id == router.id]
        return RouterState(
            id=router.id,
            interfaces=[self._interface(port) for port in interfaces],
            gateway=self._gateway(router, gateway) if gateway else None,
            floating_ips=[
                RouterFloatingIp(floating_ip=one.floating_ip_address, fixed_ip=one.fixed_ip_address)
                for one in floating
                if one.fixed_ip_address is not None
            ],
            forwardings=[
                RouterForwarding(
                    floating_ip=one.floating_ip_address,
                    fixed_ip=forwarding.fixed_ip_address,
                    protocol=forwarding.protocol,
                    external_first=forwarding.external_first,
                    external_last=forwarding.external_last,
                    internal_first=forwarding.internal_first,
                    internal_last=forwarding.internal_last,
                )
                for one in floating
                for forwarding in one.forwardings
            ],
            routes=router.routes,
        )

    def _interface(self, port: Port) -> RouterInterface:
        return RouterInterface(
            port_id=port.id,
            network_id=port.network_id,
            mac=port.mac_address,
            mtu=self._mtus[port.network_id],
            addresses=self._addresses(port),
        )

    def _gateway(self, router: Router, port: Port) -> RouterGateway:
        return RouterGateway(
            port_id=port.id,
            network_id=port.network_id,
            mac=port.mac_address,
            mtu=self._mtus[port.network_id],
            addresses=self._addresses(port),
            subnets=[
                ExternalSubnet(cidr=subnet.cidr, gateway_ip=subnet.gateway_ip)
                for subnet in self._subnets.get(port.network_id, [])
            ],
            enable_snat=router.enable_snat,
        )

    def _addresses(self, port: Port) -> list[RouterAddress]:
        """The router advertises where it is the subnet's gateway: at another address it may be the router of
        anybody with whom the network is shared."""
        subnets = {subnet.id: subnet for subnet in self._subnets.get(port.network_id, [])}
        return [
            RouterAddress(
                ip=one.ip_address,
                cidr=subnet.cidr,
                ra_mode=subnet.ipv6_ra_mode if one.ip_address == subnet.gateway_ip else None,
            )
            for one in port.fixed_ips
            for subnet in [subnets[one.subnet_id]]
        ]
