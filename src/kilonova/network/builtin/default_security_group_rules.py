"""The rules that security groups are made with: an admin's to choose, for groups that are made from then on.

Every function runs inside the caller's transaction.
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from kilonova.config import Config
from kilonova.domain.context import RequestContext
from kilonova.domain.security_groups import PARENT, DefaultRule, Filter
from kilonova.network.builtin import errors, policy, security_group_rules, security_groups
from kilonova.network.builtin.errors import InvalidInput
from kilonova.network.builtin.requests import DefaultRuleCreate, SecurityGroupRuleCreate
from kilonova.store import default_security_group_rules as store


def find(conn: sa.Connection, _context: RequestContext, rule_id: str) -> DefaultRule:
    """DefaultSecurityGroupRuleNotFound: there is none."""
    rule = store.get(conn, rule_id)
    if rule is None:
        raise _not_found(rule_id)
    return rule


def create(
    conn: sa.Connection, _config: Config, context: RequestContext, body: DefaultRuleCreate
) -> DefaultRule:
    policy.admin_only(context, "rule:create_default_security_group_rule")
    rule = _rule(body)
    store.lock(conn)
    for other in store.every(conn):
        if _meet(rule, other) and _filter(rule) == _filter(other):
            raise errors.DefaultSecurityGroupRuleExists(
                f"Default Security group rule already exists. Rule id is {other.id}."
            )
    store.insert(conn, rule)
    return rule


def delete(conn: sa.Connection, context: RequestContext, rule_id: str) -> None:
    """Groups that were made with it keep theirs."""
    policy.admin_only(context, "rule:delete_default_security_group_rule")
    if not store.delete(conn, rule_id):
        raise _not_found(rule_id)


def owners(_conn: sa.Connection, _rule: DefaultRule) -> list[str]:
    """Nobody's but an admin's."""
    return []


def _rule(body: DefaultRuleCreate) -> DefaultRule:
    """As a rule of a group it makes sense."""
    if body.remote_group_id not in (None, PARENT):
        raise InvalidInput(
            f"remote_group_id: a default rule names no group of one project, only {PARENT}, which gets it"
        )
    if body.remote_address_group_id is not None:
        raise InvalidInput("remote_address_group_id: a default rule names no address group of one project")
    checked = security_group_rules.checked(
        SecurityGroupRuleCreate(
            security_group_id="",
            direction=body.direction,
            ethertype=body.ethertype,
            protocol=body.protocol,
            port_range_min=body.port_range_min,
            port_range_max=body.port_range_max,
            remote_ip_prefix=body.remote_ip_prefix,
            remote_group_id=body.remote_group_id,
            description=body.description,
        )
    )
    return DefaultRule(
        id=str(uuid.uuid4()),
        direction=checked.direction,
        ethertype=checked.ethertype,
        protocol=checked.protocol,
        port_range_min=checked.port_range_min,
        port_range_max=checked.port_range_max,
        remote_ip_prefix=checked.remote_ip_prefix,
        remote_group_id=checked.remote_group_id,
        description=checked.description,
        used_in_default_sg=body.used_in_default_sg,
        used_in_non_default_sg=body.used_in_non_default_sg,
    )


def _meet(one: DefaultRule, other: DefaultRule) -> bool:
    """A group would get both."""
    return (one.used_in_default_sg and other.used_in_default_sg) or (
        one.used_in_non_default_sg and other.used_in_non_default_sg
    )


def _filter(rule: DefaultRule) -> Filter:
    return security_group_rules.filter_of(security_groups.from_default(rule, PARENT, "", 0.0))


def _not_found(rule_id: str) -> errors.DefaultSecurityGroupRuleNotFound:
    return errors.DefaultSecurityGroupRuleNotFound(f"Default Security Group rule {rule_id} does not exist.")
