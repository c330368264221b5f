"""What a router is on its host, as plain data worked out of its state. Pure: nothing looks at the host."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_interface

import msgspec

from kilonova.domain.addresses import parse, parse_network
from kilonova.domain.errors import BuildFailed
from kilonova.domain.routers import RouterForwarding, RouterGateway, RouterInterface, RouterState
from kilonova.network.host import names
from kilonova.network.host.plan import MAC

PROTOCOLS = {"tcp": 6, "udp": 17}
"""Of which ports can be forwarded."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A device of the router's namespace, the end of a veth pair whose other one is ``link`` on the host."""

    name: str
    link: str
    bridge: str | None
    """Of the external network; None: an interface, which the plug joins to its network."""
    network_id: str
    mac: str
    mtu: int
    addresses: list[str]
    """With their prefix lengths."""

    @property
    def ips(self) -> list[str]:
        """Of IPv4: those that are announced."""
        return [str(ip_interface(address).ip) for address in self.addresses if ":" not in address]


class Advert(msgspec.Struct, frozen=True, kw_only=True):
    """A subnet of IPv6 on a device, and the mode that guests of it are told."""

    device: str
    cidr: str
    mode: str


class Route(msgspec.Struct, frozen=True, kw_only=True):
    destination: str
    nexthop: str | None
    """None: on the link of ``device``."""
    device: str | None = None


class RouterPlan(msgspec.Struct, frozen=True, kw_only=True):
    router_id: str
    devices: list[Device]
    """The gateway's last."""
    outside: str | None = None
    """The name of the gateway's device."""
    gateway_ip: str | None = None
    """The address that guests go out with; None: there is no gateway."""
    snat: bool = True
    floating: dict[str, str] = {}
    """Floating address → the fixed one that it leads to."""
    forwardings: list[RouterForwarding] = []
    routes: list[Route] = []
    adverts: list[Advert] = []

    @property
    def inside(self) -> list[str]:
        """Names of the devices that lead to networks of projects."""
        return [device.name for device in self.devices if device.name != self.outside]


def plan(state: RouterState, shared_bridge: str | None = None) -> RouterPlan:
    """``shared_bridge``: that of all external networks, if they are on one interface of the host's."""
    devices = [_inside(interface) for interface in state.interfaces]
    routes = [Route(destination=r.destination, nexthop=r.nexthop) for r in state.routes]
    adverts = [
        Advert(device=names.router_inside(port.port_id), cidr=one.cidr, mode=one.ra_mode)
        for port in state.interfaces
        for one in port.addresses
        if one.ra_mode
    ]
    gateway = state.gateway
    if gateway is None:
        return RouterPlan(router_id=state.id, devices=devices, routes=routes, adverts=adverts)
    floating = {one.floating_ip: one.fixed_ip for one in state.floating_ips}
    forwarded = {one.floating_ip for one in state.forwardings}
    outside = _outside(gateway, sorted(forwarded | set(floating)), shared_bridge)
    return RouterPlan(
        router_id=state.id,
        devices=[*devices, outside],
        outside=outside.name,
        gateway_ip=gateway.addresses[0].ip if gateway.addresses else None,
        snat=gateway.enable_snat,
        floating=floating,
        forwardings=state.forwardings,
        routes=[*_ways_out(gateway, outside.name), *routes],
        adverts=adverts,
    )


def _inside(interface: RouterInterface) -> Device:
    return Device(
        name=names.router_inside(interface.port_id),
        link=names.router_link(interface.port_id),
        bridge=None,
        network_id=interface.network_id,
        mac=interface.mac.lower(),
        mtu=interface.mtu,
        addresses=[f"{one.ip}/{parse_network(one.cidr).prefixlen}" for one in interface.addresses],
    )


def _outside(gateway: RouterGateway, floating: list[str], shared_bridge: str | None) -> Device:
    own = [f"{one.ip}/{IPv4Network(one.cidr).prefixlen}" for one in gateway.addresses]
    return Device(
        name=names.router_gateway(gateway.port_id),
        link=names.router_link(gateway.port_id),
        bridge=shared_bridge or names.external(gateway.network_id),
        network_id=gateway.network_id,
        mac=gateway.mac.lower(),
        mtu=gateway.mtu,
        addresses=[*own, *(f"{ip}/32" for ip in floating)],
    )


