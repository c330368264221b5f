"""Security groups and their rules as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.api.network.resources import Resource, View
from kilonova.domain.addresses import network_of
from kilonova.domain.clock import iso8601
from kilonova.domain.context import RequestContext
from kilonova.domain.security_groups import SecurityGroup, SecurityGroupRule
from kilonova.network.builtin import policy, security_group_rules, security_groups
from kilonova.network.builtin.requests import (
    SecurityGroupCreate,
    SecurityGroupRuleCreate,
    SecurityGroupRuleUpdate,
    SecurityGroupUpdate,
)
from kilonova.network.builtin.service import BuiltinNetwork
from kilonova.store import network_tags
from kilonova.store import security_group_rules as rule_store
from kilonova.store import security_groups as store
from kilonova.store.schema.security_groups import security_group_rules as rule_table
from kilonova.store.schema.security_groups import security_groups as table


def _views(conn: sa.Connection, context: RequestContext, items: Sequence[SecurityGroup]) -> list[View]:
    ids = [item.id for item in items]
    tags, rules = network_tags.of(conn, ids), rule_store.of_groups(conn, ids)
    defaults = store.defaults_among(conn, ids)
    shared = store.shared(conn, ids, policy.scope(context))
    return [
        {
            "id": group.id,
            "name": group.name,
            "description": group.description,
            "project_id": group.project_id,
            "tenant_id": group.project_id,
            "stateful": True,
            "shared": group.id in shared,
            "security_group_rules": [_rule_view(rule, defaults) for rule in rules.get(group.id, [])],
            "tags": tags.get(group.id, []),
            "revision_number": group.revision_number,
            "created_at": iso8601(group.created_at),
            "updated_at": iso8601(group.updated_at),
        }
        for group in items
    ]


def _rule_views(
    conn: sa.Connection, _context: RequestContext, items: Sequence[SecurityGroupRule]
) -> list[View]:
    defaults = store.defaults_among(conn, sorted({item.security_group_id for item in items}))
    return [_rule_view(item, defaults) for item in items]


def _rule_view(rule: SecurityGroupRule, defaults: set[str]) -> dict[str, Any]:
    return {
        "id": rule.id,
        "security_group_id": rule.security_group_id,
        "project_id": rule.project_id,
        "tenant_id": rule.project_id,
        "direction": rule.direction,
        "ethertype": rule.ethertype,
        "protocol": rule.protocol,
        "port_range_min": rule.port_range_min,
        "port_range_max": rule.port_range_max,
        "remote_ip_prefix": rule.remote_ip_prefix,
        "normalized_cidr": network_of(rule.remote_ip_prefix),
        "remote_group_id": rule.remote_group_id,
        "remote_address_group_id": rule.remote_address_group_id,
        "belongs_to_default_sg": rule.security_group_id in defaults,
        "description": rule.description,
        "revision_number": rule.revision_number,
        "created_at": iso8601(rule.created_at),
        "updated_at": iso8601(rule.updated_at),
    }


def _with_default(network: BuiltinNetwork, context: RequestContext) -> None:
    """Who looks at its groups finds the default one."""
    if context.project_id is not None:
        network.ensure_default_group(context.project_id)


SECURITY_GROUPS = Resource(
    name="security_group",
    plural="security_groups",
    path="security-groups",
    create_body=SecurityGroupCreate,
    update_body=SecurityGroupUpdate,
    create=security_groups.create,
    update=security_groups.update,
    delete=security_groups.delete,
    find=security_groups.find,
    page=store.page,
    owners=security_groups.owners,
    views=_views,
    table=table,
    touch=lambda conn, item_id: store.update(conn, item_id, {}),
    before_list=_with_default,
)

RULES = Resource(
    name="security_group_rule",
    plural="security_group_rules",
    path="security-group-rules",
    create_body=SecurityGroupRuleCreate,
    update_body=SecurityGroupRuleUpdate,
    create=security_group_rules.create,
    update=security_group_rules.update,
    delete=security_group_rules.delete,
    find=security_group_rules.find,
    page=rule_store.page,
    owners=security_group_rules.owners,
    views=_rule_views,
    table=rule_table,
    before_list=_with_default,
)
