"""The security groups that a port is in: asked for, given by default, and what they forbid."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa
from msgspec import UNSET

from kilonova.domain.context import RequestContext
from kilonova.domain.network import Port
from kilonova.network.builtin import policy, security_groups
from kilonova.network.builtin.changes import membership
from kilonova.network.builtin.errors import (
    InvalidInput,
    PortSecurityAndIPRequiredForSecurityGroups,
    PortSecurityPortHasSecurityGroup,
)
from kilonova.network.builtin.requests import PortUpdate
from kilonova.store import port_security, ports


def asked(
    conn: sa.Connection, context: RequestContext, body: PortUpdate, project_id: str
) -> list[str] | None:
    """The groups that the body says, sorted; None if it says nothing. An admin may take any project's."""
    if body.security_groups is UNSET:
        return None
    if len(set(body.security_groups or [])) < len(body.security_groups or []):
        raise InvalidInput("security_groups has the same group twice")
    scope = None if policy.scope(context) is None else project_id
    return security_groups.kept(conn, scope, body.security_groups or [])


def of_new(conn: sa.Connection, port: Port, wanted: list[str] | None) -> Port:
    """The port in these groups; in the default one if nothing is said and it is guarded at all."""
    if wanted is None and port.port_security_enabled:
        wanted = [security_groups.ensure_default(conn, port.project_id)]
    return msgspec.structs.replace(port, security_groups=wanted or [], has_groups=True)


def check(port: Port, was: Port | None = None) -> None:
    """A port without port security is in no group."""
    if port.port_security_enabled or not port.security_groups:
        return
    if was is not None and was.port_security_enabled and port.security_groups == was.security_groups:
        raise PortSecurityPortHasSecurityGroup(
            "Port has security group associated. Cannot disable port security or IP address until security "
            "group is removed."
        )
    raise PortSecurityAndIPRequiredForSecurityGroups(
        "Port security must be enabled and port must have an IP address in order to use security groups."
    )


def adopted(conn: sa.Connection, found: Sequence[Port]) -> list[Port]:
    """The ports; those that a release without security groups has made get their project's default one."""
    older = [port for port in found if port.has_groups is None]
    if not older:
        return list(found)
    given = {port.id: of_new(conn, port, None) for port in older if _is_anybodys(port)}
    port_security.join(conn, {port.id: port.security_groups for port in given.values()})
    ports.update(conn, [port.id for port in older], {"has_groups": True})
    membership(conn, list(given.values()))
    return [given.get(port.id, port) for port in found]


def _is_anybodys(port: Port) -> bool:
    """Not the network's own, for DHCP."""
    return not port.device_owner.startswith("network:")
