"""/network-ip-availabilities: how many addresses networks have, and how many are given. For admins.

What an address is counts as Neutron counts it: those of the allocation pools; without pools, of the subnet.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import sqlalchemy as sa

from kilonova.api.http import Reply, Request, Route
from kilonova.api.network import lists
from kilonova.domain.errors import BadRequest, NotFound
from kilonova.domain.network import Network, Subnet
from kilonova.network.builtin import networks, policy
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import network_ip_availability as store
from kilonova.store import networks as network_store
from kilonova.store import subnets as subnet_store
from kilonova.store.network_lists import Page

_URL = "/v2.0/network-ip-availabilities"
_NAMES = {"network_id": "id", "network_name": "name", "project_id": "project_id", "tenant_id": "project_id"}
"""Filter → of networks."""


def index(network: BuiltinNetwork, request: Request) -> Reply:
    policy.admin_only(request.context, "rule:get_network_ip_availability")
    page = lists.asked(request, ())
    filters = dict(page.filters)
    version = _version(filters.pop("ip_version", []))
    if unknown := sorted(set(filters) - set(_NAMES)):
        raise BadRequest(f"Invalid input for filters: {unknown[0]} is no attribute to filter by")
    if unknown := [name for name, _ in page.sort if name not in _NAMES]:
        raise BadRequest(f"Invalid input for sort_key: {unknown[0]} is no attribute to sort by")
    wanted = Page(
        filters={_NAMES[name]: values for name, values in filters.items()},
        sort=[(_NAMES[name], descending) for name, descending in page.sort],
        limit=page.limit,
        marker=page.marker,
        reverse=page.reverse,
    )
    with network.db.read() as conn:
        found = network_store.page(conn, wanted, None)
        if found is None:
            raise NotFound(f"Network {page.marker} (the marker) could not be found.")
        items, more, before = found
        views = _views(conn, items, version)
    links = lists.links(
        request, "network_ip_availabilities", _URL, page, [one.id for one in items], more, before
    )
    return Reply(body={"network_ip_availabilities": [lists.fields(request, view) for view in views], **links})


def show(network: BuiltinNetwork, request: Request, network_id: str) -> Reply:
    policy.admin_only(request.context, "rule:get_network_ip_availability")
    with network.db.read() as conn:
        (view,) = _views(conn, [networks.find(conn, request.context, network_id)], None)
    return Reply(body={"network_ip_availability": lists.fields(request, view)})


def _version(asked: list[str]) -> int | None:
    if not asked:
        return None
    if asked[-1] not in ("4", "6"):
        raise BadRequest(f"Invalid input for ip_version: '{asked[-1]}' is neither 4 nor 6")
    return int(asked[-1])


def _views(conn: sa.Connection, found: Sequence[Network], version: int | None) -> list[dict[str, Any]]:
    """Three statements at most, however many networks."""
    subnets = subnet_store.of_networks(conn, [network.id for network in found])
    counted = {
        network_id: [subnet for subnet in several if version in (None, subnet.ip_version)]
        for network_id, several in subnets.items()
    }
    used = store.used(conn, [subnet.id for several in counted.values() for subnet in several])
    return [_view(network, counted.get(network.id, []), used) for network in found]


def _view(network: Network, subnets: Sequence[Subnet], used: dict[str, int]) -> dict[str, Any]:
    each = [
        {
            "subnet_id": subnet.id,
            "subnet_name": subnet.name,
            "cidr": subnet.cidr,
            "ip_version": subnet.ip_version,
            "used_ips": used.get(subnet.id, 0),
            "total_ips": total(subnet),
        }
        for subnet in subnets
    ]
    return {
        "network_id": network.id,
        "network_name": network.name,
        "project_id": network.project_id,
        "tenant_id": network.project_id,
        "subnet_ip_availability": each,
        "used_ips": sum(used.get(subnet.id, 0) for subnet in subnets),
        "total_ips": sum(total(subnet) for subnet in subnets),
    }


def total(subnet: Subnet) -> int:
    if not subnet.allocation_pools:
        cidr = ip_network(subnet.cidr)
        return cidr.num_addresses - 2 if cidr.version == 4 else cidr.num_addresses
    ends = ((ip_address(pool.start), ip_address(pool.end)) for pool in subnet.allocation_pools)
    return sum(int(end) - int(start) + 1 for start, end in ends)


ROUTES = [Route("GET", _URL, index), Route("GET", f"{_URL}/{{network_id}}", show)]
