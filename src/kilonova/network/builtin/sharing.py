"""With whom networks and groups are shared, as RBAC policies say. Call it with their row locked."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from kilonova.domain.network import EVERYBODY, EXTERNAL, SHARED, Network, ObjectType, RbacPolicy
from kilonova.domain.security_groups import AddressGroup, SecurityGroup
from kilonova.store import network_rbac as store

Shared = Network | SecurityGroup | AddressGroup


def set_for_everybody(conn: sa.Connection, network: Network, action: str, wanted: bool) -> None:
    """``shared`` or ``router:external`` of the network was set, so its policies follow. What is no external
    network any more is that for nobody."""
    have = store.about(conn, "network", network.id, action)
    if not wanted:
        store.delete(conn, [one for one in have if action == EXTERNAL or one.target_tenant == EVERYBODY])
    elif all(one.target_tenant != EVERYBODY for one in have):
        made = RbacPolicy(
            id=str(uuid.uuid4()),
            project_id=network.project_id,
            object_type="network",
            object_id=network.id,
            action=action,
            target_tenant=EVERYBODY,
        )
        store.insert(conn, made)


def kind_of(shared: Shared) -> ObjectType:
    match shared:
        case Network():
            return "network"
        case SecurityGroup():
            return "security_group"
        case AddressGroup():
            return "address_group"


def stranded(
    conn: sa.Connection, shared: Shared, action: str, without: RbacPolicy | None, instead: str | None = None
) -> set[str]:
    """The projects that use it and might not without that policy (None: that for everybody)."""
    left = {
        one.target_tenant
        for one in store.about(conn, kind_of(shared), shared.id, action)
        if (one.id != without.id if without else one.target_tenant != EVERYBODY)
    } | {instead}
    if EVERYBODY in left:
        return set()
    return _users(conn, shared, action) - left - {shared.project_id}


def _users(conn: sa.Connection, shared: Shared, action: str) -> set[str]:
    """The projects that use what such a policy gives."""
    match shared:
        case Network():
            return store.users(conn, shared.id, action)
        case SecurityGroup():
            return store.users_of_group(conn, shared.id)
        case AddressGroup():
            return store.users_of_address_group(conn, shared.id)


def adopt(conn: sa.Connection, network: Network) -> None:
    """A network that a release without policies has shared has its policies, too; those of one that it has
    taken back are gone."""
    set_for_everybody(conn, network, SHARED, network.shared)
    if not network.external or not network.external_restricted:
        set_for_everybody(conn, network, EXTERNAL, bool(network.external))
