"""Floating IPs as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.api.network import port_forwardings
from kilonova.api.network.resources import Resource, View
from kilonova.domain.clock import iso8601
from kilonova.domain.context import RequestContext
from kilonova.domain.network import Port
from kilonova.domain.routers import FloatingIp
from kilonova.network.builtin import floating_ips
from kilonova.network.builtin.router_requests import FloatingIpCreate, FloatingIpUpdate
from kilonova.store import floating_ips as store
from kilonova.store import network_tags
from kilonova.store.schema.routers import floating_ips as table


def _views(conn: sa.Connection, _context: RequestContext, items: Sequence[FloatingIp]) -> list[View]:
    tags = network_tags.of(conn, [item.id for item in items])
    return [_view(item, tags.get(item.id, [])) for item in items]


def _view(floating: FloatingIp, tags: list[str]) -> dict[str, Any]:
    return {
        "id": floating.id,
        "description": floating.description,
        "project_id": floating.project_id,
        "tenant_id": floating.project_id,
        "floating_network_id": floating.floating_network_id,
        "floating_ip_address": floating.floating_ip_address,
        "port_id": floating.fixed_port_id,
        "fixed_ip_address": floating.fixed_ip_address,
        "router_id": floating.router_id,
        "status": floating.status,
        "port_details": _port_view(floating.port),
        "port_forwardings": [port_forwardings.view(one) for one in floating.forwardings],
        "tags": tags,
        "revision_number": floating.revision_number,
        "created_at": iso8601(floating.created_at),
        "updated_at": iso8601(floating.updated_at),
    }


def _port_view(port: Port | None) -> dict[str, Any] | None:
    if port is None:
        return None
    return {
        "name": port.name,
        "network_id": port.network_id,
        "mac_address": port.mac_address,
        "admin_state_up": port.admin_state_up,
        "status": port.status,
        "device_id": port.device_id,
        "device_owner": port.device_owner,
    }


FLOATING_IPS = Resource(
    name="floatingip",
    plural="floatingips",
    create_body=FloatingIpCreate,
    update_body=FloatingIpUpdate,
    create=floating_ips.create,
    update=floating_ips.update,
    delete=floating_ips.delete,
    find=floating_ips.find,
    page=store.page,
    owners=floating_ips.owners,
    views=_views,
    table=table,
    touch=lambda conn, item_id: store.update(conn, item_id, {}),
)
