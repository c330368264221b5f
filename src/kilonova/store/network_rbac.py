"""Queries about RBAC policies: with which projects networks and groups are shared, and to which a network
leads outside.

What holds of a network for everybody stands in ``networks`` too (``shared``, ``external_restricted``), where
the release before reads it, and writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.domain.network import EXTERNAL, ObjectType, RbacPolicy
from kilonova.domain.routers import FLOATING_OWNER, GATEWAY_OWNER
from kilonova.store.network_lists import Condition, Listing, Page
from kilonova.store.schema.network_rbac import address_group_rbac, security_group_rbac
from kilonova.store.schema.network_rbac import network_rbac as policies
from kilonova.store.schema.networks import networks, ports, subnets
from kilonova.store.schema.routers import floating_ips, routers
from kilonova.store.schema.security_groups import port_security_groups, security_group_rules
from kilonova.store.subnets import DHCP_OWNER

_TABLES: dict[ObjectType, sa.Table] = {
    "network": policies,
    "security_group": security_group_rbac,
    "address_group": address_group_rbac,
}
_EVERY = sa.union_all(
    *(sa.select(table, sa.literal(kind).label("object_type")) for kind, table in _TABLES.items())
).subquery("policies")
"""All policies, whatever they are about."""

_COLUMNS = ("id", "project_id", "object_type", "object_id", "action", "target_tenant")
ATTRIBUTES = {**{name: _EVERY.c[name] for name in _COLUMNS}, "tenant_id": _EVERY.c.project_id}
_listing = Listing(_EVERY, ATTRIBUTES, {})


def visible_to(project_id: str | None) -> Condition:
    """Its own. None: everything (an admin)."""
    return sa.true() if project_id is None else _EVERY.c.project_id == project_id


def page(
    conn: sa.Connection, asked: Page, project_id: str | None
) -> tuple[list[RbacPolicy], bool, bool] | None:
    """Policies, more after, more before; None if the marker is unknown."""
    found = _listing.page(conn, asked, visible_to(project_id))
    return None if found is None else ([_policy(row) for row in found[0]], found[1], found[2])


def get(conn: sa.Connection, policy_id: str, project_id: str | None) -> RbacPolicy | None:
    """The policy, if that project sees it."""
    row = conn.execute(sa.select(_EVERY).where(_EVERY.c.id == policy_id, visible_to(project_id))).first()
    return None if row is None else _policy(row)


def about(conn: sa.Connection, object_type: ObjectType, object_id: str, action: str) -> list[RbacPolicy]:
    """Those of that action about one network or group."""
    own = _TABLES[object_type]
    query = sa.select(own).where(own.c.object_id == object_id, own.c.action == action).order_by(own.c.id)
    return [RbacPolicy(**row._mapping, object_type=object_type) for row in conn.execute(query)]


def insert(conn: sa.Connection, policy: RbacPolicy) -> None:
    row = msgspec.structs.asdict(policy)
    conn.execute(sa.insert(_TABLES[row.pop("object_type")]), row)


def retarget(conn: sa.Connection, policy: RbacPolicy, target: str) -> None:
    own = _TABLES[policy.object_type]
    conn.execute(sa.update(own).where(own.c.id == policy.id).values(target_tenant=target))


def delete(conn: sa.Connection, gone: Sequence[RbacPolicy]) -> None:
    for kind, own in _TABLES.items():
        if ids := [policy.id for policy in gone if policy.object_type == kind]:
            conn.execute(sa.delete(own).where(own.c.id.in_(ids)))


# What they mean
def named(project_id: str, *actions: str) -> Condition:
    """Of a row of ``networks``: a policy gives one of these to that project by its name."""
    return sa.exists().where(
        policies.c.object_id == networks.c.id,
        policies.c.target_tenant == project_id,
        policies.c.action.in_(actions),
    )


def users(conn: sa.Connection, network_id: str, action: str) -> set[str]:
    """The projects that use what such a policy gives of a network."""
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


def users_of_group(conn: sa.Connection, group_id: str) -> set[str]:
    """The projects that have ports in that security group, or rules about it."""
    own = port_security_groups.c
    found = [
        sa.select(ports.c.project_id).where(own.port_id == ports.c.id, own.security_group_id == group_id),
        sa.select(security_group_rules.c.project_id).where(
            security_group_rules.c.remote_group_id == group_id
        ),
    ]
    return set(conn.scalars(sa.union(*found)))


def users_of_address_group(conn: sa.Connection, group_id: str) -> set[str]:
    """The projects that have rules about it."""
    rules = security_group_rules.c
    return set(conn.scalars(sa.select(rules.project_id).where(rules.remote_address_group_id == group_id)))


def _policy(row: sa.Row[Any]) -> RbacPolicy:
    return RbacPolicy(**row._mapping)
