"""What a host must know of a network to plug a guest into it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from kilonova.domain.dhcp_options import DhcpOption
from kilonova.domain.security_groups import Filter

PlugKind = Literal["bridge", "ovs-hybrid", "ovs"]
"""How a host joins guests to their networks (``[network] plug``)."""


INTEGRATION_BRIDGE = "br-int"
"""Open vSwitch's bridge that guests are joined to (Neutron's name)."""


MAX_VNI = (1 << 24) - 1
"""The greatest VXLAN identifier (RFC 7348); 0 is nobody's."""


VXLAN_OVERHEAD = 50
"""Octets that a tunnel over IPv4 takes of each packet: IP 20, UDP 8, VXLAN 8, the frame's own header 14."""


class HostRoute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    destination: str
    nexthop: str


class Ipv6Modes:
    """Of a subnet: ``slaac``, ``dhcpv6-stateless`` or ``dhcpv6-stateful``; None: neither, or IPv4."""

    __slots__ = ()
    ipv6_ra_mode: str | None
    ipv6_address_mode: str | None

    @property
    def automatic(self) -> bool:
        """Whether each NIC has one address there, which comes of its MAC."""
        return bool({self.ipv6_ra_mode, self.ipv6_address_mode} & {"slaac", "dhcpv6-stateless"})


class VifSubnet(msgspec.Struct, Ipv6Modes, frozen=True, kw_only=True):
    """A subnet as a host sees it. ``dhcp_address`` is the address that the DHCP server of it uses."""

    id: str
    cidr: str
    ip_version: int = 4
    gateway_ip: str | None = None
    enable_dhcp: bool = True
    dns_nameservers: list[str] = []
    host_routes: list[HostRoute] = []
    dhcp_address: str | None = None
    ipv6_ra_mode: str | None = None
    ipv6_address_mode: str | None = None


class VifAddress(msgspec.Struct, frozen=True, kw_only=True):
    ip: str
    subnet: VifSubnet


class AddressPair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ip_address: str
    mac_address: str | None = None


def tap_name(port_id: str) -> str:
    """At most 15 characters, as Linux demands."""
    return f"tap{port_id[:11]}"


class Vif(msgspec.Struct, frozen=True, kw_only=True):
    """One NIC of a server: a port of a network, ready to be plugged.

    Device names come from the UUIDs (invariant 5), at most 15 characters as Linux demands.
    """

    port_id: str
    network_id: str
    network_name: str = ""
    mac: str
    mtu: int = 1500
    addresses: list[VifAddress] = []
    port_security: bool = True
    allowed_address_pairs: list[AddressPair] = []
    security_groups: list[str] | None = None
    """None: of a conductor that knows none; what goes in and out is not looked at then."""
    server_id: str | None = None
    hostname: str | None = None
    """The name that DHCP hands out."""
    tag: str | None = None
    floating_ips: dict[str, list[str]] = {}
    """Address → the floating ones that lead to it. Hosts need not know: they are in the router's state."""
    admin_state_up: bool = True
    """Whether the guest's link is up."""
    extra_dhcp_opts: list[DhcpOption] = []
    """What DHCP tells this NIC beside, or instead of, what it tells all of the subnet."""

    @property
    def wiring(self) -> Vif:
        """Without what its host asks for by itself (NetworkState) and what it need not know: two of these are
        equal if the one needs no other plug() than the other."""
        return msgspec.structs.replace(
            self, port_security=True, allowed_address_pairs=[], security_groups=None, floating_ips={}
        )

    @property
    def tap(self) -> str:
        return tap_name(self.port_id)

    @property
    def bridge(self) -> str:
        return f"brq{self.network_id[:11]}"


class PortSecurity(msgspec.Struct, frozen=True, kw_only=True):
    """What may change of a port while it is plugged."""

    port_id: str
    port_security: bool
    allowed_address_pairs: list[AddressPair] = []
    security_groups: list[str] = []


class NetworkTunnel(msgspec.Struct, frozen=True, kw_only=True):
    """What joins a host's part of a network to the other hosts that have a part of it."""

    segmentation_id: int
    peers: list[str] = []
    """The addresses at which these take tunnels, sorted; none: the network is on this host alone."""


class NetworkState(msgspec.Struct, frozen=True, kw_only=True):
    """What a host must know beside its vifs, as it was when it was read."""

    ports: list[PortSecurity] = []
    groups: dict[str, list[Filter]] = {}
    """Group id → its rules, of the groups that these ports are in."""
    members: dict[str, list[str]] = {}
    """Group id → addresses and ranges of all ports in it, of the groups that those rules name."""
    tunnels: dict[str, NetworkTunnel] = {}
    """Network id → its tunnel, of the networks of these ports and those that were asked for."""


