"""/servers/{id}/os-interface: the NICs of a server, shown, attached and detached."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, Meta, UnsetType

from kilonova.api.compute import microversions, policy, queries
from kilonova.api.compute import server_fields as fields
from kilonova.api.compute.server_access import find
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.compute.turns import Turns
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.errors import BadRequest, NotFound
from kilonova.domain.network import Port
from kilonova.domain.servers import RequestedNetwork
from kilonova.engine import interfaces
from kilonova.store import ports, servers

_turns = Turns()
"""Attaches of one server wait for each other: clients ask for several at once (Terraform does)."""


class FixedIp(msgspec.Struct, forbid_unknown_fields=True):
    ip_address: str

    def __post_init__(self) -> None:
        self.ip_address = fields.address("ip_address", self.ip_address)


class Attachment(msgspec.Struct, forbid_unknown_fields=True):
    net_id: str | UnsetType = UNSET
    port_id: str | UnsetType | None = UNSET
    fixed_ips: list[FixedIp] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.net_id is not UNSET:
            self.net_id = fields.uuid("net_id", self.net_id)
        if self.port_id:
            self.port_id = fields.uuid("port_id", self.port_id)
        if self.fixed_ips is not UNSET and len(self.fixed_ips) != 1:
            raise ValueError("fixed_ips must have exactly one address")


class TaggedAttachment(Attachment):
    """Since 2.49."""

    tag: Annotated[str, Meta(min_length=1, max_length=60, pattern=r"^[^,/\x00-\x1f\x7f]*\Z")] | UnsetType = (
        UNSET
    )


class Body(msgspec.Struct, forbid_unknown_fields=True):
    interfaceAttachment: Attachment = msgspec.field(default_factory=Attachment)


class TaggedBody(msgspec.Struct, forbid_unknown_fields=True):
    interfaceAttachment: TaggedAttachment = msgspec.field(default_factory=TaggedAttachment)


_BODIES: dict[tuple[int, int], type[Body] | type[TaggedBody]] = {(2, 1): Body, (2, 49): TaggedBody}


def listed(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    queries.check(request)
    with api.db.read() as conn:
        _check_server(conn, request, server_id)
        found = ports.of_servers(conn, [server_id])
    return Reply(body={"interfaceAttachments": [_view(request, port) for port in found]})


def show(api: ComputeAPI, request: Request, server_id: str, port_id: str) -> Reply:
    queries.check(request)
    return _show(api, request, server_id, port_id)


def attach(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    """Answered when the guest has it."""
    with api.db.read() as conn:
        find(conn, request.context, server_id, "os-attach-interfaces:create")
    asked = _asked(request)
    with _turns.of(server_id):
        port_id = interfaces.attach(api.interfaces, request.context, server_id, asked)
    return _show(api, request, server_id, port_id)


def detach(api: ComputeAPI, request: Request, server_id: str, port_id: str) -> Reply:
    with api.db.read() as conn:
        find(conn, request.context, server_id, "os-attach-interfaces:delete")
    with _turns.of(server_id):
        interfaces.detach(api.interfaces, request.context, server_id, port_id)
    return Reply(202)


def _asked(request: Request) -> RequestedNetwork:
    body = request.json(microversions.pick(request, _BODIES)) if request.any_body() else Body()
    asked = body.interfaceAttachment
    network_id, port_id = asked.net_id or None, asked.port_id or None
    fixed_ip = None if asked.fixed_ips is UNSET else asked.fixed_ips[0].ip_address
    if network_id and port_id:
        raise BadRequest("Must not input both network_id and port_id")
    if fixed_ip and not network_id:
        raise BadRequest("Must input network_id when request IP address")
    tag = getattr(asked, "tag", UNSET) or None
    return RequestedNetwork(network_id=network_id, port_id=port_id, fixed_ip=fixed_ip, tag=tag)


def _check_server(conn: sa.Connection, request: Request, server_id: str) -> None:
    servers.get(conn, server_id, policy.owner_filter(request.context))


def _show(api: ComputeAPI, request: Request, server_id: str, port_id: str) -> Reply:
    with api.db.read() as conn:
        _check_server(conn, request, server_id)
        for port in ports.of_servers(conn, [server_id]):
            if port.id == port_id:
                return Reply(body={"interfaceAttachment": _view(request, port)})
    raise NotFound(f"Instance {server_id} does not have a port with id {port_id}")


def _view(request: Request, port: Port) -> dict[str, Any]:
    view: dict[str, Any] = {
        "net_id": port.network_id,
        "port_id": port.id,
        "mac_addr": port.mac_address,
        "port_state": port.status,
        "fixed_ips": port.fixed_ips,
    }
    if request.at_least(2, 70):
        view["tag"] = port.nic_tag
    return view


_ALL = "/servers/{server_id}/os-interface"
_ONE = _ALL + "/{port_id}"

ROUTES = [
    Route("GET", _ALL, listed),
    Route("POST", _ALL, attach),
    Route("GET", _ONE, show),
    Route("DELETE", _ONE, detach),
]
