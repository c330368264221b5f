"""Ports: create, update, delete, as a user asks. Every function runs inside the caller's transaction."""

from __future__ import annotations

import re
import uuid
from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec import UNSET

from kilonova.config import Config
from kilonova.domain import addresses, dhcp_options
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.dhcp_options import DhcpOption
from kilonova.domain.network import AddressPair, FixedIp, Network, Port
from kilonova.domain.servers import VmState
from kilonova.network.builtin import macs, networks, placement, policy, port_groups, quotas, tunnels, vifs
from kilonova.network.builtin.changes import Change, changed, membership
from kilonova.network.builtin.errors import (
    AddressPairAndPortSecurityRequired,
    InvalidInput,
    MacAddressInUse,
    PortInUse,
    PortNotFound,
    ServicePortInUse,
)
from kilonova.network.builtin.ipam import Allocator
from kilonova.network.builtin.requests import FixedIpRequest, PortCreate, PortUpdate, said
from kilonova.store import network_tags as tags
from kilonova.store import networks as network_store
from kilonova.store import port_security, servers
from kilonova.store import ports as store
from kilonova.store import subnets as subnet_store

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")

MAX_PROFILE = 4095
"""Bytes of a binding:profile as JSON (Neutron's column)."""

MAX_DHCP_OPTIONS = 32

_ADMINS = {"host", "profile"}
_NETWORK_OWNERS = {"mac_address", "port_security_enabled", "allowed_address_pairs", "fixed_ips"}

_FREE = {"name", "description"}
"""What changes nothing for anybody who uses the port."""

_GUARDS = {"security_groups", "allowed_address_pairs", "port_security_enabled"}
"""What may pass: the host of a server that holds the port asks for it anew (``network_state``)."""

_WIRING = {"admin_state_up", "dns_name", "extra_dhcp_opts"}
"""As addresses, and that it is there at all: its host compares the server's NICs (``refresh_interfaces``)."""

_FREE_WHILE_PLUGGED = _FREE | _GUARDS | _WIRING | {"fixed_ips", "delete"}
"""All that may change while a server holds the port."""


def find(conn: sa.Connection, context: RequestContext, port_id: str, for_update: bool = False) -> Port:
    """The port, if the asker sees it; PortNotFound else."""
    port = store.get(conn, port_id, policy.scope(context), for_update)
    if port is None:
        raise PortNotFound(f"Port {port_id} could not be found.")
    return port


def new_port(network: Network, **values: Any) -> Port:
    """A port of that network, not yet written; ``values`` are fields of Port."""
    made = now()
    defaults: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "network_id": network.id,
        "port_security_enabled": network.port_security_enabled,
        "has_groups": True,
        "created_at": made,
        "updated_at": made,
    }
    return Port(**(defaults | values))


def create(conn: sa.Connection, config: Config, context: RequestContext, body: PortCreate) -> Port:
    project_id = policy.project_of_new(context, body.project_id, body.tenant_id, "rule:create_port")
    network = networks.find(conn, context, body.network_id, to_use=True)
    if body.fixed_ips is not UNSET and network.external and not _is_shared(conn, context, network):
        policy.owner_only(context, "rule:create_port:fixed_ips", network.project_id)
    values = _values(body)
    _check_device_owner(context, network, values, "create_port")
    exact = {"fixed_ips"} if _exact(body) else set()
    _check_rights(context, network, set(values) | exact, "create_port")
    quotas.check(conn, config, project_id, "port")
    values["mac_address"] = values.get("mac_address") or macs.draw(conn, [network.id])[0]
    _check_mac(conn, network.id, values["mac_address"])
    values["fixed_ips"] = _addresses(
        conn, network, body, values["mac_address"], values.get("device_owner", "")
    )
    values["extra_dhcp_opts"] = _dhcp_options([], body)
    port = new_port(network, project_id=project_id, **values)
    port = port_groups.of_new(conn, port, port_groups.asked(conn, context, body, project_id))
    _check_pairs(port)
    port_groups.check(port)
    store.insert(conn, [port])
    membership(conn, [port])
    return port


