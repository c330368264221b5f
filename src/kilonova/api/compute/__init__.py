"""The Compute API v2.1: OpenStack Nova's, microversions 2.1 to 2.104.

One file a resource, each with its handlers and its rows of the table of routes. ``microversions.py`` says
which version a request speaks, ``faults.py`` how errors look, ``policy.py`` who may do what.
"""

from __future__ import annotations

from kilonova.api.compute import (
    absent,
    addresses,
    aggregates,
    availability_zones,
    extensions,
    faults,
    flavor_access,
    flavor_extra_specs,
    flavors,
    gone,
    hypervisors,
    instance_actions,
    interfaces,
    keypairs,
    limits,
    microversions,
    quotas,
    server_actions,
    server_diagnostics,
    server_external_events,
    server_metadata,
    server_password,
    server_security_groups,
    server_tags,
    server_topology,
    servers,
    services,
    simple_tenant_usage,
    versions,
    volume_attachments,
)
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Route, Service

ROUTES: list[Route] = [
    *versions.ROUTES,
    *extensions.ROUTES,
    *servers.ROUTES,
    *server_actions.ROUTES,
    *server_diagnostics.ROUTES,
    *server_external_events.ROUTES,
    *server_metadata.ROUTES,
    *server_security_groups.ROUTES,
    *server_password.ROUTES,
    *server_tags.ROUTES,
    *server_topology.ROUTES,
    *instance_actions.ROUTES,
    *interfaces.ROUTES,
    *volume_attachments.ROUTES,
    *addresses.ROUTES,
    *flavors.ROUTES,
    *flavor_access.ROUTES,
    *flavor_extra_specs.ROUTES,
    *keypairs.ROUTES,
    *limits.ROUTES,
    *simple_tenant_usage.ROUTES,
    *quotas.ROUTES,
    *services.ROUTES,
    *hypervisors.ROUTES,
    *availability_zones.ROUTES,
    *aggregates.ROUTES,
    *absent.ROUTES,
    *gone.ROUTES,
]


def service(api: ComputeAPI) -> Service:
    """The API itself, under /compute/v2.1."""
    return Service(
        name="compute",
        prefix="/compute/v2.1",
        routes=ROUTES,
        state=api,
        fault=faults.fault,
        negotiate=microversions.negotiate,
        decorate=microversions.decorate,
    )


def versions_service() -> Service:
    """GET /compute: which APIs there are. Give it to the application before the API itself."""
    return Service(
        name="compute-versions",
        prefix="/compute",
        routes=[Route("GET", "/", versions.versions, public=True)],
        state=None,
        fault=faults.fault,
    )
