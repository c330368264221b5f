"""A network with subnets of the default pools, and a router from there to the default external network: made
for a project that has none, as one thing. Every function runs inside the caller's transaction.
"""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from kilonova.config import Config
from kilonova.domain.context import RequestContext
from kilonova.domain.network import Network, SubnetPool
from kilonova.network.builtin import networks, policy, router_interfaces, routers, subnets
from kilonova.network.builtin.errors import AutoAllocationFailure
from kilonova.network.builtin.requests import NetworkCreate, SubnetCreate
from kilonova.network.builtin.router_requests import ExternalGatewayInfo, InterfaceRequest, RouterCreate
from kilonova.store import auto_allocated_topologies as store
from kilonova.store import networks as network_store
from kilonova.store import routers as router_store
from kilonova.store import subnetpools as pool_store


def check(conn: sa.Connection) -> tuple[Network, list[SubnetPool]]:
    """What a topology would be made of. AutoAllocationFailure: an admin has not said what."""
    outside = network_store.default_external(conn)
    if outside is None:
        raise AutoAllocationFailure("No default router:external network")
    pools = [pool for version in (4, 6) if (pool := pool_store.default(conn, version)) is not None]
    if not pools:
        raise AutoAllocationFailure("No default subnetpools defined")
    return outside, pools


def ensure(conn: sa.Connection, config: Config, context: RequestContext, project_id: str) -> str:
    """Id of the project's network, made now if this is its first need."""
    policy.owner_only(context, "rule:create_auto_allocated_topology", project_id)
    store.lock(conn, project_id)
    found = store.of(conn, project_id)
    if found is not None and found.router_id is not None:
        return found.network_id
    store.delete(conn, project_id)  # somebody has deleted its router
    outside, pools = check(conn)
    for pool in pools:
        pool_store.get(conn, pool.id, None, for_update=True)
    networks.find(conn, context, outside.id, for_update=True)  # as all do, before quotas
    asked_network = NetworkCreate(project_id=project_id, name="auto_allocated_network")
    made = networks.create(conn, config, context, asked_network)
    gateway = ExternalGatewayInfo(network_id=outside.id)
    asked_router = RouterCreate(
        project_id=project_id, name="auto_allocated_router", external_gateway_info=gateway
    )
    router = routers.create(conn, config, context, asked_router)
    for pool in pools:
        subnet = subnets.create(conn, config, context, _subnet(made, project_id, pool))
        asked = InterfaceRequest(subnet_id=subnet.id)
        router_interfaces.add(conn, config, context, router.id, asked)
    store.put(conn, project_id, made.id, router.id)
    return made.id


def delete(conn: sa.Connection, context: RequestContext, project_id: str) -> None:
    """Of a project that has none, nothing. Conflict while ports use it."""
    policy.owner_only(context, "rule:delete_auto_allocated_topology", project_id)
    store.lock(conn, project_id)
    found = store.of(conn, project_id)
    if found is None:
        return
    store.delete(conn, project_id)
    if found.router_id is not None:
        for port in router_store.interfaces(conn, [found.router_id]):
            asked = InterfaceRequest(port_id=port.id)
            router_interfaces.remove(conn, context, found.router_id, asked)
        routers.delete(conn, context, found.router_id)
    networks.delete(conn, context, found.network_id)


def _subnet(network: Network, project_id: str, pool: SubnetPool) -> SubnetCreate:
    asked = SubnetCreate(
        network_id=network.id,
        project_id=project_id,
        name=f"auto_allocated_subnet_v{pool.ip_version}",
        ip_version=pool.ip_version,
        use_default_subnetpool=True,
    )
    if pool.ip_version == 4:
        return asked
    return msgspec.structs.replace(asked, ipv6_ra_mode="slaac", ipv6_address_mode="slaac")
