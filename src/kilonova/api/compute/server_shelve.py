"""shelve, shelveOffload, unshelve: a server that is kept as an image, and needs no host meanwhile."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, Meta, UnsetType, structs

from kilonova.api.compute import policy, server_images
from kilonova.api.compute import server_fields as fields
from kilonova.api.compute.server_access import find
from kilonova.api.compute.server_fields import HostOrFqdn
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request
from kilonova.domain.errors import BadRequest, Conflict, NotFound
from kilonova.domain.servers import VmState
from kilonova.engine import accept
from kilonova.store import server_lists, servers
from kilonova.store.database import Row

Zone = Annotated[str, Meta(min_length=1, max_length=255)]


class Unshelve277(msgspec.Struct, forbid_unknown_fields=True):
    availability_zone: Zone


class Unshelve291(msgspec.Struct, forbid_unknown_fields=True):
    """``availability_zone`` null: it may go to any from now on."""

    availability_zone: Zone | UnsetType | None = UNSET
    host: HostOrFqdn | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.availability_zone is UNSET and self.host is UNSET:
            raise ValueError("it names neither availability_zone nor host")


def shelve(api: ComputeAPI, request: Request, server_id: str, _value: msgspec.Raw) -> Reply:
    context = request.context
    with api.db.read() as conn:
        find(conn, context, server_id, "os-shelve:shelve")
    at_once = api.config.compute.shelved_offload_time == 0

    def prepare(conn: sa.Connection, _state: Row) -> dict[str, Any]:
        if servers.spec(conn, server_id).boots_from_volume:
            return {"goal": VmState.SHELVED_OFFLOADED}  # there is nothing to keep on the host, as in Nova
        name = f"{servers.get(conn, server_id).name}-shelved"[:255]
        kind = {"image_type": "snapshot"}
        image_id = server_images.register(api, request, conn, server_id, name, kind)
        return {"image_id": image_id, "goal": VmState.SHELVED_OFFLOADED if at_once else VmState.SHELVED}

    accept.act(api.db, api.bus, api.config, context, server_id, "shelve", faults=api.faults, prepare=prepare)
    return Reply(202)


def offload(api: ComputeAPI, request: Request, server_id: str, _value: msgspec.Raw) -> Reply:
    with api.db.read() as conn:
        find(conn, request.context, server_id, "os-shelve:shelve_offload")
    policy.require_admin(request.context, "os-shelve:shelve_offload")
    accept.act(api.db, api.bus, api.config, request.context, server_id, "shelve_offload", faults=api.faults)
    return Reply(202)


def unshelve(api: ComputeAPI, request: Request, server_id: str, value: msgspec.Raw) -> Reply:
    """Since 2.77 to a zone, since 2.91 an admin's to a host; until then the value is ignored."""
    asked = _asked(request, value)
    context = request.context
    with api.db.read() as conn:
        find(conn, context, server_id, "os-shelve:unshelve")
        host = _checked(conn, request, asked)

    def prepare(conn: sa.Connection, state: Row) -> dict[str, Any]:
        if state.vm_state == VmState.SHELVED:
            if asked is not None:
                raise Conflict(
                    f'Specifying an availability zone or a host when unshelving server "{server_id}" with '
                    f'status "SHELVED" is not supported, it can only be done when the server status is '
                    f"SHELVED_OFFLOADED."
                )
            return {}
        if asked is not None and asked.availability_zone is not UNSET:
            _pin(conn, server_id, asked.availability_zone)
        return {"image": _image(api, request, conn, server_id), "to_host": host}

    accept.act(
        api.db, api.bus, api.config, context, server_id, "unshelve", faults=api.faults, prepare=prepare
    )
    return Reply(202)


def _asked(request: Request, value: msgspec.Raw) -> Unshelve291 | None:
    if not request.at_least(2, 77) or bytes(value).strip() == b"null":
        return None
    if request.at_least(2, 91):
        return fields.decoded("unshelve", value, Unshelve291)
    return Unshelve291(availability_zone=fields.decoded("unshelve", value, Unshelve277).availability_zone)


def _checked(conn: sa.Connection, request: Request, asked: Unshelve291 | None) -> str | None:
    """The host that was asked for, if one was. BadRequest if it, or the zone, does not exist."""
    if asked is None:
        return None
    zone = asked.availability_zone
    if zone not in (UNSET, None) and zone not in server_lists.availability_zones(conn):
        raise BadRequest("The requested availability zone is not available")
    if asked.host is UNSET:
        return None
    policy.require_admin(request.context, "os-shelve:unshelve_to_host")
    if server_lists.find_host(conn, asked.host, None) is None:
        raise BadRequest(f"Compute host {asked.host} could not be found.")
    return asked.host


def _pin(conn: sa.Connection, server_id: str, zone: str | None) -> None:
    spec = structs.replace(servers.spec(conn, server_id), availability_zone=zone)
    servers.change(conn, server_id, pinned_availability_zone=zone, spec=spec)


def _image(api: ComputeAPI, request: Request, conn: sa.Connection, server_id: str) -> Any:
    """None: it boots from a volume."""
    image_id = servers.get(conn, server_id).shelved_image_id
    if image_id is None and servers.spec(conn, server_id).boots_from_volume:
        return None
    try:
        return msgspec.to_builtins(api.images.ref(request.context, image_id))
    except (NotFound, BadRequest) as error:
        raise Conflict(f"Instance {server_id} cannot be unshelved: {error.message}") from error
