"""Security groups: create, update, delete, and each project's default one.

Every function runs inside the caller's transaction.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence

import sqlalchemy as sa

from kilonova.config import Config
from kilonova.domain.clock import now
from kilonova.domain.context import RequestContext
from kilonova.domain.security_groups import PARENT, DefaultRule, SecurityGroup, SecurityGroupRule
from kilonova.network.builtin import policy, quotas
from kilonova.network.builtin.changes import Change, changed
from kilonova.network.builtin.errors import (
    InvalidInput,
    SecurityGroupCannotRemoveDefault,
    SecurityGroupCannotUpdateDefault,
    SecurityGroupDefaultAlreadyExists,
    SecurityGroupInUse,
    SecurityGroupNotFound,
)
from kilonova.network.builtin.requests import SecurityGroupCreate, SecurityGroupUpdate, said
from kilonova.store import default_security_group_rules as default_rules
from kilonova.store import network_tags as tags
from kilonova.store import security_group_rules as rule_store
from kilonova.store import security_groups as store

DEFAULT = "default"


def find(
    conn: sa.Connection,
    context: RequestContext,
    group_id: str,
    for_update: bool = False,
    for_delete: bool = False,
) -> SecurityGroup:
    """The group, if the asker sees it; SecurityGroupNotFound else. Locks: as store.security_groups.get."""
    group = store.get(conn, group_id, policy.scope(context), for_update, for_delete)
    if group is None:
        raise not_found(group_id)
    return group


def create(
    conn: sa.Connection, config: Config, context: RequestContext, body: SecurityGroupCreate
) -> SecurityGroup:
    """A group that lets out everything and nothing in, unless an admin chose other rules for such."""
    project_id = policy.project_of_new(context, body.project_id, body.tenant_id, "rule:create_security_group")
    _check_offered(body)
    if body.name == DEFAULT:
        raise SecurityGroupDefaultAlreadyExists("Default security group already exists.")
    ensure_default(conn, project_id)
    quotas.check(conn, config, project_id, "security_group")
    rules = [rule for rule in default_rules.every(conn) if rule.used_in_non_default_sg]
    quotas.check(conn, config, project_id, "security_group_rule", len(rules))
    return _insert(conn, project_id, body.name or "", body.description or "", rules)


def update(
    conn: sa.Connection, _config: Config, context: RequestContext, group_id: str, body: SecurityGroupUpdate
) -> SecurityGroup:
    group = find(conn, context, group_id, for_update=True)
    policy.owner_only(context, "rule:update_security_group", group.project_id)
    _check_offered(body)
    changes = said(body, "name", "description")
    if changes.get("name", group.name) != group.name:
        if store.defaults_among(conn, [group_id]):
            raise SecurityGroupCannotUpdateDefault("Updating default security group not allowed.")
        if changes["name"] == DEFAULT:
            raise SecurityGroupDefaultAlreadyExists("Default security group already exists.")
    if changes:
        store.update(conn, group_id, changes)
    return find(conn, context, group_id)


def delete(conn: sa.Connection, context: RequestContext, group_id: str) -> None:
    """With its rules, and the rules of others that name it. SecurityGroupInUse while a port is in it. A
    project's default one, which an admin may delete, is made anew at its next need."""
    group = find(conn, context, group_id, for_delete=True)
    policy.owner_only(context, "rule:delete_security_group", group.project_id)
    if not context.is_admin and store.defaults_among(conn, [group_id]):
        raise SecurityGroupCannotRemoveDefault("Insufficient rights for removing default security group.")
    if store.in_use(conn, group_id):
        raise SecurityGroupInUse(f"Security Group {group_id} in use.")
    changed(conn, Change(groups=rule_store.about(conn, group_id)))
    store.delete(conn, group_id)
    tags.remove(conn, [group_id])


def owners(_conn: sa.Connection, group: SecurityGroup) -> list[str]:
    return [group.project_id]


def ensure_default(conn: sa.Connection, project_id: str) -> str:
    """Id of the project's default group, made now if this is its first need."""
    found = store.default_of(conn, project_id)
    if found is not None:
        return found
    store.lock_default(conn, project_id)
    found = store.default_of(conn, project_id)
    if found is not None:
        return found
    rules = [rule for rule in default_rules.every(conn) if rule.used_in_default_sg]
    made = _insert(conn, project_id, DEFAULT, "Default security group", rules)
    store.put_default(conn, project_id, made.id)
    return made.id


def has_default(conn: sa.Connection, project_id: str) -> bool:
    return store.default_of(conn, project_id) is not None


def kept(conn: sa.Connection, project_id: str | None, group_ids: Collection[str]) -> list[str]:
    """The groups, which none deletes before the transaction ends. SecurityGroupNotFound: one is not the
    project's (None: of any)."""
    wanted = sorted(set(group_ids))
    found = store.kept(conn, wanted, project_id) if wanted else set()
    for group_id in wanted:
        if group_id not in found:
            raise not_found(group_id)
    return wanted


def not_found(group_id: str) -> SecurityGroupNotFound:
    return SecurityGroupNotFound(f"Security group {group_id} does not exist")


def from_default(rule: DefaultRule, group_id: str, project_id: str, made: float) -> SecurityGroupRule:
    """What that group gets of a default rule."""
    return SecurityGroupRule(
        id=str(uuid.uuid4()),
        security_group_id=group_id,
        project_id=project_id,
        direction=rule.direction,
        ethertype=rule.ethertype,
        protocol=rule.protocol,
        port_range_min=rule.port_range_min,
        port_range_max=rule.port_range_max,
        remote_ip_prefix=rule.remote_ip_prefix,
        remote_group_id=group_id if rule.remote_group_id == PARENT else None,
        description=rule.description,
        created_at=made,
        updated_at=made,
    )


def _insert(
    conn: sa.Connection, project_id: str, name: str, description: str, rules: Sequence[DefaultRule]
) -> SecurityGroup:
    """A group with these rules."""
    made = now()
    group = SecurityGroup(
        id=str(uuid.uuid4()),
        project_id=project_id,
        name=name,
        description=description,
        created_at=made,
        updated_at=made,
    )
    store.insert(conn, group)
    if rules:
        rule_store.insert(conn, [from_default(rule, group.id, project_id, made) for rule in rules])
    return group


def _check_offered(body: SecurityGroupUpdate) -> None:
    if body.stateful is False:
        raise InvalidInput("stateful: stateless security groups are not offered")
