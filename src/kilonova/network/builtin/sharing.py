"""With whom a network is shared, as its RBAC policies say. Call it with the network's row locked."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from kilonova.domain.network import EVERYBODY, EXTERNAL, SHARED, Network, RbacPolicy
from kilonova.store import network_rbac as store


def set_for_everybody(conn: sa.Connection, network: Network, action: str, wanted: bool) -> None:
    """``shared`` or ``router:external`` of the network was set, so its policies follow. What is no external
    network any more is that for nobody."""
    have = store.of_network(conn, network.id, action)
    if not wanted:
        _delete(conn, [one for one in have if action == EXTERNAL or one.target_tenant == EVERYBODY])
    elif all(one.target_tenant != EVERYBODY for one in have):
        made = {"object_id": network.id, "action": action, "target_tenant": EVERYBODY}
        store.insert(conn, RbacPolicy(id=str(uuid.uuid4()), project_id=network.project_id, **made))


def stranded(
    conn: sa.Connection, network: Network, action: str, without: RbacPolicy | None, instead: str | None = None
) -> set[str]:
    """The projects that use the network and might not without that policy (None: that for everybody)."""
    left = {
        one.target_tenant
        for one in store.of_network(conn, network.id, action)
        if (one.id != without.id if without else one.target_tenant != EVERYBODY)
    } | {instead}
    if EVERYBODY in left:
        return set()
    return store.users(conn, network.id, action) - left - {network.project_id}


def adopt(conn: sa.Connection, network: Network) -> None:
    """A network that a release without policies has shared has its policies, too; those of one that it has
    taken back are gone."""
    set_for_everybody(conn, network, SHARED, network.shared)
    if not network.external or not network.external_restricted:
        set_for_everybody(conn, network, EXTERNAL, bool(network.external))


def _delete(conn: sa.Connection, policies: list[RbacPolicy]) -> None:
    if policies:
        store.delete(conn, [one.id for one in policies])
