"""POST /servers: check and complete the request, then one transaction accepts it (engine.accept)."""

from __future__ import annotations

import re
import secrets
import string
import uuid
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from msgspec import UNSET, UnsetType

from kilonova.api.compute import create_checks as checks
from kilonova.api.compute import create_devices, links, policy
from kilonova.api.compute.create_body import LADDER, Body, ServerRequest
from kilonova.api.compute.create_devices import Devices
from kilonova.api.compute.create_networks import requested_networks
from kilonova.api.compute.create_placement import Placement, placement
from kilonova.api.compute.mapped_images import refuse_mapped
from kilonova.api.compute.microversions import pick
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, Forbidden, NotFound
from kilonova.domain.servers import BuildSpec, Flavor, ImageRef, RequestedNetwork
from kilonova.engine import accept
from kilonova.engine.accept import NewServer
from kilonova.store import flavors, keypairs, quotas, usage

MOST_AT_ONCE = 1000
"""Servers of one request."""

_ALPHANUMERIC = string.ascii_letters + string.digits


def create(api: ComputeAPI, request: Request) -> Reply:
    """202 with the first server, or with the reservation id if the client wants that."""
    context = request.context
    policy.require_writer(context, "servers:create")
    if context.project_id is None:
        raise Forbidden("A server belongs to a project: the token must be scoped to one.")
    body: Body[ServerRequest] = request.json(pick(request, LADDER))
    asked = body.server
    hints = checks.scheduler_hints(body.hints or body.older_hints)
    least, most = _counts(asked)
    checks.refuse_unavailable(asked)
    checks.user_data(None if asked.user_data is UNSET else asked.user_data)
    with api.db.read() as conn:
        flavor = _flavor(conn, context, str(asked.flavor_ref))
        key = public_key(conn, context, asked.key_name)
        limits = quotas.limits(conn, context.project_id, api.config.quota)
        place = placement(conn, context, asked)
        count = _affordable(conn, context.project_id, flavor, limits, least, most)
    checks.metadata_quota(asked.metadata, limits)
    devices = create_devices.requested(api, request, asked, flavor)
    create_devices.check_quota(api, context, devices, count)
    networks = requested_networks(api, context, asked, count)
    groups = api.network.security_groups(context, [group.name for group in asked.security_groups])
    password = asked.admin_pass if asked.admin_pass is not UNSET else random_word(12)
    spec = _spec(context, asked, flavor, devices, networks, groups, place, hints, key, password)
    servers = [_new_server(asked, spec, devices, index, count) for index in range(count)]
    reservation_id = f"r-{random_word(8).lower()}"
    accept.create_servers(
        api.db, api.bus, api.config, context, servers, reservation_id, limits, api.volumes, api.faults
    )
    if asked.return_reservation_id:
        return Reply(202, {"reservation_id": reservation_id})
    return _accepted(request, asked, servers[0].spec.server_id, password)


def _accepted(request: Request, asked: ServerRequest, server_id: str, password: str) -> Reply:
    own = links.resource(request, "servers", server_id)
    server = {
        "id": server_id,
        "links": own,
        "OS-DCF:diskConfig": asked.disk_config,
        "adminPass": password,
        "security_groups": [{"name": group.name} for group in asked.security_groups] or [{"name": "default"}],
    }
    return Reply(202, {"server": server}, headers={"Location": own[0]["href"]})


def _counts(asked: ServerRequest) -> tuple[int, int]:
    """How many servers, at least and at most."""
    least = int(asked.min_count)
    most = least if asked.max_count is UNSET else int(asked.max_count)
    if least > most:
        raise BadRequest("min_count must be <= max_count")
    if least > MOST_AT_ONCE:
        raise BadRequest(f"One request makes at most {MOST_AT_ONCE} servers")
    if asked.hostname and most > 1:
        raise BadRequest("Unable to allocate a single hostname to multiple instances")
    return least, min(most, MOST_AT_ONCE)


