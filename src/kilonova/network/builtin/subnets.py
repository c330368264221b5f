"""Subnets: create, update, delete. Every function runs inside the caller's transaction."""

from __future__ import annotations

import uuid
from ipaddress import IPv4Network
from typing import Any

import sqlalchemy as sa
from msgspec import UNSET, structs

from kilonova.config import Config
from kilonova.domain.addresses import Address, address_at, number_of, parse, parse_network
from kilonova.domain.addresses import Network as Cidr
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.network import Network, Subnet
from kilonova.network.builtin import (
    addressing,
    automatic,
    dhcp,
    ipv6_modes,
    networks,
    placement,
    policy,
    quotas,
    subnetpools,
    vifs,
)
from kilonova.network.builtin.errors import (
    GatewayIpInUse,
    InvalidInput,
    InvalidSubnetServiceType,
    NetworkSubnetPoolAffinityError,
    SubnetInUse,
    SubnetNotFound,
)
from kilonova.network.builtin.requests import SubnetCreate, SubnetUpdate, said
from kilonova.store import network_tags as tags
from kilonova.store import networks as network_store
from kilonova.store import subnets as store

_SERVED_BY_HOSTS = ("gateway_ip", "enable_dhcp", "dns_nameservers", "host_routes")
"""What hosts tell the guests on it."""

_DEVICE_OWNERS = ("network:", "compute:", "baremetal:", "neutron:")
"""How the owners begin that a service type may name."""


def find(conn: sa.Connection, context: RequestContext, subnet_id: str) -> Subnet:
    """The subnet, if the asker sees it; SubnetNotFound else."""
    subnet = store.get(conn, subnet_id, policy.scope(context))
    if subnet is None:
        raise _not_found(subnet_id)
    return subnet


def create(conn: sa.Connection, config: Config, context: RequestContext, body: SubnetCreate) -> Subnet:
    project_id = policy.project_of_new(context, body.project_id, body.tenant_id, "rule:create_subnet")
    if body.ip_version not in (4, 6):
        raise InvalidInput("ip_version must be 4 or 6")
    pool = subnetpools.asked(conn, context, body)
    network = networks.find(conn, context, body.network_id, for_update=True)
    policy.owner_only(context, "rule:create_subnet", network.project_id)
    if pool is not None:
        body = structs.replace(body, cidr=subnetpools.take(conn, pool, project_id, body))
    cidr = _cidr(config, body)
    service_types = _service_types(context, body, "create_subnet")
    ipv6_modes.check(body, cidr)
    if cidr.version == 6:
        _check_network(network)
    ports = automatic.those_to_come(conn, network.id) if ipv6_modes.automatic(body) else []
    quotas.check(conn, config, project_id, "subnet")
    _check_others(conn, network, cidr, None if pool is None else pool.id)
    gateway = _gateway(cidr, body)
    if body.allocation_pools is UNSET:
        pools = addressing.default_pools(cidr, gateway)
    else:
        pools = addressing.check_pools(cidr, gateway, body.allocation_pools)
    made = now()
    subnet = Subnet(
        id=str(uuid.uuid4()),
        network_id=network.id,
        project_id=project_id,
        name=body.name or "",
        description=body.description or "",
        cidr=str(cidr),
        ip_version=cidr.version,
        gateway_ip=None if gateway is None else str(gateway),
        enable_dhcp=body.enable_dhcp is not False,
        dns_nameservers=addressing.check_nameservers(body.dns_nameservers or [], cidr.version),
        host_routes=addressing.check_routes(body.host_routes or [], cidr.version),
        allocation_pools=pools,
        next_number=addressing.hosts(cidr).first,
        ipv6_ra_mode=ipv6_modes.of(body.ipv6_ra_mode),
        ipv6_address_mode=ipv6_modes.of(body.ipv6_address_mode),
        subnetpool_id=None if pool is None else pool.id,
        service_types=service_types,
        created_at=made,
        updated_at=made,
    )
    store.insert(conn, subnet)
    network_store.update(conn, network.id, {})
    dhcp.follow(conn, network)
    if subnet.automatic:
        automatic.come(conn, subnet, [port for port in ports if subnet.serves(port.device_owner)])
    if network.external:
        placement.tell_network(conn, network.id)
    return subnet


