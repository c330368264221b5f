"""What RBAC policies mean for the rows that they are about."""

from __future__ import annotations

import sqlalchemy as sa

from kilonova.domain.network import EVERYBODY, SHARED
from kilonova.store.network_lists import Condition


def share(policies: sa.Table, object_id: sa.ColumnElement[str], project_id: str | None) -> Condition:
    """One of these policies shares the thing of that id with the project (None: with everybody)."""
    targets = [EVERYBODY] if project_id is None else [EVERYBODY, project_id]
    return sa.exists().where(
        policies.c.object_id == object_id,
        policies.c.action == SHARED,
        policies.c.target_tenant.in_(targets),
    )
