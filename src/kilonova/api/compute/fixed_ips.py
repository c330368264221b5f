"""The actions addFixedIp and removeFixedIp, until microversion 2.43: addresses of NICs that a server has.

Since then clients attach and detach interfaces, or change the port's fixed_ips in the network service.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from kilonova.api.compute import server_fields as fields
from kilonova.api.compute.server_access import find
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request
from kilonova.domain.errors import NotFound
from kilonova.engine import interfaces

_LAST = (2, 43)


class Add(msgspec.Struct, forbid_unknown_fields=True):
    networkId: Annotated[str, Meta(min_length=1, max_length=36)] | int


class Remove(msgspec.Struct, forbid_unknown_fields=True):
    address: str

    def __post_init__(self) -> None:
        self.address = fields.address("address", self.address)


def add(api: ComputeAPI, request: Request, server_id: str, value: msgspec.Raw) -> Reply:
    _check_version(request)
    network_id = str(fields.decoded("addFixedIp", value, Add).networkId)
    with api.db.read() as conn:
        find(conn, request.context, server_id, "os-multinic:add")
    interfaces.readdress(
        api.interfaces,
        request.context,
        server_id,
        lambda network: network.add_fixed_ip(server_id, network_id),
    )
    return Reply(202)


def remove(api: ComputeAPI, request: Request, server_id: str, value: msgspec.Raw) -> Reply:
    _check_version(request)
    address = fields.decoded("removeFixedIp", value, Remove).address
    with api.db.read() as conn:
        find(conn, request.context, server_id, "os-multinic:remove")
    interfaces.readdress(
        api.interfaces,
        request.context,
        server_id,
        lambda network: network.remove_fixed_ip(server_id, address),
    )
    return Reply(202)


def _check_version(request: Request) -> None:
    if request.version > _LAST:
        raise NotFound("The resource could not be found.")