def _affordable(
    conn: sa.Connection, project_id: str, flavor: Flavor, limits: Mapping[str, int], least: int, most: int
) -> int:
    """As many as the quota has room for, between the two. The claim itself comes later, race-free."""
    if least == most:
        return most
    used = usage.used(conn, project_id)
    needs = {"instances": 1, "cores": flavor.vcpus, "ram": flavor.memory_mb}
    room = [(limits[name] - used[name]) // need for name, need in needs.items() if limits[name] >= 0 and need]
    return max(least, min([most, *room]))


def _flavor(conn: sa.Connection, context: RequestContext, flavor_id: str) -> Flavor:
    try:
        flavor = flavors.get(conn, flavor_id, policy.owner_filter(context))
    except NotFound as error:
        raise BadRequest(error.message) from error
    if flavor.disabled:
        raise BadRequest(f"Flavor {flavor_id} could not be found.")
    return flavor


def public_key(conn: sa.Connection, context: RequestContext, key_name: str | UnsetType | None) -> str | None:
    """Of the caller's key pair of that name. BadRequest if there is none."""
    if key_name is UNSET or key_name is None:
        return None
    try:
        return str(keypairs.get(conn, context.user_id, key_name).public_key)
    except NotFound as error:
        raise BadRequest("Invalid key_name provided.") from error


def image_to_boot(api: ComputeAPI, context: RequestContext, image_id: str) -> ImageRef:
    """BadRequest if there is no such image, or none that could be booted now."""
    try:
        image = api.images.ref(context, image_id)
    except NotFound as error:
        raise BadRequest("Can not find requested image") from error
    refuse_mapped(image)
    return image


def _spec(
    context: RequestContext,
    asked: ServerRequest,
    flavor: Flavor,
    devices: Devices,
    networks: list[RequestedNetwork] | None,
    groups: list[str],
    place: Placement,
    hints: dict[str, Any],
    public_key: str | None,
    password: str,
) -> dict[str, Any]:
    """The fields of BuildSpec that all servers of a request share."""
    properties = devices.image.properties if devices.image else devices.fields["image_properties"]
    assert isinstance(properties, dict)
    return {
        "project_id": context.project_id,
        "user_id": context.user_id,
        "flavor": flavor,
        "image": devices.image,
        "networks": networks,
        "security_groups": groups,
        "availability_zone": place.availability_zone,
        "host": place.host,
        "scheduler_hints": hints,
        "metadata": asked.metadata,
        "key_name": asked.key_name if asked.key_name is not UNSET else None,
        "public_key": public_key,
        "user_data": asked.user_data if asked.user_data is not UNSET else None,
        "config_drive": asked.config_drive or properties.get("img_config_drive") == "mandatory",
        "admin_password": password,
        **devices.fields,
    }


def _new_server(
    asked: ServerRequest, shared: dict[str, Any], devices: Devices, index: int, count: int
) -> NewServer:
    server_id = str(uuid.uuid4())
    suffix = f"-{index + 1}" if count > 1 else ""
    name = asked.name[: 255 - len(suffix)] + suffix
    hostname = asked.hostname or host_name(asked.name, suffix) or f"server-{server_id}"
    return NewServer(
        spec=BuildSpec(server_id=server_id, name=name, hostname=hostname, **shared),
        description=name if asked.description is UNSET else asked.description,
        devices=create_devices.of_one_server(devices),
        launch_index=index,
        tags=frozenset(asked.tags),
        auto_disk_config=asked.disk_config == "AUTO",
        access_ip_v4=asked.access_ipv4 if asked.access_ipv4 is not UNSET else None,
        access_ip_v6=asked.access_ipv6 if asked.access_ipv6 is not UNSET else None,
    )


def host_name(name: str, suffix: str = "") -> str:
    """A server's name as a host may be called (RFC 1123): at most 63 letters, digits and dashes; maybe ''."""
    dashed = re.sub(r"[ _.]", "-", name)
    kept = re.sub(r"[^a-zA-Z0-9-]", "", dashed).lower().strip("-")
    if not kept:
        return ""
    return kept[: 63 - len(suffix)].rstrip("-") + suffix


def random_word(length: int) -> str:
    """Letters and digits, by one draw from the kernel: a draw for each would cost more than a query."""
    number = int.from_bytes(secrets.token_bytes(length + 4))
    text = ""
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHANUMERIC))
        text += _ALPHANUMERIC[digit]
    return text


ROUTES = [Route("POST", "/servers", create, creates=True)]
