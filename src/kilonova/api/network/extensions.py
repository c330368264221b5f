"""The extensions of Neutron's API that are really here. A client decides by this list what to offer."""

from __future__ import annotations

from typing import Any

from kilonova.api.http import Reply, Request
from kilonova.domain.errors import NotFound

_EXTENSIONS = {
    "address-group": ("Address group", "Addresses that rules of security groups name together"),
    "address-groups-shared-filtering": ("Address group filtering on the shared field", "shared"),
    "agent": ("agent", "What hosts do of what Neutron has agents for, for admins"),
    "allowed-address-pairs": ("Allowed Address Pairs", "Addresses that a port may use beside its own"),
    "auto-allocated-topology": ("Auto Allocated Topology Services", "A network with a way out, on demand"),
    "availability_zone": ("Availability Zone", "The zones of the hosts"),
    "binding": ("Port Binding", "The host that a port is plugged on, and how, for admins"),
    "empty-string-filtering": ("Empty String Filtering", "A filter with an empty value finds empty values"),
    "default-subnetpools": ("Default Subnetpools", "The pool for who names none"),
    "ext-gw-mode": ("Neutron L3 Configurable external gateway mode", "SNAT of a router can be switched off"),
    "external-net": ("Neutron external network", "Networks that lead outside"),
    "extra_dhcp_opt": ("Neutron Extra DHCP options", "What DHCP tells a single port, of IPv4"),
    "extraroute": ("Neutron Extra Route", "Routes of a router beside its own networks"),
    "extraroute-atomic": ("Atomically add/remove extra routes", "Some routes more, or fewer"),
    "filter-validation": ("Filter Validation", "An unknown filter is refused"),
    "expose-port-forwarding-in-fip": ("Expose Floating IP port forwardings", "port_forwardings"),
    "floating-ip-port-forwarding": ("Floating IP Port Forwarding", "Ports of a floating IP that lead inside"),
    "floating-ip-port-forwarding-description": (
        "Floating IP Port Forwarding new attribute description",
        "Descriptions of port forwardings",
    ),
    "floating-ip-port-forwarding-detail": (
        "Floating IP port forwarding detail",
        "Floating IPs show the ids of their forwardings",
    ),
    "floating-ip-port-forwarding-port-ranges": (
        "Floating IP Port Forwarding support port ranges",
        "Ranges of ports that lead inside",
    ),
    "fip-port-details": ("Floating IP Port Details Extension", "The port that a floating IP leads to"),
    "ip-substring-filtering": ("IP address substring filtering", "Ports by a part of their address"),
    "net-mtu": ("Network MTU", "The MTU of a network"),
    "net-mtu-writable": ("Network MTU (writable)", "The MTU of a network can be set"),
    "network-ip-availability": ("Network IP Availability", "How many addresses of a network are given"),
    "pagination": ("Pagination support", "limit, marker and page_reverse"),
    "port-security": ("Port Security", "Anti-spoofing can be switched off"),
    "port-security-groups-filtering": ("Port filtering on security groups", "Ports by their groups"),
    "project-id": ("project_id field enabled", "project_id beside tenant_id"),
    "provider": ("Provider Network", "How a network is carried, for admins"),
    "quota-check-limit": ("Quota check limit", "A limit below what is used can be refused"),
    "quota_details": ("Quota details", "What a project uses of its quota"),
    "quotas": ("Quota management support", "Limits for each project"),
    "security-group": ("security-group", "Security groups and their rules"),
    "security-groups-remote-address-group": (
        "Remote address group id field for security group rules",
        "remote_address_group_id",
    ),
    "security-groups-default-rules": (
        "Default rules for security groups",
        "The rules that groups are made with",
    ),
    "security-groups-shared-filtering": ("Security group filtering on the shared field", "shared"),
    "security-groups-normalized-cidr": ("Normalized CIDR field for security group rules", "normalized_cidr"),
    "security-groups-rules-belongs-to-default-sg": (
        "Security group rules belong to the project's default security group",
        "belongs_to_default_sg",
    ),
    "rbac-address-group": ("Add address_group type to RBAC", "Address groups shared with projects"),
    "rbac-policies": ("RBAC Policies", "Networks shared with some projects"),
    "rbac-security-groups": (
        "Add security_group type to network RBAC",
        "Security groups shared with projects",
    ),
    "revision-if-match": (
        "If-Match constraints based on revision_number",
        "Changes of what nobody changed since",
    ),
    "router_availability_zone": ("Router Availability Zone", "Routers in the zones that were asked for"),
    "router": ("Neutron L3 Router", "Routers between networks and to the outside, floating IPs"),
    "service-type": ("Neutron Service Type Management", "Who provides routers"),
    "sorting": ("Sorting support", "sort_key and sort_dir"),
    "standard-attr-description": ("standard-attr-description", "Descriptions"),
    "standard-attr-revisions": ("Resource revision numbers", "Every change counts a revision"),
    "standard-attr-tag": ("Tag support for resources with standard attribute", "Tags"),
    "subnet_allocation": ("Subnet Allocation", "Subnet pools"),
    "subnet-service-types": ("Subnet service types", "Subnets for ports of some device owners"),
    "standard-attr-timestamp": ("Resource timestamps", "created_at, updated_at and changed_since"),
    "tag-creation": ("Tag creation", "Tags are added by POST"),
}


def index(_network: Any, _request: Request) -> Reply:
    return Reply(body={"extensions": [_view(alias) for alias in _EXTENSIONS]})


def show(_network: Any, _request: Request, alias: str) -> Reply:
    if alias not in _EXTENSIONS:
        raise NotFound(f"Extension with alias {alias} does not exist")
    return Reply(body={"extension": _view(alias)})


def _view(alias: str) -> dict[str, Any]:
    name, description = _EXTENSIONS[alias]
    return {
        "alias": alias,
        "name": name,
        "description": description,
        "updated": "2026-11-01T00:00:00-00:00",
        "links": [],
    }
