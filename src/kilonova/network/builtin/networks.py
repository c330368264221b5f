"""Networks: create, update, delete. Every function runs inside the caller's transaction."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from msgspec import UNSET, structs

from kilonova.config import Config
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.network import EXTERNAL, SHARED, VXLAN_OVERHEAD, Network
from kilonova.network.builtin import ipv6_modes, placement, policy, quotas, segments, sharing, vifs
from kilonova.network.builtin.errors import (
    DefaultExternalNetworkExists,
    ExternalNetworkInUse,
    InvalidInput,
    InvalidSharedSetting,
    NetworkInUse,
    NetworkNotFound,
)
from kilonova.network.builtin.requests import NetworkCreate, NetworkUpdate, said
from kilonova.store import floating_ips, ports, routers, subnets
from kilonova.store import network_tags as tags
from kilonova.store import networks as store

_OF_NICS = ("name", "mtu", "admin_state_up")
"""What the NICs on it have from their network: links of guests are down where it is."""

MIN_MTU = 68
"""Octets that every IPv4 link must carry (RFC 791)."""


def find(
    conn: sa.Connection,
    context: RequestContext,
    network_id: str,
    for_update: bool = False,
    to_use: bool = False,
) -> Network:
    """The network, if the asker sees it; NetworkNotFound else. ``to_use``: ports will be made there."""
    network = store.get(conn, network_id, policy.scope(context), for_update, to_use)
    if network is None:
        raise NetworkNotFound(f"Network {network_id} could not be found.")
    return network


def create(conn: sa.Connection, config: Config, context: RequestContext, body: NetworkCreate) -> Network:
    project_id = policy.project_of_new(context, body.project_id, body.tenant_id, "rule:create_network")
    if body.availability_zone_hints:
        raise InvalidInput("availability_zone_hints: a network is where its guests are, in any zone")
    if body.is_default is not UNSET:
        policy.admin_only(context, "rule:create_network:is_default")
    if body.shared is True:
        policy.admin_only(context, "rule:create_network:shared")
    if body.router_external is True:
        policy.admin_only(context, "rule:create_network:router:external")
    quotas.check(conn, config, project_id, "network")
    made = now()
    network = Network(
        id=str(uuid.uuid4()),
        project_id=project_id,
        name=body.name or "",
        description=body.description or "",
        admin_state_up=body.admin_state_up is not False,
        shared=body.shared is True,
        mtu=_mtu(config, body.mtu or 0, body.router_external is True),
        port_security_enabled=body.port_security_enabled is not False,
        external=body.router_external is True,
        is_default=body.is_default is True,
        segmentation_id=segments.of_new(conn, config, context, body),
        created_at=made,
        updated_at=made,
    )
    _check_default(conn, network)
    store.insert(conn, network)
    sharing.adopt(conn, network)
    return network


def update(
    conn: sa.Connection, config: Config, context: RequestContext, network_id: str, body: NetworkUpdate
) -> Network:
    network = find(conn, context, network_id, for_update=True)
    policy.owner_only(context, "rule:update_network", network.project_id)
    segments.refuse(body)
    changes = said(body, "name", "description", "admin_state_up", "shared", "mtu", "port_security_enabled")
    if "mtu" in changes:
        changes["mtu"] = _mtu(config, changes["mtu"], bool(network.external))
        if changes["mtu"] < ipv6_modes.MIN_MTU and subnets.has_ipv6(conn, network.id):
            raise InvalidInput(f"Requested MTU is too small: IPv6 needs {ipv6_modes.MIN_MTU}")
    if changes.get("shared", network.shared) != network.shared:
        _check_sharing(conn, context, network)
        sharing.set_for_everybody(conn, network, SHARED, changes["shared"])
    if body.router_external is not UNSET and body.router_external != bool(network.external):
        check_external(conn, context, network)
        sharing.set_for_everybody(conn, network, EXTERNAL, body.router_external)
        changes |= {"external": body.router_external, "external_restricted": None, "is_default": None}
    if body.is_default is not UNSET:
        policy.admin_only(context, "rule:update_network:is_default")
        changes["is_default"] = body.is_default
        _check_default(conn, structs.replace(network, **changes))
    if changes:
        store.update(conn, network.id, changes)
    if _differs(network, changes, *_OF_NICS):
        # Whoever gives a server an address here has committed, or will read what was written now.
        subnets.of_networks(conn, [network.id], for_update=True)
        vifs.show_network(conn, network.id)
        placement.tell_network(conn, network.id)
    return find(conn, context, network_id)


def delete(conn: sa.Connection, context: RequestContext, network_id: str) -> None:
    """The network with its subnets, its DHCP port, and floating IPs that lead nowhere. NetworkInUse if there
    is any other port."""
    network = find(conn, context, network_id, for_update=True)
    policy.owner_only(context, "rule:delete_network", network.project_id)
    gone = [network.id, *_drop_free(conn, network)]
    if users := ports.in_use(conn, network.id):
        raise NetworkInUse(
            f"Unable to complete operation on network {network.id}. "
            f"There are one or more ports still in use on the network, id for these ports is "
            f"{', '.join(users)}."
        )
    if dhcp := ports.dhcp_port(conn, network.id):
        ports.delete(conn, [dhcp.id])
        gone.append(dhcp.id)
    if own := store.subnet_ids(conn, [network.id]).get(network.id):
        subnets.delete(conn, own)
        gone += own
    store.delete(conn, network.id)
    tags.remove(conn, gone)


def _drop_free(conn: sa.Connection, network: Network) -> list[str]:
    """Floating IPs of the network that lead nowhere are gone; their ids, and those of their ports."""
    free = floating_ips.free_of(conn, network.id)
    floating_ips.delete(conn, list(free))
    ports.delete(conn, list(free.values()))
    return [*free, *free.values()]


def _check_default(conn: sa.Connection, network: Network) -> None:
    """There is one default external network at most."""
    if not network.is_default:
        return
    if not network.external:
        raise InvalidInput("is_default: only an external network can be the default one")
    store.lock_default(conn)
    other = store.default_external(conn)
    if other is not None and other.id != network.id:
        raise DefaultExternalNetworkExists(f"A default external network already exists: {other.id}.")


def _check_sharing(conn: sa.Connection, context: RequestContext, network: Network) -> None:
    policy.admin_only(context, "rule:update_network:shared")
    if network.shared and sharing.stranded(conn, network, SHARED, None):
        raise InvalidSharedSetting(
            f"Unable to reconfigure sharing settings for network {network.id}. Multiple tenants are using it."
        )


def check_external(conn: sa.Connection, context: RequestContext, network: Network) -> None:
    """It may become external, or cease to be it: hosts serve the two kinds in different ways."""
    policy.admin_only(context, "rule:update_network:router:external")
    if network.external and routers.gateways_on(conn, network.id):
        raise ExternalNetworkInUse(
            f"External network {network.id} cannot be updated to be made non-external, since it has "
            "existing gateway ports."
        )
    if not network.external and subnets.has_ipv6(conn, network.id):
        raise InvalidInput("subnets of external networks are of IPv4 only: routers lead outside by that")
    if not network.external and (users := ports.in_use(conn, network.id)):
        raise NetworkInUse(
            f"Unable to complete operation on network {network.id}. It can become external only without "
            f"ports; it has {', '.join(users)}."
        )


def _differs(network: Network, changes: dict[str, object], *names: str) -> bool:
    return any(name in changes and changes[name] != getattr(network, name) for name in names)


def _mtu(config: Config, asked: int, external: bool) -> int:
    """0 means the default, which is also the most that the hosts' links, and the tunnels over them, carry."""
    most = config.network.mtu - (VXLAN_OVERHEAD if config.has_tunnels and not external else 0)
    if asked == 0:
        return most
    if asked > most:
        raise InvalidInput(f"Requested MTU is too big, maximum is {most}")
    if asked < MIN_MTU:
        raise InvalidInput(f"Requested MTU is too small, minimum is {MIN_MTU}")
    return asked
