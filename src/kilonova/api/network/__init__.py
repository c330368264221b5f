"""The Networking API v2.0 (Neutron's), under /networking: its table of URLs.

What is not in this table is not offered and answers 404: address scopes, QoS.
``extensions`` says the same to a client that asks first.
"""

from __future__ import annotations

from kilonova.api.http import Route, Service
from kilonova.api.network import (
    address_groups,
    agents,
    auto_allocated_topologies,
    availability_zones,
    extensions,
    faults,
    ip_availability,
    port_forwardings,
    quotas,
    resources,
    routers,
    service_providers,
    tags,
    versions,
)
from kilonova.api.network.default_security_group_rules import DEFAULT_RULES
from kilonova.api.network.floating_ips import FLOATING_IPS
from kilonova.api.network.networks import NETWORKS
from kilonova.api.network.ports import PORTS
from kilonova.api.network.rbac import RBAC_POLICIES
from kilonova.api.network.security_groups import RULES, SECURITY_GROUPS
from kilonova.api.network.subnetpools import SUBNETPOOLS
from kilonova.api.network.subnets import SUBNETS
from kilonova.network.builtin.service import BuiltinNetwork

TAGGED = (
    NETWORKS,
    SUBNETS,
    SUBNETPOOLS,
    PORTS,
    SECURITY_GROUPS,
    address_groups.ADDRESS_GROUPS,
    routers.ROUTERS,
    FLOATING_IPS,
)
RESOURCES = (*TAGGED, RULES, DEFAULT_RULES, RBAC_POLICIES)
_QUOTA = "/v2.0/quotas/{project_id}"

ROUTES = [
    Route("GET", "", versions.index, public=True),
    Route("GET", "/v2.0", versions.v2),
    Route("GET", "/v2.0/extensions", extensions.index),
    Route("GET", "/v2.0/extensions/{alias}", extensions.show),
    *(route for resource in RESOURCES for route in resources.routes(resource)),
    *(route for resource in TAGGED for route in tags.routes(resource)),
    *routers.ROUTES,
    *address_groups.ROUTES,
    *port_forwardings.ROUTES,
    *ip_availability.ROUTES,
    *agents.ROUTES,
    *service_providers.ROUTES,
    *availability_zones.ROUTES,
    *auto_allocated_topologies.ROUTES,
    Route("GET", "/v2.0/quotas", quotas.index),
    Route("GET", _QUOTA, quotas.show),
    Route("PUT", _QUOTA, quotas.update),
    Route("DELETE", _QUOTA, quotas.delete),
    Route("GET", f"{_QUOTA}/default", quotas.default),
    Route("GET", f"{_QUOTA}/details", quotas.details),
]


def service(network: BuiltinNetwork) -> Service:
    return Service(name="network", prefix="/networking", routes=ROUTES, state=network, fault=faults.body)
