"""Port forwardings as the API shows them: each of one floating IP, under its URL."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa

from kilonova.api.http import Reply, Request, Route
from kilonova.api.network import resources
from kilonova.api.network.resources import Resource, View
from kilonova.domain.context import RequestContext
from kilonova.domain.routers import PortForwarding
from kilonova.network.builtin import floating_ips, port_forwardings
from kilonova.network.builtin.router_requests import PortForwardingCreate, PortForwardingUpdate
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import port_forwardings as store


def view(one: PortForwarding) -> View:
    return {
        "id": one.id,
        "internal_port_id": one.port_id,
        "internal_ip_address": one.fixed_ip_address,
        "protocol": one.protocol,
        "internal_port": _only(one.internal_first, one.internal_last),
        "internal_port_range": f"{one.internal_first}:{one.internal_last}",
        "external_port": _only(one.external_first, one.external_last),
        "external_port_range": f"{one.external_first}:{one.external_last}",
        "description": one.description,
    }


def _only(first: int, last: int) -> int | None:
    return first if first == last else None


def _views(_conn: sa.Connection, _context: RequestContext, items: Sequence[PortForwarding]) -> list[View]:
    return [view(item) for item in items]


def _of(floating_id: str) -> Resource:
    """The forwardings of that floating IP."""

    def create(conn: sa.Connection, config: Any, context: RequestContext, body: Any) -> PortForwarding:
        return port_forwardings.create(conn, config, context, floating_id, body)

    def update(
        conn: sa.Connection, config: Any, context: RequestContext, item_id: str, body: Any
    ) -> PortForwarding:
        return port_forwardings.update(conn, config, context, floating_id, item_id, body)

    def delete(conn: sa.Connection, context: RequestContext, item_id: str) -> None:
        port_forwardings.delete(conn, context, floating_id, item_id)

    def find(conn: sa.Connection, context: RequestContext, item_id: str) -> PortForwarding:
        return port_forwardings.find(conn, context, floating_id, item_id)

    return Resource(
        name="port_forwarding",
        plural="port_forwardings",
        path=f"floatingips/{floating_id}/port_forwardings",
        create_body=PortForwardingCreate,
        update_body=PortForwardingUpdate,
        create=create,
        update=update,
        delete=delete,
        find=find,
        page=lambda conn, asked, _project: store.page(conn, floating_id, asked),
        owners=lambda _conn, _item: [],
        views=_views,
    )


def _index(network: BuiltinNetwork, request: Request, item_id: str) -> Reply:
    with network.db.read() as conn:
        floating_ips.find(conn, request.context, item_id)
    return resources.index(_of(item_id), network, request)


def _create(network: BuiltinNetwork, request: Request, item_id: str) -> Reply:
    return resources.create(_of(item_id), network, request)


def _one(handler: Any, network: BuiltinNetwork, request: Request, item_id: str, forwarding_id: str) -> Reply:
    reply: Reply = handler(_of(item_id), network, request, forwarding_id)
    return reply


_SEVERAL = "/v2.0/floatingips/{item_id}/port_forwardings"
_EACH = f"{_SEVERAL}/{{forwarding_id}}"

ROUTES = [
    Route("GET", _SEVERAL, _index),
    Route("POST", _SEVERAL, _create, creates=True),
    Route("GET", _EACH, partial(_one, resources.show)),
    Route("PUT", _EACH, partial(_one, resources.update)),
    Route("DELETE", _EACH, partial(_one, resources.delete)),
]
