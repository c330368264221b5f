"""Where a new server may go: ``availability_zone`` (an admin's may be ``zone:host:node``), ``host`` and
``hypervisor_hostname`` (2.74, admins)."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa
from msgspec import UNSET

from kilonova.api.compute import policy
from kilonova.api.compute.create_body import ServerRequest
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest
from kilonova.store import server_lists


class Placement(NamedTuple):
    availability_zone: str | None = None
    host: str | None = None


def placement(conn: sa.Connection, context: RequestContext, asked: ServerRequest) -> Placement:
    """BadRequest for a zone or host that does not exist; Forbidden if only an admin may choose so."""
    if asked.availability_zone is UNSET and not asked.host and not asked.hypervisor_hostname:
        return Placement()
    zone, host, node = _parse(asked.availability_zone if asked.availability_zone is not UNSET else "")
    if host or node:
        policy.require_admin(context, "servers:create:forced_host")
    if asked.host or asked.hypervisor_hostname:
        policy.require_admin(context, "compute:servers:create:requested_destination")
        if host or node:
            raise BadRequest(
                "One mechanism with host and/or hypervisor_hostname and another mechanism "
                "with zone:host:node are mutually exclusive."
            )
        host, node = asked.host, asked.hypervisor_hostname
    found = _find(conn, host, node) if host or node else None
    if zone is not None and found is None and zone not in server_lists.availability_zones(conn):
        raise BadRequest("The requested availability zone is not available")
    return Placement(zone, found)


def _parse(text: str) -> tuple[str | None, str | None, str | None]:
    """``zone``, ``zone:host``, ``zone:host:node`` or ``zone::node``."""
    parts = text.split(":")
    if len(parts) > 3:
        raise BadRequest("Unable to parse availability_zone")
    zone, host, node = (part or None for part in [*parts, "", ""][:3])
    return zone, host, node


def _find(conn: sa.Connection, host: str | None, node: str | None) -> str:
    found = server_lists.find_host(conn, host, node)
    if found is None:
        raise BadRequest(f"Compute host {host or node} could not be found.")
    return found
