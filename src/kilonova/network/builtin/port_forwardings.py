"""Ports of floating IPs that lead inside: create, update, delete. Every function runs inside the caller's
transaction.

They are their floating IP's: who sees that sees them, who may change that may change them, and its row is
locked, after its router's, before they change. A floating IP that leads somewhere as a whole has none.
"""

from __future__ import annotations

import uuid
from typing import NamedTuple

import sqlalchemy as sa
from msgspec import UNSET, UnsetType, structs

from kilonova.config import Config
from kilonova.domain.context import RequestContext
from kilonova.domain.network import FixedIp, Port
from kilonova.domain.routers import FloatingIp, PortForwarding
from kilonova.network.builtin import addressing, floating_ips, placement, policy
from kilonova.network.builtin import ports as port_service
from kilonova.network.builtin.errors import (
    BadPortForwardingRequest,
    FloatingIPPortAlreadyAssociated,
    PortForwardingNotFound,
    PortHasBindingFloatingIP,
)
from kilonova.network.builtin.requests import said
from kilonova.network.builtin.router_requests import PortForwardingCreate, PortForwardingUpdate
from kilonova.store import floating_ips as floating_store
from kilonova.store import port_forwardings as store

PROTOCOLS = ("tcp", "udp")
MOST_SHIFTED = 1024
"""Ports of a range that leads to other ports than its own: hosts know each of them by itself."""


class Span(NamedTuple):
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}:{self.last}"


def find(
    conn: sa.Connection, context: RequestContext, floating_id: str, forwarding_id: str
) -> PortForwarding:
    """The forwarding, if the asker sees its floating IP; FloatingIPNotFound, PortForwardingNotFound else."""
    floating = floating_ips.find(conn, context, floating_id)
    found = store.get(conn, floating.id, forwarding_id)
    if found is None:
        raise PortForwardingNotFound(f"Port Forwarding {forwarding_id} could not be found.")
    return found


def create(
    conn: sa.Connection,
    _config: Config,
    context: RequestContext,
    floating_id: str,
    body: PortForwardingCreate,
) -> PortForwarding:
    floating = _to_change(conn, context, floating_id, "create")
    external = _span("external", body.external_port, body.external_port_range)
    internal = _span("internal", body.internal_port, body.internal_port_range)
    if external is None or internal is None:
        raise BadPortForwardingRequest("both an external and an internal port, or range, are needed")
    port, fixed = _target(conn, context, floating, body.internal_port_id, body.internal_ip_address)
    one = PortForwarding(
        id=str(uuid.uuid4()),
        floating_ip_id=floating.id,
        port_id=port.id,
        fixed_ip_address=fixed.ip_address,
        protocol=_protocol(body.protocol),
        external_first=external.first,
        external_last=external.last,
        internal_first=internal.first,
        internal_last=internal.last,
        description=body.description or "",
    )
    _check(conn, context, floating, one, fixed)
    store.insert(conn, one)
    return one


def update(
    conn: sa.Connection,
    _config: Config,
    context: RequestContext,
    floating_id: str,
    forwarding_id: str,
    body: PortForwardingUpdate,
) -> PortForwarding:
    floating = _to_change(conn, context, floating_id, "update")
    was = find(conn, context, floating_id, forwarding_id)
    external = _span("external", body.external_port, body.external_port_range)
    internal = _span("internal", body.internal_port, body.internal_port_range)
    changes = said(body, "description")
    if body.protocol is not UNSET:
        changes["protocol"] = _protocol(body.protocol)
    if external is not None:
        changes |= {"external_first": external.first, "external_last": external.last}
    if internal is not None:
        changes |= {"internal_first": internal.first, "internal_last": internal.last}
    port_id = was.port_id if body.internal_port_id is UNSET else body.internal_port_id
    address = body.internal_ip_address
    if address in (UNSET, None) and port_id == was.port_id:
        address = was.fixed_ip_address
    port, fixed = _target(conn, context, floating, port_id, address)
    one = structs.replace(was, **changes, port_id=port.id, fixed_ip_address=fixed.ip_address)
    _check(conn, context, floating, one, fixed)
    find(conn, context, floating_id, forwarding_id)  # not deleted meanwhile
    store.update(conn, one.id, structs.asdict(one))
    return one


def delete(conn: sa.Connection, context: RequestContext, floating_id: str, forwarding_id: str) -> None:
    floating = _to_change(conn, context, floating_id, "delete")
    floating_ips.lock_routers(conn, floating.router_id)
    floating = floating_ips.find(conn, context, floating_id, for_update=True)
    one = find(conn, context, floating_id, forwarding_id)
    store.delete(conn, one.id)
    last = len(floating.forwardings) == 1
    floating_store.update(conn, floating.id, {"router_id": None} if last else {})
    placement.tell(conn, [floating.router_id] if floating.router_id else [])


def _to_change(conn: sa.Connection, context: RequestContext, floating_id: str, what: str) -> FloatingIp:
    floating = floating_ips.find(conn, context, floating_id)
    policy.owner_only(context, f"rule:{what}_floatingip_port_forwarding", floating.project_id)
    return floating


