"""Routers and floating IPs: as Neutron's API knows them, and what a host must know to be a router."""

from __future__ import annotations

import msgspec

from kilonova.domain.network import HostRoute, Port

INTERFACE_OWNER = "network:router_interface"
GATEWAY_OWNER = "network:router_gateway"
ROUTER_OWNERS = (INTERFACE_OWNER, GATEWAY_OWNER)
FLOATING_OWNER = "network:floatingip"


class Router(msgspec.Struct, frozen=True, kw_only=True):
    """``host``: the one that it is on; empty as long as it has no port, or no host is up."""

    id: str
    project_id: str
    name: str
    description: str
    admin_state_up: bool = True
    enable_snat: bool = True
    gateway_port_id: str | None = None
    routes: list[HostRoute] = []
    host: str = ""
    availability_zone_hints: list[str] | None = None
    """The zones that its host may be in. None or empty: any."""
    revision_number: int = 0
    created_at: float
    updated_at: float


class PortForwarding(msgspec.Struct, frozen=True, kw_only=True):
    """Ports of a floating IP that lead to an address of the port ``port_id``: each to its own, or all of them
    to one. ``…_last`` is one of them too."""

    id: str
    floating_ip_id: str
    port_id: str
    fixed_ip_address: str
    protocol: str
    external_first: int
    external_last: int
    internal_first: int
    internal_last: int
    description: str = ""


class FloatingIp(msgspec.Struct, frozen=True, kw_only=True):
    """An address of an external network. ``floating_port_id`` is the service's own port, which holds it;
    ``fixed_port_id`` the port that it leads to, through that router. One with forwardings leads to no port
    as a whole."""

    id: str
    project_id: str
    description: str
    floating_network_id: str
    floating_ip_address: str
    floating_port_id: str
    fixed_port_id: str | None = None
    fixed_ip_address: str | None = None
    router_id: str | None = None
    revision_number: int = 0
    created_at: float
    updated_at: float
    is_led: bool = False
    """The router of ``router_id`` is up, and a host has made it."""
    port: Port | None = None
    """The port of ``fixed_port_id``."""
    forwardings: list[PortForwarding] = []

    @property
    def leads(self) -> bool:
        """It leads somewhere, as a whole or by some of its ports."""
        return self.fixed_port_id is not None or bool(self.forwardings)

    @property
    def status(self) -> str:
        """ACTIVE: it leads somewhere, through a router that works."""
        return "ACTIVE" if self.leads and self.is_led else "DOWN"


# What hosts are told
class RouterAddress(msgspec.Struct, frozen=True, kw_only=True):
    ip: str
    cidr: str
    """Of the subnet that the address is of."""
    ra_mode: str | None = None
    """What is advertised of it (``ipv6_ra_mode``); None: nothing."""


class RouterInterface(msgspec.Struct, frozen=True, kw_only=True):
    """A port of the router on a network of the project's."""

    port_id: str
    network_id: str
    mac: str
    mtu: int = 1500
    addresses: list[RouterAddress]


class ExternalSubnet(msgspec.Struct, frozen=True, kw_only=True):
    cidr: str
    gateway_ip: str | None = None


class RouterGateway(msgspec.Struct, frozen=True, kw_only=True):
    """The router's port on an external network. ``subnets``: all of that network."""

    port_id: str
    network_id: str
    mac: str
    mtu: int = 1500
    addresses: list[RouterAddress]
    subnets: list[ExternalSubnet]
    enable_snat: bool = True


class RouterFloatingIp(msgspec.Struct, frozen=True, kw_only=True):
    floating_ip: str
    fixed_ip: str


class RouterForwarding(msgspec.Struct, frozen=True, kw_only=True):
    """As PortForwarding."""

    floating_ip: str
    fixed_ip: str
    protocol: str
    external_first: int
    external_last: int
    internal_first: int
    internal_last: int


class RouterState(msgspec.Struct, frozen=True, kw_only=True):
    """All that the host of a router must know of it."""

    id: str
    interfaces: list[RouterInterface] = []
    gateway: RouterGateway | None = None
    floating_ips: list[RouterFloatingIp] = []
    forwardings: list[RouterForwarding] = []
    routes: list[HostRoute] = []


class HostRouters(msgspec.Struct, frozen=True, kw_only=True):
    """What routers mean for one host."""

    routers: list[RouterState] = []
    """Those that are on it, and up."""
    gateways: dict[str, list[str]] = {}
    """Network id → addresses of gateways that are a router's, wherever it is: nobody else may have them."""

    @property
    def networks(self) -> set[str]:
        """Those that its routers join: each is on the host, with or without guests."""
        return {interface.network_id for router in self.routers for interface in router.interfaces}