def update(
    conn: sa.Connection, _config: Config, context: RequestContext, subnet_id: str, body: SubnetUpdate
) -> Subnet:
    subnet = find(conn, context, subnet_id)
    policy.owner_only(context, "rule:update_subnet", *owners(conn, subnet))
    subnet = _locked(conn, context, subnet)
    changes = _changes(subnet, body)
    service_types = _service_types(context, body, "update_subnet")
    if body.service_types is not UNSET and service_types != subnet.service_types:
        changes["service_types"] = service_types
    if changes.get("enable_dhcp") is False and (subnet.ipv6_ra_mode or subnet.ipv6_address_mode):
        raise InvalidInput("Cannot disable enable_dhcp with ipv6 attributes set")
    if "gateway_ip" in changes:
        for gateway in (subnet.gateway_ip, changes["gateway_ip"]):
            _check_nobodys(conn, subnet, gateway)
    if changes:
        store.update(conn, subnet.id, changes)
        network_store.update(conn, subnet.network_id, {})
        dhcp.follow(conn, _network(conn, subnet))
    if any(name in changes for name in _SERVED_BY_HOSTS):
        vifs.show_network(conn, subnet.network_id)
        placement.tell_network(conn, subnet.network_id)
    return find(conn, context, subnet_id)


def delete(conn: sa.Connection, context: RequestContext, subnet_id: str) -> None:
    """SubnetInUse if a port beside DHCP's has an address of it: an automatic one counts only if it is a
    router's, all others lose theirs."""
    subnet = find(conn, context, subnet_id)
    policy.owner_only(context, "rule:delete_subnet", *owners(conn, subnet))
    network_store.get(conn, subnet.network_id, None, for_update=True)
    ports = automatic.those_to_go(conn, subnet.network_id) if subnet.automatic else []
    subnet = _locked(conn, context, subnet)
    if store.in_use(conn, subnet.id, subnet.automatic):
        raise SubnetInUse(
            f"Unable to complete operation on subnet {subnet.id}: "
            "One or more ports have an IP allocation from this subnet."
        )
    if subnet.automatic:
        automatic.go(conn, subnet, ports)
    store.update(conn, subnet.id, {"enable_dhcp": False})
    dhcp.follow(conn, _network(conn, subnet))
    store.delete(conn, [subnet.id])
    network_store.update(conn, subnet.network_id, {})
    tags.remove(conn, [subnet.id])
    placement.tell_network(conn, subnet.network_id)


def _check_nobodys(conn: sa.Connection, subnet: Subnet, gateway: str | None) -> None:
    """No port, a router's above all, has the address of the gateway that was, or that shall be."""
    if gateway is not None and store.taken(conn, subnet.id, number_of(parse(gateway))):
        raise GatewayIpInUse(f"Current gateway ip {gateway} already in use by a port. Unable to update.")


def owners(conn: sa.Connection, subnet: Subnet) -> list[str]:
    """The projects that may change it: its own, and its network's."""
    return [subnet.project_id, _network(conn, subnet).project_id]


def contains(subnet: Subnet, address: str) -> bool:
    return addressing.parse_address(address, "address") in parse_network(subnet.cidr)


def _not_found(subnet_id: str) -> SubnetNotFound:
    return SubnetNotFound(f"Subnet {subnet_id} could not be found.")


def _locked(conn: sa.Connection, context: RequestContext, subnet: Subnet) -> Subnet:
    """The subnet as it is once nobody else can change it or take addresses of it: whoever changes subnets
    locks their network, and who takes addresses all of its subnets."""
    network_store.get(conn, subnet.network_id, None, for_update=True)
    store.of_networks(conn, [subnet.network_id], for_update=True)
    return find(conn, context, subnet.id)


