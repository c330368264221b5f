"""Address groups as the API shows them, and what comes to them and goes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

import sqlalchemy as sa

from kilonova.api.http import Reply, Request, Route
from kilonova.api.network.resources import Resource, View
from kilonova.domain.clock import iso8601
from kilonova.domain.context import RequestContext
from kilonova.domain.security_groups import AddressGroup
from kilonova.network.builtin import address_groups, policy
from kilonova.network.builtin.requests import AddressesRequest, AddressGroupCreate, AddressGroupUpdate
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import address_groups as store
from kilonova.store import network_tags
from kilonova.store.schema.security_groups import address_groups as table


def _views(conn: sa.Connection, context: RequestContext, items: Sequence[AddressGroup]) -> list[View]:
    ids = [item.id for item in items]
    tags, shared = network_tags.of(conn, ids), store.shared(conn, ids, policy.scope(context))
    return [
        {
            "id": group.id,
            "name": group.name,
            "description": group.description,
            "project_id": group.project_id,
            "tenant_id": group.project_id,
            "addresses": group.addresses,
            "shared": group.id in shared,
            "tags": tags.get(group.id, []),
            "revision_number": group.revision_number,
            "created_at": iso8601(group.created_at),
            "updated_at": iso8601(group.updated_at),
        }
        for group in items
    ]


ADDRESS_GROUPS = Resource(
    name="address_group",
    plural="address_groups",
    path="address-groups",
    create_body=AddressGroupCreate,
    update_body=AddressGroupUpdate,
    create=address_groups.create,
    update=address_groups.update,
    delete=address_groups.delete,
    find=address_groups.find,
    page=store.page,
    owners=address_groups.owners,
    views=_views,
    table=table,
    touch=lambda conn, item_id: store.update(conn, item_id, {}),
)

_Change = Callable[[sa.Connection, RequestContext, str, Collection[str]], AddressGroup]


def _change(how: _Change, network: BuiltinNetwork, request: Request, item_id: str) -> Reply:
    asked = request.json(AddressesRequest)
    with network.write() as conn:
        group = how(conn, request.context, item_id, asked.addresses)
        (view,) = _views(conn, request.context, [group])
    return Reply(200, {"address_group": view})


_ONE = "/v2.0/address-groups/{item_id}"

ROUTES = [
    Route("PUT", f"{_ONE}/add_addresses", partial(_change, address_groups.add)),
    Route("PUT", f"{_ONE}/remove_addresses", partial(_change, address_groups.remove)),
]