def _ways_out(gateway: RouterGateway, device: str) -> list[Route]:
    """The default route, by the subnet of the first address; the network's other subnets are on the link."""
    own = [one.cidr for one in gateway.addresses]
    routes = [
        Route(destination=subnet.cidr, nexthop=None, device=device)
        for subnet in gateway.subnets
        if subnet.cidr not in own
    ]
    for cidr in own[:1]:
        routes += [
            Route(destination="0.0.0.0/0", nexthop=subnet.gateway_ip)
            for subnet in gateway.subnets
            if subnet.cidr == cidr and subnet.gateway_ip
        ]
    return routes


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """A tracked connection: who opened it to which address and port, and who answers to which, from which."""

    source: str
    target: str
    answers_from: str
    answers_to: str
    protocol: int = 0
    port: int | None = None
    answers_port: int | None = None


def contradicts(plan: RouterPlan, flow: Flow) -> bool:
    """Whether the connection is translated in a way that the router does not know (any more).

    One that left with the gateway's address may go on when its guest gets a floating IP.
    """
    by_fixed = {fixed: floating for floating, fixed in plan.floating.items()}
    address, port = _led_to(plan, flow)
    if flow.answers_from != address or flow.answers_port != port:
        return True
    if flow.answers_to == flow.source:
        return False
    return flow.answers_to not in (plan.gateway_ip, by_fixed.get(flow.source))


def _led_to(plan: RouterPlan, flow: Flow) -> tuple[str, int | None]:
    """Address and port that the connection would be led to, began it now."""
    if flow.target in plan.floating:
        return plan.floating[flow.target], flow.port
    for one in plan.forwardings:
        if (one.floating_ip, PROTOCOLS[one.protocol]) == (flow.target, flow.protocol) and (
            flow.port is not None and one.external_first <= flow.port <= one.external_last
        ):
            several = one.internal_first != one.internal_last
            return one.fixed_ip, one.internal_first + (flow.port - one.external_first if several else 0)
    return flow.target, flow.port


def check(state: RouterState) -> None:
    """BuildFailed if the state holds what must not come near a name, a rule or a route."""
    names.checked("router", state.id)
    ports: list[RouterInterface | RouterGateway] = [*state.interfaces]
    if state.gateway:
        ports.append(state.gateway)
    try:
        for port in ports:
            names.checked("port", port.port_id)
            names.checked("network", port.network_id)
            if not MAC.fullmatch(port.mac.lower()):
                raise BuildFailed(f"router {state.id}: {port.mac!r} is not a MAC address")
            for address in port.addresses:
                if address.ra_mode not in (None, "slaac", "dhcpv6-stateless", "dhcpv6-stateful"):
                    raise BuildFailed(f"router {state.id}: there is no mode {address.ra_mode!r}")
                if parse(address.ip) not in parse_network(address.cidr):
                    raise BuildFailed(f"router {state.id}: {address.ip} is not in {address.cidr}")
        for subnet in state.gateway.subnets if state.gateway else []:
            IPv4Network(subnet.cidr)
            IPv4Address(subnet.gateway_ip or "0.0.0.0")  # noqa: S104
        for floating in state.floating_ips:
            IPv4Address(floating.floating_ip), IPv4Address(floating.fixed_ip)
        for one in state.forwardings:
            _check_forwarding(one)
        for route in state.routes:
            IPv4Network(route.destination), IPv4Address(route.nexthop)
    except ValueError as error:
        raise BuildFailed(f"router {state.id}: {error}") from error


def _check_forwarding(one: RouterForwarding) -> None:
    """ValueError if it is none."""
    IPv4Address(one.floating_ip), IPv4Address(one.fixed_ip)
    outer, inner = one.external_last - one.external_first, one.internal_last - one.internal_first
    ports = (one.external_first, one.external_last, one.internal_first, one.internal_last)
    if one.protocol not in PROTOCOLS or inner not in (0, outer) or not all(0 < p < 65536 for p in ports):
        raise ValueError(f"ports {ports} of {one.protocol} cannot be forwarded")
