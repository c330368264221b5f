"""What a network needs on this host, as plain data worked out of the ports that are plugged here.

Pure: nothing here looks at the host. The host part compares such a plan with what it finds.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, ip_interface

import msgspec

from kilonova.domain import dhcp_options
from kilonova.domain.addresses import parse as ip_address
from kilonova.domain.addresses import parse_network as ip_network
from kilonova.domain.errors import BuildFailed
from kilonova.domain.network import AddressPair, PortSecurity, Vif, VifSubnet
from kilonova.network.host import names

METADATA_ADDRESS = "169.254.169.254"
DHCPV6_SERVERS = "ff02::1:2"
"""All of a link (RFC 8415, 7.1)."""

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class Transit(msgspec.Struct, frozen=True, kw_only=True):
    """The link between a network's namespace and the host: the two addresses of a /31 (RFC 3021)."""

    host: str
    namespace: str


class NetworkPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One network on this host. ``vifs`` is never empty: a network without ports is not on the host."""

    network_id: str
    vifs: list[Vif]
    transit: Transit | None = None
    """None: no subnet has its gateway here, so there is no way out."""
    implicit_gateway: bool = True
    """Whether a subnet's gateway is here as long as no router has it."""
    routers_gateways: list[str] = []
    """Gateways' addresses that are routers'."""

    @property
    def mtu(self) -> int:
        return min(vif.mtu for vif in self.vifs)

    @property
    def subnets(self) -> list[VifSubnet]:
        """The subnets that the ports here have addresses of, in a stable order."""
        return subnets_of(self.vifs)

    @property
    def addresses(self) -> list[str]:
        """The namespace's own addresses of IPv4 towards the guests, with their prefix lengths.

        The DHCP address first: the server names itself after the first that it finds in the subnet.
        """
        found = []
        for subnet in self.subnets_of_ipv4:
            length = ip_network(subnet.cidr).prefixlen
            found += [f"{ip}/{length}" for ip in (subnet.dhcp_address, self.gateway(subnet)) if ip]
        return [*found, f"{METADATA_ADDRESS}/32"]

    @property
    def addresses6(self) -> list[str]:
        """Of IPv6: those that it advertises the subnets by."""
        served = [subnet for subnet in self.subnets if subnet.ip_version == 6 and subnet.dhcp_address]
        return [f"{subnet.dhcp_address}/{ip_network(subnet.cidr).prefixlen}" for subnet in served]

    @property
    def subnets_of_ipv4(self) -> list[VifSubnet]:
        return [subnet for subnet in self.subnets if subnet.ip_version == 4]

    @property
    def routes_to_guests(self) -> set[str]:
        """Subnets where the namespace has no address that would bring the route: neither DHCP nor gateway."""
        return {s.cidr for s in self.subnets_of_ipv4 if not (s.dhcp_address or self.gateway(s))}

    @property
    def routed(self) -> list[IPv4Network]:
        """The subnets that the host may reach through this network's transit."""
        return [IPv4Network(s.cidr) for s in self.subnets_of_ipv4 if self.gateway(s)]

    def gateway(self, subnet: VifSubnet) -> str | None:
        """The subnet's gateway, if the namespace is it. Of IPv6 only routers are."""
        here = (
            self.implicit_gateway
            and subnet.ip_version == 4
            and subnet.gateway_ip not in self.routers_gateways
        )
        return subnet.gateway_ip if here else None


def subnets_of(vifs: list[Vif]) -> list[VifSubnet]:
    by_id = {address.subnet.id: address.subnet for vif in vifs for address in vif.addresses}
    return [by_id[key] for key in sorted(by_id)]


def transit_link(transit_cidr: str, index: int) -> Transit:
    """The index-th /31 of the range; see transit_count()."""
    base = IPv4Network(transit_cidr).network_address
    return Transit(host=str(base + 2 * index), namespace=str(base + 2 * index + 1))


def transit_count(transit_cidr: str) -> int:
    """How many networks the range holds."""
    return IPv4Network(transit_cidr).num_addresses // 2


def interface(address: str) -> tuple[str, int]:
    """``10.0.0.2/24`` → (``10.0.0.2``, 24)."""
    parsed = ip_interface(address)
    return str(parsed.ip), parsed.network.prefixlen


def check(vif: Vif) -> None:
    """BuildFailed if the vif holds what must not come near a path, a rule or a DHCP file."""
    names.checked("port", vif.port_id)
    names.checked("network", vif.network_id)
    if not MAC.fullmatch(vif.mac.lower()):
        raise BuildFailed(f"port {vif.port_id}: {vif.mac!r} is not a MAC address")
    _check_pairs(vif.port_id, vif.allowed_address_pairs)
    for option in vif.extra_dhcp_opts:
        if why := dhcp_options.problem(option):
            raise BuildFailed(f"port {vif.port_id}: {why}")
    for group in vif.security_groups or ():
        names.checked("security group", group)
    try:
        for address in vif.addresses:
            names.checked("subnet", address.subnet.id)
            _check_subnet(address.subnet)
            if ip_address(address.ip) not in ip_network(address.subnet.cidr):
                raise BuildFailed(f"port {vif.port_id}: {address.ip} is not in {address.subnet.cidr}")
    except ValueError as error:
        raise BuildFailed(f"port {vif.port_id}: {error}") from error


def check_security(port: PortSecurity) -> None:
    """BuildFailed if what may change of a plugged port holds what must not come near a rule."""
    names.checked("port", port.port_id)
    for group in port.security_groups:
        names.checked("security group", group)
    _check_pairs(port.port_id, port.allowed_address_pairs)


def _check_pairs(port_id: str, pairs: list[AddressPair]) -> None:
    for pair in pairs:
        if pair.mac_address and not MAC.fullmatch(pair.mac_address.lower()):
            raise BuildFailed(f"port {port_id}: {pair.mac_address!r} is not a MAC address")
        try:
            ip_network(pair.ip_address, strict=False)
        except ValueError as error:
            raise BuildFailed(f"port {port_id}: {error}") from error


def _check_subnet(subnet: VifSubnet) -> None:
    version = ip_network(subnet.cidr).version
    if subnet.ip_version != version:
        raise BuildFailed(f"subnet {subnet.id}: {subnet.cidr} is not of IPv{subnet.ip_version}")
    for mode in (subnet.ipv6_ra_mode, subnet.ipv6_address_mode):
        if mode not in (None, "slaac", "dhcpv6-stateless", "dhcpv6-stateful"):
            raise BuildFailed(f"subnet {subnet.id}: there is no mode {mode!r}")
    for own in (subnet.gateway_ip, subnet.dhcp_address):
        if own is not None and ip_address(own).version != version:
            raise BuildFailed(f"subnet {subnet.id}: {own} is not of IPv{version}")
    for server in subnet.dns_nameservers:
        ip_address(server)
    for route in subnet.host_routes:
        ip_network(route.destination, strict=False)
        ip_address(route.nexthop)