def binding_of(plug: PlugKind, network_id: str) -> tuple[str, dict[str, Any]]:
    """Neutron's ``binding:vif_type`` and ``binding:vif_details`` of a port that is plugged so.

    ``port_filter``: its host enforces security groups, as all of them do.
    """
    common = {"connectivity": "l2", "port_filter": True}
    if plug == "bridge":
        return "bridge", common | {"bridge_name": f"brq{network_id[:11]}"}
    return "ovs", common | {"bridge_name": INTEGRATION_BRIDGE, "ovs_hybrid_plug": plug == "ovs-hybrid"}


EXTERNAL_PHYSICAL_NETWORK = "external"
"""What external networks are on ([network] external_interface, or the routers' hosts themselves)."""


def provider_of(external: bool, segmentation_id: int | None) -> dict[str, Any]:
    """Neutron's provider attributes: how a network is carried."""
    values = ("flat", EXTERNAL_PHYSICAL_NETWORK, None) if external else ("vxlan", None, segmentation_id)
    names = ("network_type", "physical_network", "segmentation_id")
    return {f"provider:{name}": value for name, value in zip(names, values, strict=True)}


class Pool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Addresses that a subnet may give out, both ends included."""

    start: str
    end: str


class FixedIp(msgspec.Struct, frozen=True, kw_only=True):
    subnet_id: str
    ip_address: str


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A network as Neutron's API knows it."""

    id: str
    project_id: str
    name: str
    description: str
    admin_state_up: bool
    shared: bool
    mtu: int
    port_security_enabled: bool
    external: bool | None = None
    """Leads to the outside: routers have their gateways on it, floating IPs are of it. None: no."""
    external_restricted: bool | None = None
    """It does so for the projects alone that a policy names. None: no."""
    is_default: bool | None = None
    """Auto-allocated topologies lead there. None: no."""
    segmentation_id: int | None = None
    """Its VXLAN identifier, of no other network. None: of a release without them; no host has asked yet."""
    revision_number: int = 0
    created_at: float
    updated_at: float


EVERYBODY = "*"
ObjectType = Literal["network", "security_group", "address_group"]
"""What RBAC policies are about."""
SHARED, EXTERNAL = "access_as_shared", "access_as_external"


class RbacPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A network, a security group or an address group is shared with a project (or EVERYBODY), or a network
    leads it outside: SHARED or EXTERNAL."""

    id: str
    project_id: str
    object_type: ObjectType
    object_id: str
    action: str
    target_tenant: str


class Subnet(msgspec.Struct, Ipv6Modes, frozen=True, kw_only=True):
    """A subnet as Neutron's API knows it. ``next_number``: where the search for a free address begins."""

    id: str
    network_id: str
    project_id: str
    name: str
    description: str
    cidr: str
    ip_version: int
    gateway_ip: str | None
    enable_dhcp: bool
    dns_nameservers: list[str]
    host_routes: list[HostRoute]
    allocation_pools: list[Pool]
    next_number: int
    revision_number: int = 0
    created_at: float
    updated_at: float
    ipv6_ra_mode: str | None = None
    ipv6_address_mode: str | None = None
    dhcp_address: str | None = None
    subnetpool_id: str | None = None
    service_types: list[str] | None = None
    """Device owners whose ports alone get addresses of it unasked; None: everybody's."""

    def serves(self, device_owner: str) -> bool:
        return not self.service_types or device_owner in self.service_types


class SubnetPool(msgspec.Struct, frozen=True, kw_only=True):
    """Ranges that subnets take their CIDRs of. ``default_quota``: what those of one project may take in all:
    addresses of IPv4, /64s of IPv6; None: as much as there is."""

    id: str
    project_id: str
    name: str
    description: str
    ip_version: int
    prefixes: list[str]
    min_prefixlen: int
    max_prefixlen: int
    default_prefixlen: int
    default_quota: int | None
    shared: bool
    is_default: bool
    revision_number: int = 0
    created_at: float
    updated_at: float


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """A port as Neutron's API knows it, and what binds it to a server's NIC.

    ``nic`` is None unless a build holds the port; a ``device_id`` alone is only what a user wrote.
    """

    id: str
    network_id: str
    project_id: str
    name: str = ""
    description: str = ""
    mac_address: str
    admin_state_up: bool = True
    port_security_enabled: bool = True
    allowed_address_pairs: list[AddressPair] = []
    status: str = "DOWN"
    device_id: str = ""
    device_owner: str = ""
    dns_name: str = ""
    host: str = ""
    vnic_type: str = "normal"
    profile: dict[str, Any] = {}
    nic: int | None = None
    nic_tag: str | None = None
    server_hostname: str | None = None
    made_by_build: bool = False
    has_groups: bool | None = None
    """None: of a release that knew no security groups, so that its project's default group is meant."""
    extra_dhcp_opts: list[DhcpOption] | None = None
    revision_number: int = 0
    created_at: float
    updated_at: float
    fixed_ips: list[FixedIp] = []
    security_groups: list[str] = []
