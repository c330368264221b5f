"""Networks as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.api.network.resources import Resource, View
from kilonova.domain.clock import iso8601
from kilonova.domain.context import RequestContext
from kilonova.domain.network import Network, provider_of
from kilonova.network.builtin import networks, policy
from kilonova.network.builtin.requests import NetworkCreate, NetworkUpdate
from kilonova.store import network_tags
from kilonova.store import networks as store
from kilonova.store.schema.networks import networks as table


def _views(conn: sa.Connection, context: RequestContext, items: Sequence[Network]) -> list[View]:
    ids = [item.id for item in items]
    subnets, tags = store.subnet_ids(conn, ids), network_tags.of(conn, ids)
    shared = store.shared(conn, ids, policy.scope(context))
    views = [
        _view(item, item.id in shared, subnets.get(item.id, []), tags.get(item.id, [])) for item in items
    ]
    if context.is_admin:
        for view, item in zip(views, items, strict=True):
            view.update(provider_of(bool(item.external), item.segmentation_id))
    return views


def _view(network: Network, shared: bool, subnets: list[str], tags: list[str]) -> dict[str, Any]:
    return {
        "id": network.id,
        "name": network.name,
        "description": network.description,
        "project_id": network.project_id,
        "tenant_id": network.project_id,
        "admin_state_up": network.admin_state_up,
        "status": "ACTIVE",
        "shared": shared,
        "router:external": bool(network.external),
        "is_default": bool(network.is_default),
        "mtu": network.mtu,
        "port_security_enabled": network.port_security_enabled,
        "availability_zone_hints": [],
        "subnets": subnets,
        "tags": tags,
        "revision_number": network.revision_number,
        "created_at": iso8601(network.created_at),
        "updated_at": iso8601(network.updated_at),
    }


def _owners(_conn: sa.Connection, network: Network) -> Sequence[str]:
    return [network.project_id]


NETWORKS = Resource(
    name="network",
    plural="networks",
    create_body=NetworkCreate,
    update_body=NetworkUpdate,
    create=networks.create,
    update=networks.update,
    delete=networks.delete,
    find=networks.find,
    page=store.page,
    owners=_owners,
    views=_views,
    table=table,
    touch=lambda conn, item_id: store.update(conn, item_id, {}),
    admin_filters=frozenset(provider_of(external=False, segmentation_id=None)),
)