def update(
    conn: sa.Connection, _config: Config, context: RequestContext, port_id: str, body: PortUpdate
) -> Port:
    (port,) = port_groups.adopted(conn, [find(conn, context, port_id, for_update=True)])
    network = _network(conn, port)
    policy.owner_only(context, "rule:update_port", port.project_id)
    values = _values(body)
    if values.get("device_owner") != port.device_owner:
        _check_device_owner(context, network, values, "update_port")
    groups = port_groups.asked(conn, context, body, port.project_id)
    if groups is not None:
        values["security_groups"] = groups
    if body.extra_dhcp_opts is not UNSET:
        values["extra_dhcp_opts"] = _dhcp_options(port.extra_dhcp_opts or [], body)
    asked = {name: value for name, value in values.items() if value != getattr(port, name)}
    moves = body.fixed_ips is not UNSET and not _same_addresses(port, body.fixed_ips)
    exact = {"fixed_ips"} if _exact(body) - {fixed.ip_address for fixed in port.fixed_ips} else set()
    _check_untouched(port, set(asked) | ({"fixed_ips"} if moves else set()))
    _check_rights(context, network, set(asked) | exact, "update_port")
    if "mac_address" in asked:  # a new port's is its network's owner's, too, to choose
        policy.admin_only(context, "rule:update_port:mac_address")
        _check_mac(conn, network.id, asked["mac_address"])
    wanted = msgspec.structs.replace(port, **asked)
    _check_pairs(wanted)
    port_groups.check(wanted, was=port)
    if "mac_address" in asked and body.fixed_ips is UNSET and _has_automatic(conn, port):
        body, moves = msgspec.structs.replace(body, fixed_ips=_manual(conn, port)), True
    if moves:
        store.take_back(conn, port.id)
        store.give(conn, {port.id: _addresses(conn, network, body, wanted.mac_address, wanted.device_owner)})
        placement.tell(conn, store.free_floating(conn, store.by_id(conn, [port.id])[port.id]))
    if "security_groups" in asked:
        port_security.leave(conn, [port.id])
        port_security.join(conn, {port.id: asked.pop("security_groups")})
    if wanted != port or moves:
        store.update(conn, [port.id], asked)
        _tell(conn, port, wanted, moves)
    return find(conn, context, port_id)


def delete(conn: sa.Connection, context: RequestContext, port_id: str) -> None:
    port = find(conn, context, port_id, for_update=True)
    policy.owner_only(context, "rule:delete_port", *owners(conn, port))
    _check_untouched(port, {"delete"})
    _check_not_asleep(conn, port)
    placement.tell(conn, store.delete(conn, [port.id]))
    tags.remove(conn, [port.id])
    membership(conn, [port])
    if port.nic is not None:
        store.refresh_dhcp_status(conn, [port.network_id])
        _tell_server(conn, port)
        tunnels.gone(conn, [port])


def _tell(conn: sa.Connection, was: Port, port: Port, moves: bool) -> None:
    """The port's host, and the hosts of those who let in the members of its groups."""
    differ = {name for name in _GUARDS | _WIRING if getattr(was, name) != getattr(port, name)}
    if differ & _GUARDS:
        changed(conn, Change(ports=[port.id]))
    if port.nic is not None and (moves or differ & _WIRING):
        _tell_server(conn, port)
    elif differ:
        vifs.show(conn, port)
    if moves or was.allowed_address_pairs != port.allowed_address_pairs:
        membership(conn, [was], [port])
    elif was.security_groups != port.security_groups:
        changed(conn, Change(members=set(was.security_groups) ^ set(port.security_groups)))


def _tell_server(conn: sa.Connection, port: Port) -> None:
    """The server's record follows now, its host when this has committed."""
    vifs.show(conn, port)
    changed(conn, Change(servers=[(port.host, port.device_id)]))


def owners(conn: sa.Connection, port: Port) -> list[str]:
    """The projects that may delete it: its own, and its network's."""
    return [port.project_id, _network(conn, port).project_id]


