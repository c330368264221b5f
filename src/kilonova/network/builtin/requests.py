"""What a caller may ask of networks, subnets and ports: the bodies of Neutron's API.

UNSET is "not said", which is not the same as null. What is not offered yet is named here too, so that
its refusal can say why.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kilonova.domain.dhcp_options import DhcpOption
from kilonova.domain.network import MAX_VNI, AddressPair, HostRoute, Pool

Text = Annotated[str, Meta(max_length=255, pattern=r"\A[^\x00]*\Z")]
Project = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\A[^\x00]*\Z")]
Address = Annotated[str, Meta(max_length=64)]
Mac = Annotated[str, Meta(pattern=r"\A[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}\Z")]
DnsName = Annotated[str, Meta(pattern=r"\A([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)?\Z")]
Vni = Annotated[int, Meta(ge=1, le=MAX_VNI)]
PrefixLength = Annotated[int, Meta(ge=0, le=128)]
Mtu = Annotated[int, Meta(ge=0, le=65535)]


Ipv6Mode = str | UnsetType | None
"""``slaac``, ``dhcpv6-stateless``, ``dhcpv6-stateful``; null: none."""


class NetworkUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Text | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET
    shared: bool | UnsetType = UNSET
    mtu: Mtu | UnsetType = UNSET
    port_security_enabled: bool | UnsetType = UNSET
    is_default: bool | UnsetType = UNSET
    router_external: bool | UnsetType = msgspec.field(default=UNSET, name="router:external")
    provider_network_type: Text | UnsetType | None = msgspec.field(
        default=UNSET, name="provider:network_type"
    )
    provider_physical_network: Text | UnsetType | None = msgspec.field(
        default=UNSET, name="provider:physical_network"
    )
    provider_segmentation_id: Vni | UnsetType | None = msgspec.field(
        default=UNSET, name="provider:segmentation_id"
    )


class NetworkCreate(NetworkUpdate, frozen=True, kw_only=True):
    project_id: Project | UnsetType = UNSET
    tenant_id: Project | UnsetType = UNSET
    availability_zone_hints: list[str] | UnsetType = UNSET


class SubnetUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Text | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    gateway_ip: Address | UnsetType | None = UNSET
    enable_dhcp: bool | UnsetType = UNSET
    dns_nameservers: Annotated[list[Address], Meta(max_length=5)] | UnsetType | None = UNSET
    host_routes: Annotated[list[HostRoute], Meta(max_length=20)] | UnsetType | None = UNSET
    allocation_pools: Annotated[list[Pool], Meta(max_length=64)] | UnsetType = UNSET
    service_types: Annotated[list[Text], Meta(max_length=64)] | UnsetType | None = UNSET


class SubnetCreate(SubnetUpdate, frozen=True, kw_only=True):
    network_id: Text
    cidr: Address | UnsetType = UNSET
    ip_version: int = 4
    project_id: Project | UnsetType = UNSET
    tenant_id: Project | UnsetType = UNSET
    ipv6_ra_mode: Ipv6Mode = UNSET
    ipv6_address_mode: Ipv6Mode = UNSET
    subnetpool_id: str | UnsetType | None = UNSET
    prefixlen: PrefixLength | UnsetType = UNSET
    use_default_subnetpool: bool | UnsetType = UNSET


class SubnetPoolUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Text | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    prefixes: Annotated[list[Address], Meta(max_length=1000)] | UnsetType = UNSET
    min_prefixlen: PrefixLength | UnsetType = UNSET
    max_prefixlen: PrefixLength | UnsetType = UNSET
    default_prefixlen: PrefixLength | UnsetType = UNSET
    default_quota: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] | UnsetType | None = UNSET
    is_default: bool | UnsetType = UNSET
    address_scope_id: Text | UnsetType | None = UNSET


class SubnetPoolCreate(SubnetPoolUpdate, frozen=True, kw_only=True):
    shared: bool | UnsetType = UNSET
    project_id: Project | UnsetType = UNSET
    tenant_id: Project | UnsetType = UNSET


class FixedIpRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    subnet_id: Text | None = None
    ip_address: Address | None = None


class PortUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Text | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET
    device_id: Text | UnsetType = UNSET
    device_owner: Text | UnsetType = UNSET
    mac_address: Mac | UnsetType = UNSET
    fixed_ips: Annotated[list[FixedIpRequest], Meta(max_length=32)] | UnsetType = UNSET
    port_security_enabled: bool | UnsetType = UNSET
    allowed_address_pairs: Annotated[list[AddressPair], Meta(max_length=10)] | UnsetType = UNSET
    dns_name: DnsName | UnsetType = UNSET
    extra_dhcp_opts: Annotated[list[DhcpOption], Meta(max_length=32)] | UnsetType | None = UNSET
    security_groups: Annotated[list[Text], Meta(max_length=64)] | UnsetType | None = UNSET
    binding_host_id: Text | UnsetType | None = msgspec.field(default=UNSET, name="binding:host_id")
    binding_vnic_type: str | UnsetType = msgspec.field(default=UNSET, name="binding:vnic_type")
    binding_profile: dict[str, Any] | UnsetType | None = msgspec.field(default=UNSET, name="binding:profile")


class PortCreate(PortUpdate, frozen=True, kw_only=True):
    network_id: Text
    project_id: Project | UnsetType = UNSET
    tenant_id: Project | UnsetType = UNSET


class SecurityGroupUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Text | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    stateful: bool | UnsetType = UNSET


class SecurityGroupCreate(SecurityGroupUpdate, frozen=True, kw_only=True):
    project_id: Project | UnsetType = UNSET
    tenant_id: Project | UnsetType = UNSET


Addresses = Annotated[list[Address], Meta(max_length=1000)]


class AddressGroupUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Text | UnsetType = UNSET
    description: Text | UnsetType = UNSET


class AddressGroupCreate(AddressGroupUpdate, frozen=True, kw_only=True):
    addresses: Addresses | UnsetType | None = UNSET
    project_id: Project | UnsetType = UNSET
    tenant_id: Project | UnsetType = UNSET


class AddressesRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of add_addresses and remove_addresses."""

    addresses: Addresses


class SecurityGroupRuleUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule is made and deleted, never another one."""

    description: Text | UnsetType | None = UNSET


class SecurityGroupRuleCreate(SecurityGroupRuleUpdate, frozen=True, kw_only=True):
    security_group_id: Text
    direction: Literal["ingress", "egress"]
    ethertype: str | None = None
    protocol: str | int | None = None
    port_range_min: int | None = None
    port_range_max: int | None = None
    remote_ip_prefix: Address | None = None
    remote_group_id: Text | None = None
    remote_address_group_id: Text | None = None
    project_id: Project | UnsetType = UNSET
    tenant_id: Project | UnsetType = UNSET


class DefaultRuleCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    direction: Literal["ingress", "egress"]
    ethertype: str | None = None
    protocol: str | int | None = None
    port_range_min: int | None = None
    port_range_max: int | None = None
    remote_ip_prefix: Address | None = None
    remote_group_id: Text | None = None
    remote_address_group_id: Text | None = None
    description: Text | None = None
    used_in_default_sg: bool = False
    used_in_non_default_sg: bool = True
    tenant_id: Project | UnsetType = UNSET
    """Neutron takes one, and it means nothing: the rule is for all projects."""


class RbacUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    target_tenant: Project


class RbacCreate(RbacUpdate, frozen=True, kw_only=True):
    object_type: Text
    object_id: Text
    action: Text
    project_id: Project | UnsetType = UNSET
    tenant_id: Project | UnsetType = UNSET


def said(body: msgspec.Struct, *names: str) -> dict[str, Any]:
    """Those of the named fields that the caller set."""
    values = ((name, getattr(body, name)) for name in names)
    return {name: value for name, value in values if value is not UNSET}
