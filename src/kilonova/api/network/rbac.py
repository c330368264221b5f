"""RBAC policies as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from kilonova.api.network.resources import Resource, View
from kilonova.domain.context import RequestContext
from kilonova.domain.network import RbacPolicy
from kilonova.network.builtin import rbac
from kilonova.network.builtin.requests import RbacCreate, RbacUpdate
from kilonova.store import network_rbac as store


def _views(_conn: sa.Connection, _context: RequestContext, items: Sequence[RbacPolicy]) -> list[View]:
    return [
        {
            "id": policy.id,
            "project_id": policy.project_id,
            "tenant_id": policy.project_id,
            "object_type": policy.object_type,
            "object_id": policy.object_id,
            "action": policy.action,
            "target_tenant": policy.target_tenant,
        }
        for policy in items
    ]


RBAC_POLICIES = Resource(
    name="rbac_policy",
    plural="rbac_policies",
    path="rbac-policies",
    create_body=RbacCreate,
    update_body=RbacUpdate,
    create=rbac.create,
    update=rbac.update,
    delete=rbac.delete,
    find=rbac.find,
    page=store.page,
    owners=rbac.owners,
    views=_views,
)
