"""What a caller may ask of routers and floating IPs: the bodies of Neutron's API. UNSET is "not said"."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kilonova.domain.network import HostRoute
from kilonova.network.builtin.requests import Address, FixedIpRequest, Project, Text

Routes = Annotated[list[HostRoute], Meta(max_length=1000)]


class ExternalGatewayInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Without a network: no gateway."""

    network_id: Text | None = None
    enable_snat: bool | UnsetType = UNSET
    external_fixed_ips: Annotated[list[FixedIpRequest], Meta(max_length=5)] | UnsetType = UNSET


class RouterUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Text | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET
    external_gateway_info: ExternalGatewayInfo | UnsetType | None = UNSET
    routes: Routes | UnsetType | None = UNSET
    ha: bool | UnsetType | None = UNSET
    distributed: bool | UnsetType | None = UNSET


class RouterCreate(RouterUpdate, frozen=True, kw_only=True):
    project_id: Project | UnsetType = UNSET
    tenant_id: Project | UnsetType = UNSET
    availability_zone_hints: Annotated[list[Text], Meta(max_length=10)] | UnsetType = UNSET


class InterfaceRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of add_router_interface and remove_router_interface."""

    subnet_id: Text | None = None
    port_id: Text | None = None


class ExtraRoutes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    routes: Routes


class FloatingIpUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    description: Text | UnsetType = UNSET
    port_id: Text | UnsetType | None = UNSET
    fixed_ip_address: Address | UnsetType | None = UNSET


class FloatingIpCreate(FloatingIpUpdate, frozen=True, kw_only=True):
    floating_network_id: Text
    floating_ip_address: Address | UnsetType | None = UNSET
    subnet_id: Text | UnsetType | None = UNSET
    project_id: Project | UnsetType = UNSET
    tenant_id: Project | UnsetType = UNSET


PortNumber = Annotated[int, Meta(ge=1, le=65535)]
PortRange = Annotated[str, Meta(max_length=11)] | int


class PortForwardingUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A port is said by itself or as a range (``80:90``)."""

    internal_port_id: Text | UnsetType = UNSET
    internal_ip_address: Address | UnsetType | None = UNSET
    internal_port: PortNumber | UnsetType | None = UNSET
    internal_port_range: PortRange | UnsetType | None = UNSET
    external_port: PortNumber | UnsetType | None = UNSET
    external_port_range: PortRange | UnsetType | None = UNSET
    protocol: Text | UnsetType = UNSET
    description: Text | UnsetType = UNSET


class PortForwardingCreate(PortForwardingUpdate, frozen=True, kw_only=True):
    internal_port_id: Text
    protocol: Text