def _network(conn: sa.Connection, subnet: Subnet) -> Network:
    network = network_store.by_id(conn, [subnet.network_id]).get(subnet.network_id)
    if network is None:  # it was deleted, and its subnets with it, since this one was read
        raise _not_found(subnet.id)
    return network


def _cidr(config: Config, body: SubnetCreate) -> Cidr:
    if body.cidr is UNSET:
        raise InvalidInput("a subnet needs a cidr, or a subnet pool to take one of")
    return addressing.parse_cidr(body.cidr, body.ip_version, [IPv4Network(config.network.transit_cidr)])


def _check_network(network: Network) -> None:
    if network.external:
        raise InvalidInput("subnets of external networks are of IPv4 only: routers lead outside by that")
    if network.mtu < ipv6_modes.MIN_MTU:
        raise InvalidInput(
            f"IPv6 needs an MTU of {ipv6_modes.MIN_MTU}; that of network {network.id} is {network.mtu}"
        )


def _service_types(context: RequestContext, body: SubnetUpdate, rule: str) -> list[str] | None:
    """Admins' to say (Neutron's policy); None: the subnet is for all ports."""
    if body.service_types is UNSET or not (body.service_types or rule == "update_subnet"):
        return None
    policy.admin_only(context, f"rule:{rule}:service_types")
    for one in body.service_types or []:
        if not one.startswith(_DEVICE_OWNERS):
            raise InvalidSubnetServiceType(
                f"Subnet service type {one} does not correspond to a valid device owner."
            )
    return list(dict.fromkeys(body.service_types or [])) or None


def _gateway(cidr: Cidr, body: SubnetCreate) -> Address | None:
    if body.gateway_ip is None:
        return None
    if body.gateway_ip is UNSET:
        return address_at(cidr, addressing.hosts(cidr).first)
    return addressing.parse_gateway(body.gateway_ip, cidr)


def _check_others(conn: sa.Connection, network: Network, cidr: Cidr, pool_id: str | None) -> None:
    """The network's subnets do not overlap, and those of an IP version are all of one pool, or of none."""
    for other in store.of_networks(conn, [network.id], for_update=True).get(network.id, []):
        if cidr.overlaps(parse_network(other.cidr)):
            raise InvalidInput(
                f"Requested subnet with cidr: {cidr} for network: {network.id} overlaps with another subnet"
            )
        if other.ip_version == cidr.version and other.subnetpool_id != pool_id:
            raise NetworkSubnetPoolAffinityError(
                "Subnets hosted on the same network must be allocated from the same subnet pool."
            )


def _changes(subnet: Subnet, body: SubnetUpdate) -> dict[str, Any]:
    """What the update makes different, checked; the gateway stays off the pools whichever of them changes."""
    asked = said(body, "name", "description", "enable_dhcp")
    cidr = parse_network(subnet.cidr)
    if body.gateway_ip is not UNSET:
        new = body.gateway_ip
        asked["gateway_ip"] = None if new is None else str(addressing.parse_gateway(new, cidr))
    if body.dns_nameservers is not UNSET:
        asked["dns_nameservers"] = addressing.check_nameservers(body.dns_nameservers or [], cidr.version)
    if body.host_routes is not UNSET:
        asked["host_routes"] = addressing.check_routes(body.host_routes or [], cidr.version)
    gateway = asked.get("gateway_ip", subnet.gateway_ip)
    pools = subnet.allocation_pools if body.allocation_pools is UNSET else body.allocation_pools
    asked["allocation_pools"] = addressing.check_pools(
        cidr, None if gateway is None else addressing.parse_address(gateway, "gateway_ip"), pools
    )
    return {name: value for name, value in asked.items() if value != getattr(subnet, name)}
