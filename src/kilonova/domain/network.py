"""What a host must know of a network to plug a guest into it."""

from __future__ import annotations

import msgspec


class HostRoute(msgspec.Struct, frozen=True, kw_only=True):
    destination: str
    nexthop: str


class VifSubnet(msgspec.Struct, frozen=True, kw_only=True):
    """A subnet as a host sees it. ``dhcp_address`` is the address that the DHCP server of it uses."""

    id: str
    cidr: str
    ip_version: int = 4
    gateway_ip: str | None = None
    enable_dhcp: bool = True
    dns_nameservers: list[str] = []
    host_routes: list[HostRoute] = []
    dhcp_address: str | None = None


class VifAddress(msgspec.Struct, frozen=True, kw_only=True):
    ip: str
    subnet: VifSubnet


class AddressPair(msgspec.Struct, frozen=True, kw_only=True):
    ip_address: str
    mac_address: str | None = None


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
    preserve_on_delete: bool = False
    """A port the user made: it outlives the server."""
    server_id: str | None = None
    hostname: str | None = None
    """The name that DHCP hands out."""
    tag: str | None = None

    @property
    def tap(self) -> str:
        return f"tap{self.port_id[:11]}"

    @property
    def bridge(self) -> str:
        return f"brq{self.network_id[:11]}"
