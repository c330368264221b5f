"""Security groups of a server: GET /servers/{id}/os-security-groups, and the actions that add and remove one.

The groups themselves are the network service's; this is the old form in which Nova shows them.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kilonova.api.compute import policy, queries
from kilonova.api.compute import server_fields as fields
from kilonova.api.compute.server_access import find
from kilonova.api.compute.state import ComputeAPI
from kilonova.api.http import Reply, Request, Route
from kilonova.domain.security_groups import IPV4, SecurityGroupRule
from kilonova.network.base import ServerGroup
from kilonova.store import server_lists

_ALL_PORTS = {"tcp": (1, 65535), "udp": (1, 65535), "icmp": (-1, -1), "icmpv6": (-1, -1)}


class Named(msgspec.Struct, forbid_unknown_fields=False):
    name: Annotated[str, Meta(min_length=1, max_length=255)]


def add(api: ComputeAPI, request: Request, server_id: str, value: msgspec.Raw) -> Reply:
    name = fields.decoded("addSecurityGroup", value, Named).name
    with api.db.read() as conn:
        find(conn, request.context, server_id, "os-security-groups:add")
    api.network.add_security_group(request.context, server_id, name)
    return Reply(202)


def remove(api: ComputeAPI, request: Request, server_id: str, value: msgspec.Raw) -> Reply:
    name = fields.decoded("removeSecurityGroup", value, Named).name
    with api.db.read() as conn:
        find(conn, request.context, server_id, "os-security-groups:remove")
    api.network.remove_security_group(request.context, server_id, name)
    return Reply(202)


def listed(api: ComputeAPI, request: Request, server_id: str) -> Reply:
    queries.check(request)
    with api.db.read() as conn:
        server_lists.get(conn, server_id, policy.owner_filter(request.context), server_lists.BRIEF)
        groups = api.network.security_groups_of_server(server_id)
    return Reply(body={"security_groups": [_view(group) for group in groups]})


def _view(group: ServerGroup) -> dict[str, Any]:
    """Only what comes in: Nova's own groups had no rules for what goes out."""
    return {
        "id": group.id,
        "name": group.name,
        "description": group.description,
        "tenant_id": group.project_id,
        "rules": [_rule(group, rule) for rule in group.rules if rule.direction == "ingress"],
    }


def _rule(group: ServerGroup, rule: SecurityGroupRule) -> dict[str, Any]:
    low, high = rule.port_range_min, rule.port_range_max
    if rule.protocol is not None and low is None and high is None:
        low, high = _ALL_PORTS.get(rule.protocol, (None, None))
    remote = group.remotes.get(rule.remote_group_id or "")
    everywhere = "0.0.0.0/0" if rule.ethertype == IPV4 else "::/0"
    return {
        "id": rule.id,
        "parent_group_id": rule.security_group_id,
        "ip_protocol": rule.protocol,
        "from_port": low,
        "to_port": high,
        "group": {} if remote is None else {"name": remote.name, "tenant_id": remote.project_id},
        "ip_range": {}
        if rule.remote_group_id or rule.remote_address_group_id
        else {"cidr": rule.remote_ip_prefix or everywhere},
    }


ROUTES = [Route("GET", "/servers/{server_id}/os-security-groups", listed)]
