"""Ports as the API shows them; what concerns hosts is for admins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.api.network.resources import Resource, View
from kilonova.domain.clock import iso8601
from kilonova.domain.context import RequestContext
from kilonova.domain.network import PlugKind, Port, binding_of
from kilonova.domain.routers import ROUTER_OWNERS
from kilonova.network.builtin import ports
from kilonova.network.builtin.requests import PortCreate, PortUpdate
from kilonova.store import hosts, network_tags
from kilonova.store import ports as store
from kilonova.store.schema.networks import ports as table


def _views(conn: sa.Connection, context: RequestContext, items: Sequence[Port]) -> list[View]:
    tags = network_tags.of(conn, [item.id for item in items])
    of_routers = store.statuses(conn, [item.id for item in items if item.device_owner in ROUTER_OWNERS])
    views = [_view(item, of_routers.get(item.id, item.status), tags.get(item.id, [])) for item in items]
    if context.is_admin:
        plugs = hosts.plugs(conn, {item.host for item in items if item.nic is not None})
        for view, item in zip(views, items, strict=True):
            view.update(_binding(item, plugs.get(item.host, "bridge")))
    return views


def _view(port: Port, status: str, tags: list[str]) -> dict[str, Any]:
    return {
        "id": port.id,
        "name": port.name,
        "description": port.description,
        "project_id": port.project_id,
        "tenant_id": port.project_id,
        "network_id": port.network_id,
        "mac_address": port.mac_address,
        "fixed_ips": port.fixed_ips,
        "admin_state_up": port.admin_state_up,
        "status": status,
        "device_id": port.device_id,
        "device_owner": port.device_owner,
        "dns_name": port.dns_name,
        "security_groups": port.security_groups,
        "port_security_enabled": port.port_security_enabled,
        "allowed_address_pairs": [
            {"ip_address": pair.ip_address, "mac_address": pair.mac_address or port.mac_address}
            for pair in port.allowed_address_pairs
        ],
        "extra_dhcp_opts": port.extra_dhcp_opts or [],
        "binding:vnic_type": port.vnic_type,
        "tags": tags,
        "revision_number": port.revision_number,
        "created_at": iso8601(port.created_at),
        "updated_at": iso8601(port.updated_at),
    }


def _binding(port: Port, plug: PlugKind) -> dict[str, Any]:
    """Where the port is plugged, and how by its host; or nowhere yet."""
    vif_type, details = "unbound", dict[str, Any]()
    if port.nic is not None:
        vif_type, details = binding_of(plug, port.network_id)
    return {
        "binding:host_id": port.host,
        "binding:profile": port.profile,
        "binding:vif_type": vif_type,
        "binding:vif_details": details,
    }


PORTS = Resource(
    name="port",
    plural="ports",
    create_body=PortCreate,
    update_body=PortUpdate,
    create=ports.create,
    update=ports.update,
    delete=ports.delete,
    find=ports.find,
    page=store.page,
    owners=ports.owners,
    views=_views,
    table=table,
    touch=lambda conn, item_id: store.update(conn, [item_id], {}),
    admin_filters=frozenset({"binding:host_id"}),
)
