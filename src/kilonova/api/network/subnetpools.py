"""Subnet pools as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.api.network.resources import Resource, View
from kilonova.domain.clock import iso8601
from kilonova.domain.context import RequestContext
from kilonova.domain.network import SubnetPool
from kilonova.network.builtin import subnetpools
from kilonova.network.builtin.requests import SubnetPoolCreate, SubnetPoolUpdate
from kilonova.store import network_tags
from kilonova.store import subnetpools as store
from kilonova.store.schema.networks import subnet_pools as table


def _views(conn: sa.Connection, _context: RequestContext, items: Sequence[SubnetPool]) -> list[View]:
    tags = network_tags.of(conn, [item.id for item in items])
    return [_view(item, tags.get(item.id, [])) for item in items]


def _view(pool: SubnetPool, tags: list[str]) -> dict[str, Any]:
    return {
        "id": pool.id,
        "name": pool.name,
        "description": pool.description,
        "project_id": pool.project_id,
        "tenant_id": pool.project_id,
        "ip_version": pool.ip_version,
        "prefixes": pool.prefixes,
        "min_prefixlen": pool.min_prefixlen,
        "max_prefixlen": pool.max_prefixlen,
        "default_prefixlen": pool.default_prefixlen,
        "default_quota": pool.default_quota,
        "shared": pool.shared,
        "is_default": pool.is_default,
        "address_scope_id": None,
        "tags": tags,
        "revision_number": pool.revision_number,
        "created_at": iso8601(pool.created_at),
        "updated_at": iso8601(pool.updated_at),
    }


SUBNETPOOLS = Resource(
    name="subnetpool",
    plural="subnetpools",
    create_body=SubnetPoolCreate,
    update_body=SubnetPoolUpdate,
    create=subnetpools.create,
    update=subnetpools.update,
    delete=subnetpools.delete,
    find=subnetpools.find,
    page=store.page,
    owners=subnetpools.owners,
    views=_views,
    table=table,
    touch=lambda conn, item_id: store.update(conn, item_id, {}),
)
