"""RBAC policies: with which projects a network or a group is shared, and to which a network leads outside.
Every function runs inside the caller's transaction.

``shared`` and ``router:external`` of a network are the policies for everybody: who sets the one has the
other. Whoever changes policies locks what they are about.
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from msgspec import structs

from kilonova.config import Config
from kilonova.domain.context import RequestContext
from kilonova.domain.network import EVERYBODY, EXTERNAL, SHARED, Network, ObjectType, RbacPolicy
from kilonova.domain.security_groups import AddressGroup, SecurityGroup
from kilonova.network.builtin import address_groups, networks, policy, quotas, security_groups, sharing
from kilonova.network.builtin.errors import (
    DuplicateRbacPolicy,
    InvalidInput,
    RbacPolicyInUse,
    RbacPolicyNotFound,
)
from kilonova.network.builtin.requests import RbacCreate, RbacUpdate
from kilonova.network.builtin.sharing import Shared
from kilonova.store import address_groups as address_store
from kilonova.store import network_rbac as store
from kilonova.store import networks as network_store
from kilonova.store import security_groups as group_store

_ACTIONS: dict[ObjectType, tuple[str, ...]] = {
    "network": (SHARED, EXTERNAL),
    "security_group": (SHARED,),
    "address_group": (SHARED,),
}


def find(conn: sa.Connection, context: RequestContext, policy_id: str) -> RbacPolicy:
    """The policy, if the asker sees it; RbacPolicyNotFound else."""
    found = store.get(conn, policy_id, policy.scope(context))
    if found is None:
        raise _not_found(policy_id)
    return found


def create(conn: sa.Connection, config: Config, context: RequestContext, body: RbacCreate) -> RbacPolicy:
    project_id = policy.project_of_new(context, body.project_id, body.tenant_id, "rule:create_rbac_policy")
    kind = _kind(body)
    shared = _to_share(conn, context, kind, body.object_id)
    if policy.scope(context) not in (None, shared.project_id):
        raise InvalidInput(f"Only admins can manipulate policies on a {kind} they do not own")
    if body.action == EXTERNAL:
        policy.admin_only(context, "rule:create_rbac_policy:access_as_external")
    _check_target(context, body.target_tenant, "create")
    quotas.check(conn, config, project_id, "rbac_policy")
    made = RbacPolicy(
        id=str(uuid.uuid4()),
        project_id=project_id,
        object_type=kind,
        object_id=shared.id,
        action=body.action,
        target_tenant=body.target_tenant,
    )
    _check_new(conn, made)
    if isinstance(shared, Network) and made.action == EXTERNAL and not shared.external:
        networks.check_external(conn, context, shared)
    store.insert(conn, made)
    _follow(conn, shared, made.action)
    return made


def update(
    conn: sa.Connection, _config: Config, context: RequestContext, policy_id: str, body: RbacUpdate
) -> RbacPolicy:
    was, shared = _to_change(conn, context, policy_id, "rule:update_rbac_policy")
    if body.target_tenant == was.target_tenant:
        return was
    _check_target(context, body.target_tenant, "update")
    now = structs.replace(was, target_tenant=body.target_tenant)
    _check_new(conn, now)
    _check_unused(conn, shared, was, body.target_tenant)
    store.retarget(conn, was, now.target_tenant)
    _follow(conn, shared, now.action)
    return now


def delete(conn: sa.Connection, context: RequestContext, policy_id: str) -> None:
    """RbacPolicyInUse while somebody has what only this policy allows. What is external for nobody is not."""
    gone, shared = _to_change(conn, context, policy_id, "rule:delete_rbac_policy")
    _check_unused(conn, shared, gone)
    store.delete(conn, [gone])
    if isinstance(shared, Network) and gone.action == EXTERNAL and not _left(conn, shared, EXTERNAL):
        networks.check_external(conn, context, shared)
        network_store.update(
            conn, shared.id, {"external": False, "external_restricted": None, "is_default": None}
        )
    else:
        _follow(conn, shared, gone.action)


def owners(_conn: sa.Connection, found: RbacPolicy) -> list[str]:
    return [found.project_id]


def _kind(body: RbacCreate) -> ObjectType:
    """What the policy is about, if there can be such a policy."""
    for kind, actions in _ACTIONS.items():
        if body.object_type == kind and body.action in actions:
            return kind
        if body.object_type == kind:
            raise InvalidInput(f"action: '{body.action}' of a {kind} is none of {', '.join(actions)}")
    raise InvalidInput(f"object_type: '{body.object_type}' is none of {', '.join(_ACTIONS)}")


def _to_share(conn: sa.Connection, context: RequestContext, kind: ObjectType, object_id: str) -> Shared:
    """What the policy shall be about, locked, if the asker sees it."""
    if kind == "security_group":
        return security_groups.find(conn, context, object_id, for_update=True)
    if kind == "address_group":
        return address_groups.find(conn, context, object_id, for_update=True)
    network = networks.find(conn, context, object_id, for_update=True)
    sharing.adopt(conn, network)
    return network


def _to_change(
    conn: sa.Connection, context: RequestContext, policy_id: str, rule: str
) -> tuple[RbacPolicy, Shared]:
    """The policy, and what it is about: nobody begins to use that before the transaction ends."""
    found = find(conn, context, policy_id)
    policy.owner_only(context, rule, found.project_id)
    shared: Shared | None
    if found.object_type == "security_group":
        shared = group_store.get(conn, found.object_id, None, for_delete=True)
    elif found.object_type == "address_group":
        shared = address_store.get(conn, found.object_id, None, for_delete=True)
    else:
        shared = network_store.get(conn, found.object_id, None, for_update=True)
    if shared is None:
        raise _not_found(policy_id)
    if isinstance(shared, Network):
        sharing.adopt(conn, shared)
    return find(conn, context, policy_id), shared


def _not_found(policy_id: str) -> RbacPolicyNotFound:
    return RbacPolicyNotFound(f"RBAC policy with ID {policy_id} not found")


def _check_target(context: RequestContext, target: str, verb: str) -> None:
    if target == EVERYBODY:
        policy.admin_only(context, f"rule:{verb}_rbac_policy:target_tenant")


def _check_new(conn: sa.Connection, new: RbacPolicy) -> None:
    for other in store.about(conn, new.object_type, new.object_id, new.action):
        if other.target_tenant == new.target_tenant and other.id != new.id:
            raise DuplicateRbacPolicy("An RBAC policy already exists with those values.")


def _check_unused(conn: sa.Connection, shared: Shared, gone: RbacPolicy, instead: str | None = None) -> None:
    used_by = sharing.stranded(conn, shared, gone.action, gone, instead)
    if gone.target_tenant != EVERYBODY:
        used_by &= {gone.target_tenant}
    if used_by:
        raise RbacPolicyInUse(
            f"RBAC policy on object {shared.id} cannot be removed because other objects depend on it.\n"
            f"Details: {len(used_by)} other project(s) use the {gone.object_type}"
        )


def _left(conn: sa.Connection, shared: Shared, action: str) -> set[str]:
    """For whom there are policies."""
    return {one.target_tenant for one in store.about(conn, sharing.kind_of(shared), shared.id, action)}


def _follow(conn: sa.Connection, shared: Shared, action: str) -> None:
    """A revision of what is shared. A network's own columns say what holds for everybody."""
    match shared:
        case SecurityGroup():
            group_store.update(conn, shared.id, {})
        case AddressGroup():
            address_store.update(conn, shared.id, {})
        case Network():
            _follow_network(conn, shared, action)


def _follow_network(conn: sa.Connection, shared: Network, action: str) -> None:
    for_everybody = EVERYBODY in _left(conn, shared, action)
    if action == SHARED:
        network_store.update(conn, shared.id, {"shared": for_everybody})
    else:
        network_store.update(conn, shared.id, {"external": True, "external_restricted": not for_everybody})
