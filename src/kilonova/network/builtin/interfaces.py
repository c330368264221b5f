"""NICs that come to a server that exists, and leave it; and the addresses of those it has.

Every function runs inside the caller's transaction. The errors are those that Nova gives.
"""

from __future__ import annotations

import sqlalchemy as sa
from msgspec import structs

from kilonova.config import Config
from kilonova.domain import addresses
from kilonova.domain.context import RequestContext
from kilonova.domain.errors import BadRequest, BuildAborted, Conflict, NotFound, QuotaExceeded
from kilonova.domain.network import FixedIp, Port
from kilonova.domain.servers import RequestedNetwork
from kilonova.network.base import Seat
from kilonova.network.builtin import instances, placement, policy, quotas
from kilonova.network.builtin.changes import membership
from kilonova.network.builtin.errors import IpAddressGenerationFailure, OverQuota
from kilonova.network.builtin.ipam import Allocator
from kilonova.network.builtin.requested import validate
from kilonova.store import networks as network_store
from kilonova.store import ports as store
from kilonova.store import subnets as subnet_store


def attach(
    conn: sa.Connection, config: Config, context: RequestContext, seat: Seat, asked: RequestedNetwork
) -> str:
    """The id of the port that is the server's next NIC from now on."""
    context = structs.replace(context, project_id=seat.project_id)  # an admin's attach is the server's
    store.lock_server(conn, seat.server_id)
    have = store.of_servers(conn, [seat.server_id])
    if asked.port_id is not None:
        _check_port(conn, context, asked.port_id)
    else:
        asked = _with_network(conn, context, asked)
    (asked,) = validate(conn, config, context, [asked], 1)
    nic = 1 + max((port.nic for port in have if port.nic is not None), default=-1)
    if asked.port_id is not None:
        return _bind(conn, seat, asked, nic)
    return _make(conn, config, seat, asked, nic)


def detach(conn: sa.Connection, server_id: str, port_id: str) -> None:
    """Nothing if the server has no such port (any more)."""
    store.lock_server(conn, server_id)
    instances.let_go(conn, [port for port in store.of_servers(conn, [server_id]) if port.id == port_id])


def add_fixed_ip(conn: sa.Connection, server_id: str, network_id: str) -> None:
    port = next((port for port in _nics(conn, server_id) if port.network_id == network_id), None)
    if port is None:
        raise BadRequest(f"Network {network_id} is not a network of instance {server_id}.")
    network = network_store.by_id(conn, [network_id])[network_id]
    subnets = subnet_store.of_networks(conn, [network_id], for_update=True).get(network_id, [])
    allocator = Allocator(conn, network, subnets, port.device_owner)
    try:
        added = allocator.one_more()
    except IpAddressGenerationFailure as error:
        raise BadRequest(_no_more(network_id)) from error
    allocator.finish()
    _readdress(conn, port, [*port.fixed_ips, added])


def remove_fixed_ip(conn: sa.Connection, server_id: str, address: str) -> None:
    for port in _nics(conn, server_id):
        left = [fixed for fixed in port.fixed_ips if fixed.ip_address != address]
        if len(left) < len(port.fixed_ips):
            _readdress(conn, port, left)
            return
    raise BadRequest(f"Instance {server_id} doesn't have fixed IP '{address}'.")


def _nics(conn: sa.Connection, server_id: str) -> list[Port]:
    """The server's ports in their order, locked."""
    store.lock_server(conn, server_id)
    ids = sorted(port.id for port in store.of_servers(conn, [server_id]))
    found = store.by_id(conn, ids, for_update=True).values()
    return sorted((port for port in found if port.nic is not None), key=lambda port: port.nic or 0)


def _readdress(conn: sa.Connection, port: Port, fixed_ips: list[FixedIp]) -> None:
    moved = structs.replace(port, fixed_ips=fixed_ips)
    store.take_back(conn, port.id)
    store.give(conn, {port.id: fixed_ips})
    store.update(conn, [port.id], {})
    placement.tell(conn, store.free_floating(conn, moved))
    membership(conn, [port], [moved])


def _check_port(conn: sa.Connection, context: RequestContext, port_id: str) -> None:
    """Locked, so that nobody else takes it: NotFound for what the asker does not see."""
    port = store.by_id(conn, [port_id], for_update=True).get(port_id)
    if port is None or policy.scope(context) not in (None, port.project_id):
        raise NotFound(f"Port id {port_id} could not be found.")


def _with_network(conn: sa.Connection, context: RequestContext, asked: RequestedNetwork) -> RequestedNetwork:
    """The request with its network, which the asker sees; what is taken there is a Conflict."""
    network_id = asked.network_id or _only_network(conn, context)
    network = network_store.get(conn, network_id, policy.scope(context), to_use=True)
    if network is None:
        raise NotFound(f"Network {network_id} could not be found.")
    if asked.network_id is not None and asked.fixed_ip is not None:
        _check_free(conn, network.id, asked.fixed_ip)
    return structs.replace(asked, network_id=network.id)


def _only_network(conn: sa.Connection, context: RequestContext) -> str:
    found = network_store.usable(conn, context.project_id or "")
    if not found:
        raise BadRequest(
            f"No specific network was requested and none are available for project '{context.project_id}'."
        )
    if len(found) > 1:
        raise BadRequest(
            "More than one possible network found. Specify network ID(s) to select which one(s) to "
            "connect to."
        )
    return str(found[0].id)


def _check_free(conn: sa.Connection, network_id: str, address: str) -> None:
    try:
        wanted = addresses.parse(address)
    except ValueError:
        return  # validate() says what is wrong with it
    subnets = subnet_store.of_networks(conn, [network_id], for_update=True).get(network_id, [])
    around = [subnet for subnet in subnets if wanted in addresses.parse_network(subnet.cidr)]
    if any(subnet_store.taken(conn, subnet.id, addresses.number_of(wanted)) for subnet in around):
        raise Conflict(f"Fixed IP address {address} is already in use on network {network_id}.")


def _bind(conn: sa.Connection, seat: Seat, asked: RequestedNetwork, nic: int) -> str:
    port = store.by_id(conn, [asked.port_id or ""], for_update=True)[asked.port_id or ""]
    subnet_store.of_networks(conn, [port.network_id], for_update=True)
    try:
        return instances.bind(conn, seat, port, nic, asked).id
    except BuildAborted as error:
        raise BadRequest(error.message) from error


def _make(conn: sa.Connection, config: Config, seat: Seat, asked: RequestedNetwork, nic: int) -> str:
    network_id = asked.network_id or ""
    try:
        quotas.check(conn, config, seat.project_id, "port")
        subnets = subnet_store.of_networks(conn, [network_id], for_update=True)
        networks = network_store.by_id(conn, [network_id])
        if network_id not in networks:
            raise NotFound(f"Network {network_id} could not be found.")
        (port,) = instances.make(conn, seat, [(nic, asked)], networks, subnets)
    except OverQuota as error:
        raise QuotaExceeded("Maximum number of ports exceeded") from error
    except IpAddressGenerationFailure as error:
        raise BadRequest(_no_more(network_id)) from error
    return port.id


def _no_more(network_id: str) -> str:
    return f"No fixed IP addresses available for network: {network_id}"