def _target(
    conn: sa.Connection,
    context: RequestContext,
    floating: FloatingIp,
    port_id: str,
    wanted: str | UnsetType | None,
) -> tuple[Port, FixedIp]:
    """The port inside, and which address of it is meant: its first one, if the caller does not say."""
    port = port_service.find(conn, context, port_id)
    if not context.is_admin and port.project_id != floating.project_id:
        raise BadPortForwardingRequest(
            f"Port {port.id} is associated with a different tenant than Floating IP {floating.id}"
        )
    if port.device_owner.startswith("network:"):
        raise BadPortForwardingRequest(f"Port {port.id} is the network service's own ({port.device_owner})")
    four = [fixed for fixed in port.fixed_ips if ":" not in fixed.ip_address]
    if not four:
        raise BadPortForwardingRequest(
            f"Requested internal port {port.id} must allocate an IPv4 address at least"
        )
    if wanted in (UNSET, None):
        return port, four[0]
    ip = str(addressing.parse_address(str(wanted), "internal_ip_address", 4))
    for fixed in four:
        if fixed.ip_address == ip:
            return port, fixed
    raise BadPortForwardingRequest(
        f"Requested internal IP address {ip} is not suitable for internal neutron port {port.id}, as its "
        f"fixed_ips are {', '.join(fixed.ip_address for fixed in four)}"
    )


def _check(
    conn: sa.Connection, context: RequestContext, floating: FloatingIp, one: PortForwarding, fixed: FixedIp
) -> None:
    """It can be so, and stays so until the transaction ends; its router is the floating IP's, and told."""
    _check_spans(one)
    router_id = _router(conn, floating, one, fixed)
    floating = floating_ips.find(conn, context, floating.id, for_update=True)
    if floating.fixed_port_id is not None:
        raise FloatingIPPortAlreadyAssociated(
            f"Cannot associate floating IP {floating.floating_ip_address} ({floating.id}) with port "
            f"{one.port_id} using fixed IP {one.fixed_ip_address}, as that floating IP already leads to "
            f"port {floating.fixed_port_id}."
        )
    others = [other for other in floating.forwardings if other.id != one.id]
    if others and floating.router_id != router_id:
        raise BadPortForwardingRequest(
            f"The Floating IP {floating.id} had been set on router {floating.router_id}, the internal "
            f"Neutron port {one.port_id} can not reach it"
        )
    port = port_service.find(conn, context, one.port_id, for_update=True)
    if fixed not in port.fixed_ips:
        raise BadPortForwardingRequest(f"Port {port.id} does not have fixed ip {fixed.ip_address}")
    if there := floating_store.of_port(conn, port.id):
        raise PortHasBindingFloatingIP(
            f"Cannot create port forwarding to floating IP {there[1]} ({there[0]}) with port {port.id} using "
            f"fixed IP {one.fixed_ip_address}, as that port already has a binding floating IP."
        )
    _check_collisions(conn, one)
    floating_store.update(conn, floating.id, {"router_id": router_id})
    placement.tell(conn, {router_id, floating.router_id or router_id})


def _router(conn: sa.Connection, floating: FloatingIp, one: PortForwarding, fixed: FixedIp) -> str:
    """The router from the floating IP's network to that address, locked."""
    external_id = floating.floating_network_id
    router_id = floating_ips.router_out(conn, external_id, fixed.subnet_id, floating.router_id)
    if router_id is None:
        raise BadPortForwardingRequest(
            f"External network {external_id} is not reachable from subnet {fixed.subnet_id}. Cannot set Port "
            f"forwarding for port {one.port_id} with Floating IP {floating.id}"
        )
    return router_id


def _check_spans(one: PortForwarding) -> None:
    outer, inner = one.external_last - one.external_first, one.internal_last - one.internal_first
    if inner not in (0, outer):
        raise BadPortForwardingRequest(
            "Invalid ranges of internal and/or external ports. The relation between internal and external "
            "ports must be N-N or 1-N"
        )
    if inner >= MOST_SHIFTED and one.internal_first != one.external_first:
        raise BadPortForwardingRequest(
            f"a range of more than {MOST_SHIFTED} ports can only lead to the same ports inside"
        )


def _check_collisions(conn: sa.Connection, one: PortForwarding) -> None:
    outside = Span(one.external_first, one.external_last)
    inside = Span(one.internal_first, one.internal_last)
    if there := store.colliding_outside(conn, one):
        raise _collision("external", Span(there.external_first, there.external_last), outside)
    if there := store.colliding_inside(conn, one):
        raise _collision("internal", Span(there.internal_first, there.internal_last), inside)


def _collision(side: str, there: Span, wanted: Span) -> BadPortForwardingRequest:
    return BadPortForwardingRequest(
        f"There is a port collision with the {side}_port_range. The following ranges collide: {there} and "
        f"{wanted}"
    )


def _protocol(text: str) -> str:
    if text.lower() not in PROTOCOLS:
        raise BadPortForwardingRequest(
            f"protocol {text!r} has no ports that are forwarded: {', '.join(PROTOCOLS)} have"
        )
    return text.lower()


def _span(side: str, one: int | UnsetType | None, several: str | int | UnsetType | None) -> Span | None:
    """What is said of a side's ports; None: nothing."""
    alone = None if one in (UNSET, None) else Span(int(one), int(one))
    if several in (UNSET, None):
        return alone
    text = str(several)
    first, colon, last = text.partition(":")
    numbers = [first, last] if colon else [first]
    if not all(number.isascii() and number.isdecimal() and 0 < int(number) < 65536 for number in numbers):
        raise BadPortForwardingRequest(f"{side}_port_range: '{text}' is not a range of ports from 1 to 65535")
    span = Span(int(numbers[0]), int(numbers[-1]))
    if span.first > span.last:
        raise BadPortForwardingRequest(f"{side}_port_range: the first port of '{text}' is after the last")
    if alone is not None and alone != span:
        raise BadPortForwardingRequest(f"{side}_port and {side}_port_range say different ports")
    return span
