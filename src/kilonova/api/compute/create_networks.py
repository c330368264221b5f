"""``networks`` of POST /servers: from what the client wrote to what the network service understands."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from msgspec import UNSET

from kilonova.api.compute.create_body import NetworkItem, ServerRequest
from kilonova.api.compute.state import ComputeAPI
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, NotFound
from kilonova.domain.servers import RequestedNetwork


def requested_networks(
    api: ComputeAPI, context: RequestContext, asked: ServerRequest, count: int
) -> list[RequestedNetwork] | None:
    """None: no NIC. An empty or (before 2.37) missing list means the project's network, if it has one."""
    if asked.networks == "none":
        return None
    if asked.networks == "auto":
        return api.network.auto(context)
    if not asked.networks:
        return _if_any(api, context)
    assert not isinstance(asked.networks, str)
    wanted = [_requested(item) for item in asked.networks]
    _check_together(wanted, count)
    try:
        return api.network.validate(context, wanted, count)
    except NotFound as error:
        raise BadRequest(error.message) from error


def _if_any(api: ComputeAPI, context: RequestContext) -> list[RequestedNetwork] | None:
    """The project's only network, or nothing where it has none; Conflict if there are several."""
    try:
        return api.network.auto(context)
    except BadRequest:
        return None


def _requested(item: NetworkItem) -> RequestedNetwork:
    fixed_ip = item.fixed_ip if item.fixed_ip is not UNSET else None
    if item.port is not None:
        if fixed_ip is not None:
            raise BadRequest(
                f"Specified Fixed IP '{fixed_ip}' cannot be used with port '{item.port}': "
                "the two cannot be specified together."
            )
        return RequestedNetwork(port_id=item.port, tag=item.tag)
    if item.uuid is UNSET:
        raise BadRequest("Bad network format: missing 'uuid'")
    try:
        network_id = str(uuid.UUID(item.uuid))
    except ValueError as error:
        raise BadRequest(
            f"Bad networks format: network uuid is not in proper format ({item.uuid})"
        ) from error
    return RequestedNetwork(network_id=network_id, fixed_ip=fixed_ip, tag=item.tag)


def _check_together(wanted: Sequence[RequestedNetwork], count: int) -> None:
    ports = [item.port_id for item in wanted if item.port_id]
    for port in ports:
        if ports.count(port) > 1:
            raise BadRequest(
                f"Port ID '{port}' was specified twice: you cannot attach a port multiple times."
            )
    if count > 1 and ports:
        raise BadRequest(
            "Failed to launch instances: Unable to launch multiple instances with a single configured "
            "port ID. Please launch your instance one by one with different ports."
        )
    if count > 1 and any(item.fixed_ip for item in wanted):
        raise BadRequest(
            "Failed to launch instances: max_count cannot be greater than 1 if an fixed_ip is specified."
        )
    tags = [item.tag for item in wanted if item.tag]
    if len(tags) != len(set(tags)):
        raise BadRequest("Invalid device tag: the tags of network interfaces must differ from each other.")
