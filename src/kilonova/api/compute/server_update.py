"""PUT /servers/{id}: names, descriptions and what only the API shows. The guest is not touched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, Meta, UnsetType

from kilonova.api.compute import server_fields as fields
from kilonova.api.compute import server_view
from kilonova.api.compute.microversions import pick
from kilonova.api.compute.server_access import find
from kilonova.api.compute.server_fields import Hostname, HostOrFqdn
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route, Version
from kilonova.domain.errors import Conflict
from kilonova.store import server_lists, servers
from kilonova.store.database import Row


class Update201(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: str | UnsetType = UNSET
    disk_config: Literal["AUTO", "MANUAL"] | UnsetType = msgspec.field(
        name="OS-DCF:diskConfig", default=UNSET
    )
    access_ipv4: str | UnsetType = msgspec.field(name="accessIPv4", default=UNSET)
    access_ipv6: str | UnsetType = msgspec.field(name="accessIPv6", default=UNSET)

    # What later rungs take.
    description = cast("str | UnsetType | None", UNSET)
    hostname = cast("str | UnsetType", UNSET)
    pinned_availability_zone = cast("str | UnsetType | None", UNSET)

    def __post_init__(self) -> None:
        if self.name is not UNSET:
            fields.name("name", self.name)
        if isinstance(self.description, str):
            fields.text("description", self.description)
        if self.access_ipv4 is not UNSET:
            self.access_ipv4 = fields.address("accessIPv4", self.access_ipv4, version=4)
        if self.access_ipv6 is not UNSET:
            self.access_ipv6 = fields.address("accessIPv6", self.access_ipv6, version=6)


class Update219(Update201, forbid_unknown_fields=True, kw_only=True):
    description: str | UnsetType | None = UNSET


class Update290(Update219, forbid_unknown_fields=True, kw_only=True):
    hostname: Hostname | UnsetType = UNSET


class Update294(Update290, forbid_unknown_fields=True, kw_only=True):
    hostname: HostOrFqdn | UnsetType = UNSET


class Update2104(Update294, forbid_unknown_fields=True, kw_only=True):
    pinned_availability_zone: Annotated[str, Meta(min_length=1, max_length=255)] | UnsetType | None = UNSET


Rung = TypeVar("Rung", bound=Update201)


class Body(msgspec.Struct, Generic[Rung], forbid_unknown_fields=True, kw_only=True):
    server: Rung


LADDER: Mapping[Version, Any] = {
    (2, 1): Body[Update201],
    (2, 19): Body[Update219],
    (2, 90): Body[Update290],
    (2, 94): Body[Update294],
    (2, 104): Body[Update2104],
}

_COLUMNS = {
    "name": "name",
    "description": "description",
    "hostname": "hostname",
    "access_ipv4": "access_ip_v4",
    "access_ipv6": "access_ip_v6",
}


def update(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    """200 with the server as it is now."""
    body: Body[Update201] = request.json(pick(request, LADDER))
    asked = body.server
    with api.db.write() as conn:
        server = find(conn, request.context, server_id, "servers:update", for_update=True)
        values = {
            column: value
            for field, column in _COLUMNS.items()
            if (value := getattr(asked, field)) is not UNSET
        }
        if asked.disk_config is not UNSET:
            values["auto_disk_config"] = asked.disk_config == "AUTO"
        if asked.pinned_availability_zone is not UNSET:
            values |= _pin(conn, server, asked.pinned_availability_zone)
        if values:
            servers.change(conn, server_id, **values)
        row = server_lists.get(conn, server_id, None, server_view.columns(request))
        return Reply(body={"server": server_view.updated(api, conn, request, row)})


def _pin(conn: sa.Connection, server: Row, zone: str | None) -> dict[str, Any]:
    """Bind the server to the zone it is in, or to none. The zone asked for at boot is part of its spec, too:
    whatever places the server again reads it there."""
    pinned = server.pinned_availability_zone
    if zone == pinned:
        return {}
    if zone is not None and pinned is not None:
        raise Conflict(
            "Cannot change pinned availability zone directly. "
            "Unpin first by setting pinned_availability_zone to null."
        )
    if zone is not None and zone != server.availability_zone:
        raise Conflict(
            "Server can only be pinned to its current availability zone "
            f"'{server.availability_zone}', but '{zone}' was requested."
        )
    spec = msgspec.structs.replace(servers.spec(conn, server.id), availability_zone=zone)
    return {"pinned_availability_zone": zone, "spec": spec}


ROUTES = [Route("PUT", "/servers/{server_id}", update)]