def _network(conn: sa.Connection, port: Port) -> Network:
    return network_store.by_id(conn, [port.network_id])[port.network_id]


def _values(body: PortUpdate) -> dict[str, Any]:
    """The body's plain values under the names of Port's fields; addresses come separately."""
    values = said(
        body,
        "name",
        "description",
        "admin_state_up",
        "device_id",
        "device_owner",
        "mac_address",
        "port_security_enabled",
        "allowed_address_pairs",
        "dns_name",
    )
    if "mac_address" in values:
        values["mac_address"] = values["mac_address"].lower()
    if "allowed_address_pairs" in values:
        values["allowed_address_pairs"] = [_pair(pair) for pair in values["allowed_address_pairs"]]
    if body.binding_host_id is not UNSET:
        values["host"] = body.binding_host_id or ""
    if body.binding_profile is not UNSET:
        values["profile"] = body.binding_profile or {}
        if len(msgspec.json.encode(values["profile"])) > MAX_PROFILE:
            raise InvalidInput(f"binding:profile is larger than {MAX_PROFILE} bytes")
    if body.binding_vnic_type not in (UNSET, "normal"):
        raise InvalidInput("binding:vnic_type: only 'normal' is offered")
    return values


def _check_rights(context: RequestContext, network: Network, names: set[str], rule: str) -> None:
    """What only an admin, or only the network's owner, may say of a port."""
    for name in sorted(names & _ADMINS):
        policy.admin_only(context, f"rule:{rule}:binding:{name}")
    for name in sorted(names & _NETWORK_OWNERS):
        policy.owner_only(context, f"rule:{rule}:{name}", network.project_id)


def _check_device_owner(context: RequestContext, network: Network, values: dict[str, Any], rule: str) -> None:
    """Who may not touch what is the network's hears that first, as in Neutron."""
    if values.get("device_owner", "").startswith("network:"):
        policy.owner_only(context, f"rule:{rule}:device_owner", network.project_id)
        raise InvalidInput("device_owner: the network service makes the ports of 'network:' by itself")


def _is_shared(conn: sa.Connection, context: RequestContext, network: Network) -> bool:
    """With the asker: its subnets are the asker's to choose from, as if they were its own."""
    return network.id in network_store.shared(conn, [network.id], policy.scope(context))


def _check_untouched(port: Port, names: set[str]) -> None:
    """A port that DHCP, a router, a floating IP or a server uses may not change under it, but for what hosts
    are told of."""
    if port.device_owner.startswith("network:") and names - _FREE:
        raise ServicePortInUse(
            f"Port {port.id} cannot be changed or deleted directly via the port API: "
            f"has device owner {port.device_owner}."
        )
    if port.nic is not None and names - _FREE_WHILE_PLUGGED:
        raise PortInUse(
            f"Unable to complete operation on port {port.id} for network {port.network_id}. "
            f"Port is plugged into server {port.device_id}; until it is not, these cannot change: "
            f"{', '.join(sorted(names - _FREE_WHILE_PLUGGED))}."
        )


def _check_not_asleep(conn: sa.Connection, port: Port) -> None:
    """A suspended guest wakes up with the NICs that it had; it can lose none while it sleeps."""
    if port.nic is None:
        return
    if servers.vm_state(conn, port.device_id) == VmState.SUSPENDED:
        raise PortInUse(
            f"Unable to complete operation on port {port.id} for network {port.network_id}. "
            f"Port is plugged into server {port.device_id}, which is suspended: resume it first."
        )


def _check_mac(conn: sa.Connection, network_id: str, mac: str) -> None:
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise InvalidInput(f"'{mac}' is not a unicast MAC address")
    if store.macs_taken(conn, [network_id], [mac]):
        raise MacAddressInUse(
            f"Unable to complete operation for network {network_id}. The mac address {mac} is in use."
        )


def _check_pairs(port: Port) -> None:
    if port.allowed_address_pairs and not port.port_security_enabled:
        raise AddressPairAndPortSecurityRequired(
            "Port Security must be enabled in order to have allowed address pairs on a port."
        )
    if len({(p.ip_address, p.mac_address) for p in port.allowed_address_pairs}) < len(
        port.allowed_address_pairs
    ):
        raise InvalidInput("allowed_address_pairs has the same pair twice")


