"""The networks of a POST /servers, checked before it is accepted.

The answers are those that Nova gives for the same mistakes: what does not exist or does not fit is a
BadRequest, what somebody else holds is a Conflict.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from kilonova.config import Config
from kilonova.domain import addresses
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, Conflict, Forbidden, QuotaExceeded
from kilonova.domain.network import Network, Port, Subnet
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.builtin import addressing, policy, quotas
from kilonova.network.builtin.errors import OverQuota
from kilonova.store import networks as network_store
from kilonova.store import ports as port_store
from kilonova.store import subnets as subnet_store


def validate(
    conn: sa.Connection,
    config: Config,
    context: RequestContext,
    requested: Sequence[RequestedNetwork],
    count: int,
) -> list[RequestedNetwork]:
    """The request with the network of each port filled in, or the error that says what is wrong."""
    asked_ports = [ask.port_id for ask in requested if ask.port_id]
    if len(set(asked_ports)) != len(asked_ports):
        raise BadRequest("A port is requested twice")
    if count > 1 and asked_ports:
        raise BadRequest("Unable to launch multiple instances with a single configured port ID.")
    if count > 1 and any(ask.fixed_ip for ask in requested):
        raise BadRequest("Invalid fixed_ip and max_count combination: one address is for one server")
    ports = _ports(conn, context, asked_ports)
    filled = [
        msgspec.structs.replace(ask, network_id=ports[ask.port_id].network_id) if ask.port_id else ask
        for ask in requested
    ]
    networks = _networks(conn, context, filled)
    subnets = subnet_store.of_networks(conn, sorted(networks))
    for ask in filled:
        if not ask.port_id:
            network = networks[ask.network_id or ""]
            _check_new(conn, context, network, subnets.get(network.id, []), ask.fixed_ip)
    _check_same_address_twice(filled)
    _check_quota(conn, config, context, count * (len(filled) - len(asked_ports)))
    return filled


def _ports(conn: sa.Connection, context: RequestContext, port_ids: Sequence[str]) -> dict[str, Port]:
    """Ports that the asker owns and a server may take. What is not the asker's is not there."""
    found = port_store.by_id(conn, port_ids)
    for port_id in port_ids:
        port = found.get(port_id)
        if port is None or policy.scope(context) not in (None, port.project_id):
            raise BadRequest(f"Port {port_id} could not be found.")
        if port.device_id:
            raise Conflict(f"Port {port_id} is still in use.")
        if not port.fixed_ips:
            raise BadRequest(f"Port {port_id} requires a FixedIP in order to be used.")
        if not port.admin_state_up:
            raise BadRequest(f"Port {port_id} is administratively down.")
    return found


def _networks(
    conn: sa.Connection, context: RequestContext, requested: Sequence[RequestedNetwork]
) -> dict[str, Network]:
    """The networks, if the asker sees them (a port of the asker's shows its network too)."""
    found = network_store.by_id(conn, sorted({ask.network_id for ask in requested if ask.network_id}))
    seen = network_store.visible(conn, sorted(found), policy.scope(context))
    for ask in requested:
        network = found.get(ask.network_id or "")
        if network is None or not (ask.port_id or network.id in seen):
            raise BadRequest(f"Network {ask.network_id} could not be found.")
        if network.external:
            raise Forbidden(f"It is not allowed to create an interface on external network {network.id}")
        if not network.admin_state_up:
            raise BadRequest(f"Network {network.id} is administratively down.")
    return found


def _check_new(
    conn: sa.Connection,
    context: RequestContext,
    network: Network,
    subnets: Sequence[Subnet],
    fixed_ip: str | None,
) -> None:
    """A port could be made there, with that address."""
    if not subnets:
        raise BadRequest(f"Network {network.id} requires a subnet in order to boot instances on.")
    if fixed_ip is None:
        if not any(_may_serve_servers(subnet) for subnet in subnets):
            raise BadRequest(f"Network {network.id} has no subnet for servers: none by its service types.")
        return
    if policy.scope(context) not in (None, network.project_id):
        raise policy.denied("rule:create_port and rule:create_port:fixed_ips:ip_address")
    wrong = BadRequest(f"Fixed IP address {fixed_ip} is not a valid ip address for network {network.id}.")
    try:
        address = addresses.parse(fixed_ip)
    except ValueError as error:
        raise wrong from error
    subnet = next((s for s in subnets if address in addresses.parse_network(s.cidr)), None)
    if subnet is None:
        raise wrong
    if not addressing.is_host(addresses.parse_network(subnet.cidr), address):
        raise wrong
    if subnet.automatic:
        raise BadRequest(
            f"IPv6 address {address} cannot be directly assigned to a port on subnet {subnet.id} as the "
            "subnet is configured for automatic addresses"
        )
    if str(address) == subnet.gateway_ip or subnet_store.taken(conn, subnet.id, addresses.number_of(address)):
        raise BadRequest(f"Fixed IP address {fixed_ip} is already in use.")


def _may_serve_servers(subnet: Subnet) -> bool:
    """Of some zone; which it will be the scheduler says."""
    return not subnet.service_types or any(one.startswith("compute:") for one in subnet.service_types)


def _check_same_address_twice(requested: Sequence[RequestedNetwork]) -> None:
    exact = [(ask.network_id, ask.fixed_ip) for ask in requested if ask.fixed_ip and not ask.port_id]
    if len(set(exact)) != len(exact):
        raise BadRequest("A fixed address is requested twice")


def _check_quota(conn: sa.Connection, config: Config, context: RequestContext, count: int) -> None:
    if not count or context.project_id is None:
        return
    try:
        quotas.check(conn, config, context.project_id, "port", count, for_update=False)
    except OverQuota as error:
        raise QuotaExceeded("Maximum number of ports exceeded") from error
