"""RBAC policies: with whom a network is shared. Every function runs inside the caller's transaction.

``shared`` and ``router:external`` of a network are the policies for everybody: who sets the one has the
other. Whoever changes policies of a network locks it.
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from msgspec import structs

from kilonova.config import Config
from kilonova.domain.context import RequestContext
from kilonova.domain.network import EVERYBODY, EXTERNAL, SHARED, Network, RbacPolicy
from kilonova.network.builtin import networks, policy, quotas, sharing
from kilonova.network.builtin.errors import (
    DuplicateRbacPolicy,
    InvalidInput,
    RbacPolicyInUse,
    RbacPolicyNotFound,
)
from kilonova.network.builtin.requests import RbacCreate, RbacUpdate
from kilonova.store import network_rbac as store
from kilonova.store import networks as network_store


def find(conn: sa.Connection, context: RequestContext, policy_id: str) -> RbacPolicy:
    """The policy, if the asker sees it; RbacPolicyNotFound else."""
    found = store.get(conn, policy_id, policy.scope(context))
    if found is None:
        raise RbacPolicyNotFound(f"RBAC policy of type network with ID {policy_id} not found")
    return found


def create(conn: sa.Connection, config: Config, context: RequestContext, body: RbacCreate) -> RbacPolicy:
    project_id = policy.project_of_new(context, body.project_id, body.tenant_id, "rule:create_rbac_policy")
    if body.object_type != "network":
        raise InvalidInput(f"object_type: RBAC policies are about networks, not '{body.object_type}'")
    if body.action not in (SHARED, EXTERNAL):
        raise InvalidInput(f"action: '{body.action}' is none of {SHARED}, {EXTERNAL}")
    network = networks.find(conn, context, body.object_id, for_update=True)
    if policy.scope(context) not in (None, network.project_id):
        raise InvalidInput("Only admins can manipulate policies on networks they do not own")
    sharing.adopt(conn, network)
    if body.action == EXTERNAL:
        policy.admin_only(context, "rule:create_rbac_policy:access_as_external")
    _check_target(context, body.target_tenant, "create")
    quotas.check(conn, config, project_id, "rbac_policy")
    made = RbacPolicy(
        id=str(uuid.uuid4()),
        project_id=project_id,
        object_id=network.id,
        action=body.action,
        target_tenant=body.target_tenant,
    )
    _check_new(conn, made)
    if made.action == EXTERNAL and not network.external:
        networks.check_external(conn, context, network)
    store.insert(conn, made)
    _follow(conn, network, made.action)
    return made


def update(
    conn: sa.Connection, _config: Config, context: RequestContext, policy_id: str, body: RbacUpdate
) -> RbacPolicy:
    was, network = _to_change(conn, context, policy_id, "rule:update_rbac_policy")
    if body.target_tenant == was.target_tenant:
        return was
    _check_target(context, body.target_tenant, "update")
    now = structs.replace(was, target_tenant=body.target_tenant)
    _check_new(conn, now)
    _check_unused(conn, network, was, body.target_tenant)
    store.retarget(conn, was.id, now.target_tenant)
    _follow(conn, network, now.action)
    return now


def delete(conn: sa.Connection, context: RequestContext, policy_id: str) -> None:
    """RbacPolicyInUse while somebody has what only this policy allows. What is external for nobody is not."""
    gone, network = _to_change(conn, context, policy_id, "rule:delete_rbac_policy")
    _check_unused(conn, network, gone)
    store.delete(conn, [gone.id])
    if gone.action == EXTERNAL and not store.of_network(conn, network.id, EXTERNAL):
        networks.check_external(conn, context, network)
        network_store.update(conn, network.id, {"external": False, "external_restricted": None})
    else:
        _follow(conn, network, gone.action)


def owners(_conn: sa.Connection, found: RbacPolicy) -> list[str]:
    return [found.project_id]


def _to_change(
    conn: sa.Connection, context: RequestContext, policy_id: str, rule: str
) -> tuple[RbacPolicy, Network]:
    found = find(conn, context, policy_id)
    policy.owner_only(context, rule, found.project_id)
    network = network_store.get(conn, found.object_id, None, for_update=True)
    if network is None:
        raise RbacPolicyNotFound(f"RBAC policy of type network with ID {policy_id} not found")
    sharing.adopt(conn, network)
    return find(conn, context, policy_id), network


def _check_target(context: RequestContext, target: str, verb: str) -> None:
    if target == EVERYBODY:
        policy.admin_only(context, f"rule:{verb}_rbac_policy:target_tenant")


def _check_new(conn: sa.Connection, new: RbacPolicy) -> None:
    for other in store.of_network(conn, new.object_id, new.action):
        if other.target_tenant == new.target_tenant and other.id != new.id:
            raise DuplicateRbacPolicy("An RBAC policy already exists with those values.")


def _check_unused(
    conn: sa.Connection, network: Network, gone: RbacPolicy, instead: str | None = None
) -> None:
    used_by = sharing.stranded(conn, network, gone.action, gone, instead)
    if gone.target_tenant != EVERYBODY:
        used_by &= {gone.target_tenant}
    if used_by:
        raise RbacPolicyInUse(
            f"RBAC policy on object {network.id} cannot be removed because other objects depend on it.\n"
            f"Details: {len(used_by)} other project(s) use the network"
        )


def _follow(conn: sa.Connection, network: Network, action: str) -> None:
    """The network's own columns say what holds for everybody."""
    targets = {one.target_tenant for one in store.of_network(conn, network.id, action)}
    if action == SHARED:
        network_store.update(conn, network.id, {"shared": EVERYBODY in targets})
    else:
        restricted = EVERYBODY not in targets
        network_store.update(conn, network.id, {"external": True, "external_restricted": restricted})