def _dhcp_options(present: list[DhcpOption], body: PortUpdate) -> list[DhcpOption] | None:
    """What there is, with what is said: an option without a value goes, unless it may be empty."""
    found = {option.opt_name: option for option in present}
    for option in [] if body.extra_dhcp_opts is UNSET else body.extra_dhcp_opts or []:
        if option.opt_value is None or not (option.opt_value or option.opt_name in dhcp_options.BLANK):
            found.pop(option.opt_name, None)
            continue
        if why := dhcp_options.problem(option):
            raise InvalidInput(f"extra_dhcp_opts: {why}")
        found[option.opt_name] = option
    if len(found) > MAX_DHCP_OPTIONS:
        raise InvalidInput(f"extra_dhcp_opts: a port may have {MAX_DHCP_OPTIONS} of them")
    return list(found.values()) or None


def _pair(pair: AddressPair) -> AddressPair:
    try:
        network = addresses.parse_network(pair.ip_address, strict=False)
    except ValueError as error:
        raise InvalidInput(
            f"'{pair.ip_address}' in allowed_address_pairs is no IP address or CIDR"
        ) from error
    ip = pair.ip_address if network.version == 4 else _canonical(pair.ip_address)
    if pair.mac_address is None:
        return AddressPair(ip_address=ip)
    mac = pair.mac_address.lower()
    if not _MAC.fullmatch(mac):
        raise InvalidInput(f"'{pair.mac_address}' in allowed_address_pairs is not a MAC address")
    return AddressPair(ip_address=ip, mac_address=mac)


def _canonical(address_or_range: str) -> str:
    """Of IPv6, which has many spellings; the host part of a range stays as it was said."""
    address, slash, length = address_or_range.partition("/")
    return f"{addresses.canonical(address)}{slash}{length}"


def _addresses(
    conn: sa.Connection, network: Network, body: PortUpdate, mac: str, owner: str
) -> list[FixedIp]:
    subnets = subnet_store.of_networks(conn, [network.id], for_update=True).get(network.id, [])
    allocator = Allocator(conn, network, subnets, owner)
    found = allocator.default(mac) if body.fixed_ips is UNSET else allocator.requested(body.fixed_ips, mac)
    allocator.finish()
    return found


def _exact(body: PortUpdate) -> set[str]:
    """The addresses that the caller names."""
    wanted = [] if body.fixed_ips is UNSET else body.fixed_ips
    return {addresses.canonical(ask.ip_address) for ask in wanted if ask.ip_address is not None}


def _has_automatic(conn: sa.Connection, port: Port) -> bool:
    return len(_manual(conn, port)) < len(port.fixed_ips)


def _manual(conn: sa.Connection, port: Port) -> list[FixedIpRequest]:
    """The port's addresses that do not come of its MAC, as a request for them."""
    subnets = subnet_store.of_networks(conn, [port.network_id]).get(port.network_id, [])
    automatic = {subnet.id for subnet in subnets if subnet.automatic}
    return [
        FixedIpRequest(subnet_id=fixed.subnet_id, ip_address=fixed.ip_address)
        for fixed in port.fixed_ips
        if fixed.subnet_id not in automatic
    ]


def _same_addresses(port: Port, wanted: list[FixedIpRequest]) -> bool:
    """Whether the port has just what is asked: the very addresses that a client sends back as it read them,
    and any of a subnet for who names no more than that."""
    left = {fixed.ip_address: fixed.subnet_id for fixed in port.fixed_ips}
    for ask in sorted(wanted, key=lambda ask: ask.ip_address is None):
        named = None if ask.ip_address is None else addresses.canonical(ask.ip_address)
        fits = (ip for ip, subnet in left.items() if named in (None, ip) and ask.subnet_id in (None, subnet))
        found = next(fits, None)
        if found is None or ask == FixedIpRequest():
            return False
        del left[found]
    return not left
