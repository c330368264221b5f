"""Subnets as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.api.network.resources import Resource, View
from kilonova.domain.clock import iso8601
from kilonova.domain.context import RequestContext
from kilonova.domain.network import Subnet
from kilonova.network.builtin import subnets
from kilonova.network.builtin.requests import SubnetCreate, SubnetUpdate
from kilonova.store import network_tags
from kilonova.store import subnets as store
from kilonova.store.schema.networks import subnets as table


def _views(conn: sa.Connection, _context: RequestContext, items: Sequence[Subnet]) -> list[View]:
    tags = network_tags.of(conn, [item.id for item in items])
    return [_view(item, tags.get(item.id, [])) for item in items]


def _view(subnet: Subnet, tags: list[str]) -> dict[str, Any]:
    return {
        "id": subnet.id,
        "name": subnet.name,
        "description": subnet.description,
        "project_id": subnet.project_id,
        "tenant_id": subnet.project_id,
        "network_id": subnet.network_id,
        "ip_version": subnet.ip_version,
        "cidr": subnet.cidr,
        "gateway_ip": subnet.gateway_ip,
        "allocation_pools": subnet.allocation_pools,
        "enable_dhcp": subnet.enable_dhcp,
        "dns_nameservers": subnet.dns_nameservers,
        "host_routes": subnet.host_routes,
        "ipv6_ra_mode": subnet.ipv6_ra_mode,
        "ipv6_address_mode": subnet.ipv6_address_mode,
        "subnetpool_id": subnet.subnetpool_id,
        "service_types": subnet.service_types or [],
        "tags": tags,
        "revision_number": subnet.revision_number,
        "created_at": iso8601(subnet.created_at),
        "updated_at": iso8601(subnet.updated_at),
    }


SUBNETS = Resource(
    name="subnet",
    plural="subnets",
    create_body=SubnetCreate,
    update_body=SubnetUpdate,
    create=subnets.create,
    update=subnets.update,
    delete=subnets.delete,
    find=subnets.find,
    page=store.page,
    owners=subnets.owners,
    views=_views,
    table=table,
    touch=lambda conn, item_id: store.update(conn, item_id, {}),
)
