"""Queries about RBAC policies: with which projects a network is shared, and to which it leads outside.

What holds for everybody stands in ``networks`` too (``shared``, ``external_restricted``), where the release
before reads it, and writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain.network import EXTERNAL, RbacPolicy
from kilonova.domain.routers import FLOATING_OWNER, GATEWAY_OWNER
from kilonova.store.network_lists import Condition, Listing, Page
from kilonova.store.schema.network_rbac import network_rbac as policies
from kilonova.store.schema.networks import networks, ports, subnets
from kilonova.store.schema.routers import floating_ips, routers
from kilonova.store.subnets import DHCP_OWNER

ATTRIBUTES = {
    **{name: policies.c[name] for name in ("id", "project_id", "object_id", "action", "target_tenant")},
    "tenant_id": policies.c.project_id,
    "object_type": sa.literal("network"),
}
_listing = Listing(policies, ATTRIBUTES, {})


def visible_to(project_id: str | None) -> Condition:
    """Its own. None: everything (an admin)."""
    return sa.true() if project_id is None else policies.c.project_id == project_id


def page(
    conn: sa.Connection, asked: Page, project_id: str | None
) -> tuple[list[RbacPolicy], bool, bool] | None:
    """Policies, more after, more before; None if the marker is unknown."""
    found = _listing.page(conn, asked, visible_to(project_id))
    return None if found is None else ([_policy(row) for row in found[0]], found[1], found[2])


def get(conn: sa.Connection, policy_id: str, project_id: str | None) -> RbacPolicy | None:
    """The policy, if that project sees it."""
    row = conn.execute(sa.select(policies).where(policies.c.id == policy_id, visible_to(project_id))).first()
    return None if row is None else _policy(row)


def of_network(conn: sa.Connection, network_id: str, action: str) -> list[RbacPolicy]:
    query = sa.select(policies).where(policies.c.object_id == network_id, policies.c.action == action)
    return [_policy(row) for row in conn.execute(query.order_by(policies.c.id))]


def insert(conn: sa.Connection, policy: RbacPolicy) -> None:
    conn.execute(sa.insert(policies), msgspec.structs.asdict(policy))


def retarget(conn: sa.Connection, policy_id: str, target: str) -> None:
    conn.execute(sa.update(policies).where(policies.c.id == policy_id).values(target_tenant=target))


def delete(conn: sa.Connection, policy_ids: Sequence[str]) -> None:
    conn.execute(sa.delete(policies).where(policies.c.id.in_(policy_ids)))


# What they mean
def named(project_id: str, *actions: str) -> Condition:
    """Of a row of ``networks``: a policy gives one of these to that project by its name."""
    return sa.exists().where(
        policies.c.object_id == networks.c.id,
        policies.c.target_tenant == project_id,
        policies.c.action.in_(actions),
    )


def users(conn: sa.Connection, network_id: str, action: str) -> set[str]:
    """The projects that use what such a policy gives."""
    if action == EXTERNAL:
        gateway = sa.select(routers.c.project_id).join(ports, ports.c.id == routers.c.gateway_port_id)
        found = [
            gateway.where(ports.c.network_id == network_id),
            sa.select(floating_ips.c.project_id).where(floating_ips.c.floating_network_id == network_id),
        ]
    else:
        found = [
            sa.select(ports.c.project_id).where(
                ports.c.network_id == network_id,
                ports.c.device_owner.not_in((DHCP_OWNER, GATEWAY_OWNER, FLOATING_OWNER)),
            ),
            sa.select(subnets.c.project_id).where(subnets.c.network_id == network_id),
        ]
    return set(conn.scalars(sa.union(*found)))


def _policy(row: sa.Row[Any]) -> RbacPolicy:
    return RbacPolicy(**row._mapping)
